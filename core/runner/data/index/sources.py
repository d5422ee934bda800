"""Which folders and files a split was made of, and whether they are still as they were.

Adding, removing or renaming a file changes the times of its folder, and changing a text file
changes the file's. What is compared is the inode, the time of modification, the time of the last
change of any kind, which no program can set, and the size. Device numbers are left out: those of
network file systems differ between machines.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Mapping

    State = tuple[int, int, int, int]

SETTLED_S = 60
"""Seconds that the last change must lie back: a second one within the same tick of the file
system's clock would not show, and clocks of machines differ."""
TIMELESS = ("fuse", "squashfs", "erofs", "cramfs", "iso9660", "romfs")
"""File systems whose folders may have made-up times: bridges to object stores, and images that are
packed with constant ones."""


@final
class Sources:
    """Folders and files, each as it was before it was read."""

    def __init__(self) -> None:
        self._began_s = time.time()
        self._states: dict[str, State | None] = {}
        self._devices: set[int] = set()
        self._doubt = ""

    @property
    def states(self) -> Mapping[str, State | None]:
        """State of each by its absolute path; ``None`` of what was not there."""
        return self._states

    def note(self, path: str | Path, status: os.stat_result | None = None) -> None:
        """Note a folder or file that is about to be read.

        Args:
            path: The folder or file; it may be missing.
            status: What the system says of it, if it was asked already.
        """
        absolute = os.path.abspath(path)  # noqa: PTH100  links stay
        status = status or _status(absolute)
        self._states[absolute] = _state(status) if status else None
        if status:
            self._devices.add(status.st_dev)

    def doubt(self, reason: str) -> None:
        """Note that what was read may change without a trace."""
        self._doubt = self._doubt or reason

    def doubts(self) -> str:
        """Say why a change could go unnoticed; "" if none could."""
        if self._doubt:
            return self._doubt
        for path, state in self._states.items():
            if state is None:
                continue
            modified, changed = state[1], state[2]
            if modified <= 0:
                return f"{path} has no time of modification"
            if max(modified, changed) > (self._began_s - SETTLED_S) * 1e9:
                return f"{path} has changed in the last {SETTLED_S} s"
        types = _file_systems()
        for device in self._devices:
            kind = types.get(f"{os.major(device)}:{os.minor(device)}", "")
            if kind.startswith(TIMELESS):
                return f"folders of a {kind} file system may have made-up times"
        return ""


def changed(states: Mapping[str, State | None]) -> str:
    """Return the first path that is not as it was; "" if all are."""
    for path, state in states.items():
        status = _status(path)
        if (_state(status) if status else None) != (state and tuple(state)):
            return path
    return ""


def _status(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)  # noqa: PTH116  called for every folder
    except OSError:  # such as a name that is too long; what can be listed can be looked at
        return None


def _state(status: os.stat_result) -> State:
    return status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size


def _file_systems() -> dict[str, str]:
    """Return the type of each mounted file system by its device, where the kernel tells."""
    try:
        lines = Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return {}
    # "36 35 98:0 /root /mount options [optional fields] - type source options"
    return {line.split()[2]: line.partition(" - ")[2].split()[0] for line in lines}

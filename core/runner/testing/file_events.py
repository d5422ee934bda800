"""Ends this process at one of its file events, for tests of what it leaves behind.

A file event is what changes a folder: a file that is opened to be written, renamed or removed, a
folder that is made or removed, and each ``fsync``. Hooks of the interpreter cannot be taken out
again, so only a process that is to end anyway may be armed: a child.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Literal, final

if TYPE_CHECKING:
    from typing import Any

ONE_PATH = {"os.remove": 1, "os.mkdir": 2, "os.rmdir": 1}
"""Events of one path, and which of their arguments is the folder that it begins in."""
Way = Literal["before", "torn", "full"]
"""How it ends: killed before the event; killed, with half of the file that is flushed; or nothing
can be written from there on, as on a disk that is full."""
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


@final
class FileEvents:
    """Counts the file events of this process below a folder, and does harm at one of them."""

    def __init__(self, folder: Path, log: Path, at: int | None = None, way: Way = "before") -> None:
        """Begin to count.

        Args:
            folder: Where events count.
            log: Receives a line for each.
            at: The event, counted from 1, that does not happen.
            way: What happens in its place.
        """
        self._folder = str(folder.resolve())
        self._at, self._way = at, way
        self._count = 0
        self._lock = threading.Lock()
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._fsync = os.fsync
        os.fsync = self._flush  # type: ignore[assignment]  # core flushes descriptors
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            if (mode and any(letter in mode for letter in "wax+")) or (flags or 0) & WRITES:
                self._meet("open", path, None)
        elif event == "os.rename":
            self._meet("rename", arguments[1], arguments[3])
        elif event in ONE_PATH:
            self._meet(event.removeprefix("os."), arguments[0], arguments[ONE_PATH[event]])

    def _flush(self, descriptor: int) -> None:
        self._meet("fsync", descriptor, None)
        self._fsync(descriptor)

    def _meet(self, what: str, path: Any, folder: int | None) -> None:
        place = _absolute(path, folder)
        if place is None or not place.startswith(self._folder):
            return
        with self._lock:
            self._count += 1
            os.write(self._log, f"{what} {place[len(self._folder) :]}\n".encode())
            met = self._at is not None and self._count >= self._at
        if met and self._way == "full":
            if what not in ("remove", "rmdir"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), place)
        elif met:
            if self._way == "torn" and what == "fsync" and Path(place).is_file():
                os.truncate(place, Path(place).stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
            signal.pause()  # it comes between two instructions


def _absolute(path: Any, folder: int | None) -> str | None:
    """Return the absolute path of what an event names, or of what a descriptor stands for."""
    if isinstance(path, int):
        return str(Path(f"/proc/self/fd/{path}").readlink())
    if not isinstance(path, (str, bytes, os.PathLike)):
        return None
    place = Path(os.fsdecode(path))
    if folder is not None and folder >= 0:  # a path that is absolute stays what it is
        place = Path(f"/proc/self/fd/{folder}").readlink() / place
    return str(place.absolute())

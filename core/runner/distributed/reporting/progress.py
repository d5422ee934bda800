"""How a process shows that it still makes progress, and what it is doing.

Each process has a small file next to the status file, which it maps into its memory: marking
progress costs less than a microsecond. The parent reads the files from time to time.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from runner.errors import StorageError

if TYPE_CHECKING:
    from pathlib import Path

_MARK = struct.Struct("=Qd")
_TEXT = struct.Struct("=64s")
_SIZE = _MARK.size + _TEXT.size


@final
class Progress:
    """Marks the progress of this process."""

    def __init__(self, status: Path | None) -> None:
        """Open the file of this process.

        Args:
            status: The file in which processes report; ``None`` where nobody looks at progress.

        Raises:
            StorageError: It cannot be written.
        """
        self._marks = 0
        self._map = _open(file_of(status, os.getpid())) if status else None

    def mark(self) -> None:
        """Note that the process has taken a step that every process takes."""
        if self._map is not None:
            self._marks += 1
            self.show()

    def show(self) -> None:
        """Note that the process works, on something that the others may have more or less of."""
        if self._map is not None:
            # of the whole machine, so that other processes can compare it with theirs
            _MARK.pack_into(self._map, 0, self._marks, time.monotonic())

    def begin(self, activity: str) -> None:
        """Note that the process turns to something else, such as ``saving step 100``."""
        if self._map is not None:
            _TEXT.pack_into(self._map, _MARK.size, activity.encode()[: _TEXT.size])
            self.mark()


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a process has shown last."""

    marks: int
    """Steps so far; a process that has fewer than the others is the one that they wait for."""
    time: float
    """``time.monotonic()`` when it was seen to work last."""
    activity: str


def file_of(status: Path, process: int) -> Path:
    """Return the file of a process."""
    return status.with_name(f"progress.{process}")


def look(status: Path, process: int) -> Seen | None:
    """Return what a process has shown; ``None`` if it has not begun to."""
    try:
        data = file_of(status, process).read_bytes()
    except OSError:
        return None
    if len(data) < _SIZE:
        return None
    marks, moment = _MARK.unpack_from(data)
    [text] = _TEXT.unpack_from(data, _MARK.size)
    return Seen(marks=marks, time=moment, activity=text.rstrip(b"\0").decode(errors="replace"))


def _open(path: Path) -> mmap.mmap:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            # On a full disk this fails; the first mark would end the process without a word.
            os.posix_fallocate(descriptor, 0, _SIZE)
            return mmap.mmap(descriptor, _SIZE)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror}; make room there, or set TMPDIR to another "
            "folder of this machine"
        ) from error

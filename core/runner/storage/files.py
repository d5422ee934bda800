"""Writing files so that they are complete or not there, and recognising them again."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import stat
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from runner.errors import StorageError, UsageError
from runner.storage import paths

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Any, BinaryIO


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to; put it in place of ``path`` when all went well.

    Raises:
        StorageError: The disk is full or the folder cannot be written; ``path`` is untouched.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.unlink(missing_ok=True)  # a link would be written through
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Keep other processes from working in a folder at the same time.

    Raises:
        UsageError: Another process does.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems have no locks
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UsageError(f"another process is working in {folder}; wait for it") from None
        yield
    finally:
        os.close(descriptor)


def write_json(path: Path, data: Any) -> None:
    """Write JSON atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def write_output(path: Path, text: str) -> None:
    """Write to where the user said: a file, a link to one, or a device.

    Names that are no UTF-8 are written as the bytes that they have on the disk.

    Raises:
        StorageError: It cannot be written.
    """
    try:
        path.write_text(text, "utf-8", "surrogateescape")
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error


def write_through(path: Path, data: bytes) -> None:
    """Write bytes, and return when they are on the disk.

    Raises:
        OSError: It is full, or fails.
    """
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_bytes(path: Path, data: bytes) -> None:
    """Write bytes atomically."""
    with atomic_write(path) as temporary:
        write_through(temporary, data)


def write_text(path: Path, text: str) -> None:
    """Write text atomically."""
    with atomic_write(path) as temporary:
        write_through(temporary, text.encode("utf-8", "surrogateescape"))


def end_cut_line(path: Path) -> None:
    """Keep the line that a killed process left unfinished apart from the next one."""
    if not path.exists() or not path.stat().st_size:
        return
    with path.open("rb+") as file:
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            file.write(b"\n")


def remove(path: Path) -> None:
    """Remove a file, if it is there.

    Raises:
        StorageError: It cannot be removed.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"cannot remove {path}: {error.strerror or error}") from error


def remove_folder(path: Path) -> None:
    """Remove a folder as far as that is possible; of a link to one the link."""
    with suppress(OSError):
        if path.is_symlink():
            path.unlink()  # what it points to is not ours
        shutil.rmtree(path, ignore_errors=True)


def replace_folder(new: Path, folder: Path, aside: Path) -> None:
    """Rename ``new`` to ``folder``; an earlier one is removed once that is done.

    A process that is killed meanwhile leaves the earlier one as ``aside``.

    Raises:
        OSError: It cannot be renamed; the earlier one is where it was.
    """
    earlier = os.path.lexists(folder)
    if earlier:
        remove_folder(aside)  # left by a process that was killed when it had replaced it
        folder.rename(aside)
    try:
        new.rename(folder)
    except OSError:
        if earlier:
            aside.rename(folder)
        raise
    sync(folder.parent)
    remove_folder(aside)


STAND_IN_BYTES = 64
"""Bytes at the beginning of a file that ``stand_in`` needs."""


def stand_in(start: bytes) -> str:
    """Say what has taken the place of a file on its way here; "" if that is not known.

    Args:
        start: How the file begins, with ``STAND_IN_BYTES`` bytes or all that it has.
    """
    text = start.lstrip().lower()
    if text.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS in the place of the file, which `git lfs pull` fetches"
    if text.startswith((b"<!doctype html", b"<html")):
        return "a web page, as a download that was refused leaves; download the file anew"
    return ""


def read_regular(path: Path, limit: int) -> bytes:
    """Read a file of at most ``limit`` bytes; pipes and devices are refused, not waited for.

    Raises:
        OSError: It cannot be read, is not a regular file, or is larger.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise OSError(errno.EFBIG, f"{size:,} bytes, expected at most {limit:,}", str(path))
        return file.read()


def open_regular(path: str | Path) -> BinaryIO:
    """Open a file to read it; links are followed, but pipes and devices refused.

    Raises:
        OSError: It cannot be read, or is not a regular file.
    """
    # without O_NONBLOCK the call waits until somebody writes to a pipe
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        number = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
        raise OSError(number, f"{paths.kind_of(mode)}, expected a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def sync(path: Path) -> None:
    """Make sure that a file or folder has reached the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()

"""ZIP archives from strangers, looked at before a library unpacks them."""

from __future__ import annotations

import stat
import zipfile
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

LARGEST_RATIO = 100
"""Bytes that one byte of an archive may unpack to, on average; what models hold packs badly."""
ALWAYS_ALLOWED = 1 << 28
"""Bytes that any archive may unpack to."""


def check(path: Path) -> None:
    """Check the members of a file if it is a ZIP archive; other files are left alone.

    Raises:
        ValueError: A member would be written outside the folder that it is unpacked in, is a link,
            has the name of another, or the archive unpacks to far more than it holds.
        OSError: The file cannot be read.
    """
    try:
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"{path} is a damaged archive: {error}") from error
    for member in members:
        _check_member(member, path)
    _check_twice((member.filename for member in members), path)
    unpacked, size = sum(member.file_size for member in members), path.stat().st_size
    if unpacked > max(ALWAYS_ALLOWED, LARGEST_RATIO * size):
        raise ValueError(f"{path} has {size:,} bytes and would unpack to {unpacked:,}")


def _check_member(member: zipfile.ZipInfo, path: Path) -> None:
    name = member.filename
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if not parts or parts[0] == "/" or ".." in parts or ":" in parts[0]:
        raise ValueError(f"{path} holds {name!r}, which would be written outside its folder")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise ValueError(f"{path} holds the link {name!r}")


def _check_twice(names: Iterable[str], path: Path) -> None:
    """Refuse names that differ in case at most: readers disagree on which of two they take."""
    seen: set[str] = set()
    for name in names:
        if name.casefold() in seen:
            raise ValueError(f"{path} holds {name!r} twice")
        seen.add(name.casefold())

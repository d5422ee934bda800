"""Names from records, artifacts and recipes, turned into paths that stay where they belong."""

from __future__ import annotations

import stat
import unicodedata
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from runner.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

LONGEST = 255
"""Bytes of one name; what most file systems take."""


def inside(folder: Path, name: str) -> Path:
    """Return the regular file or folder below ``folder`` that a record names.

    Nothing needs to be there yet. ``folder`` itself is the user's own word, and may be a link.

    Raises:
        ValueError: The name is absolute, leaves the folder, passes a link, or is something that
            is neither a regular file nor a folder.
    """
    path = folder
    for part in _parts(name):
        path /= part
        try:
            mode = path.lstat().st_mode
        except FileNotFoundError:
            continue
        if stat.S_ISLNK(mode):
            raise ValueError(f"{name!r} passes the link {path}; expected a file or folder itself")
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise ValueError(f"{name!r} is {kind_of(mode)}; expected a regular file or a folder")
    return path


def file_in(folder: Path, name: str) -> Path:
    """Return the regular file below ``folder`` that a record names.

    Raises:
        ValueError: As ``inside`` does, or it is a folder.
        OSError: It is not there.
    """
    path = inside(folder, name)
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError(f"{name!r} is a folder; expected a regular file")
    return path


def check_name(name: str) -> str:
    """Return ``name`` if it can be the name of a file or folder that is made.

    Raises:
        ValueError: It is empty, begins with a dot or a hyphen, holds a slash or a control
            character, or is too long.
    """
    if not name or name[0] in ".-" or "/" in name or _has_controls(name):
        raise ValueError(
            f"{name!r} cannot name a file or folder; expected a name without slashes and control "
            "characters that does not begin with a dot or a hyphen"
        )
    length = len(name.encode("utf-8", "surrogateescape"))
    if length > LONGEST:
        raise ValueError(f"a name of {length} bytes is too long; expected at most {LONGEST}")
    return name


def check_there(path: Path, expected: str) -> None:
    """Refuse a user's path at which there is neither a regular file nor a folder.

    Args:
        path: The path; links are followed.
        expected: What should be there.

    Raises:
        UsageError: What is there instead, or why nothing is.
    """
    found = ""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        found = "does not exist"
    except OSError as error:
        found = f"cannot be looked at ({error.strerror})"
    else:
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            found = f"is {kind_of(mode)}"
    if found:
        raise UsageError(f"{path} {found}; expected {expected}{_hint(path)}")


def _hint(path: Path) -> str:
    """Say why a path may be another than the user thinks."""
    first = path.parts[0] if path.parts else ""
    if first in ("http:", "https:"):
        return "; nothing is downloaded, so fetch the file first"
    return "; ~ stands for a home directory in a shell only, unquoted" if first[:1] == "~" else ""


def kind_of(mode: int) -> str:
    """Name what a file system object is, given its mode."""
    kinds = (
        (stat.S_ISLNK, "a link"),
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISREG, "a regular file"),
        (stat.S_ISFIFO, "a named pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
    )
    return next((name for test, name in kinds if test(mode)), "of an unknown kind")


def _parts(name: str) -> tuple[str, ...]:
    if not name or _has_controls(name):
        raise ValueError(f"{name!r} is not a path; expected a name inside the folder")
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError(f"{name!r} leaves the folder; expected a path inside it")
    return path.parts


def _has_controls(name: str) -> bool:
    return any(unicodedata.category(letter) == "Cc" for letter in name)

"""Whether the images that a list names are there."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from runner.data.layouts.images import IMAGE_ENDINGS
from runner.data.layouts.label_file import line_of, shortened
from runner.errors import DataError
from runner.storage.lookalikes import alike

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from runner.data.index.sources import Sources

_FEW = 32
"""Names in a folder for which looking for each is faster than listing the folder."""


def check_present(
    base: Path, paths: Sequence[str], file: Path, noted: Sources, *, root: Path
) -> None:
    """Refuse a list that names images which are not there.

    Each folder is listed once, because asking for a million files takes minutes over a network.

    Args:
        base: Where the paths start.
        paths: What the list names, in its order.
        file: The list.
        noted: Learns which folders the answer depends on.
        root: The dataset's root, for the advice.

    Raises:
        DataError: Files are missing; the first is named with its line, and what may be the cause.
    """
    missing = {
        folder + name
        for folder, names in _by_folder(paths).items()
        for name in _missing(base / folder, names, noted)
    }
    if not missing:
        return
    position = next(at for at, path in enumerate(paths) if path in missing)
    path, more = paths[position], len(missing) - 1
    others = f", nor are {more} others of the list" if more else ""
    raise DataError(
        f"{file}:{line_of(file, position)}: the image {shortened(path)!r} is not there"
        f"{others}: looked for {shortened(str(base / path))}; {cause_of(base, path, root)}"
    )


def _by_folder(paths: Sequence[str]) -> Mapping[str, set[str]]:
    folders: dict[str, set[str]] = {}
    for path in paths:
        folder, slash, name = path.rpartition("/")
        folders.setdefault(folder + slash, set()).add(name)
    return folders


def _missing(folder: Path, names: set[str], noted: Sources) -> set[str]:
    noted.note(folder)
    asked = names
    if len(names) > _FEW:
        with suppress(OSError):  # a folder that may be entered and not listed, for one
            there = set(os.listdir(folder))  # noqa: PTH208  names in one call
            asked = {name for name in names if not name.lower().endswith(IMAGE_ENDINGS)}
            asked |= names - there
    return {name for name in asked if not _is_file(folder / name)}


def _is_file(path: Path) -> bool:
    return exists(path) and not path.is_dir()


def exists(path: Path) -> bool:
    """Say whether there is something; nothing can be where no name can be so long."""
    try:
        return path.exists()
    except OSError:
        return False


def cause_of(base: Path, path: str, root: Path) -> str:
    """Say why an image is missing and what to change, as far as that can be seen."""
    if exists(base / path):
        return "it is a folder, expected an image"
    if "\\" in path and exists(base / path.replace("\\", "/")):
        return "paths are written with /: change them with sed -i 's#\\\\#/#g' FILE"
    *before, last = path.split()
    if before and last.isdigit() and exists(base / " ".join(before)):
        return "expected one label in a line, and there are several"
    look_alike = _look_alike(base, path)
    if look_alike:
        return look_alike
    for parent in (root.absolute().parent, *(root / name for name in ("train", "val"))):
        if exists(parent / path):
            return f"it is {parent / path}: the paths of the list seem to start at {parent}"
    return f"expected paths that start at {base}; correct the list, or dataset.root"


def _look_alike(folder: Path, path: str) -> str:
    """Follow a path as far as it goes, and say what the part that is missing looks like."""
    for part in path.split("/"):
        if not exists(folder / part):
            try:
                return alike(part, os.listdir(folder))  # noqa: PTH208
            except OSError:
                return ""
        folder /= part
    return ""

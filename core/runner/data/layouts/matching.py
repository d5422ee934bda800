"""Images and the lines of a list that are about them, one to one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.data.layouts.images import IMAGE_ENDINGS, shown
from runner.data.layouts.label_file import line_of
from runner.errors import DataError
from runner.storage.lookalikes import same_looking
from runner.terminal.display import counted

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from runner.data.layouts.label_file import Labelled

CONVERTED = (".bin", ".npy", ".raw")
"""Endings of images that were converted to pixels, whose lists are used for the images as well."""


def match(
    paths: Sequence[str], lines: Labelled, folder: Path, file: Path, extensions: tuple[str, ...]
) -> list[int]:
    """Return the label of each image.

    Args:
        paths: Images below ``folder``.
        lines: What the list says.
        folder: Where they are.
        file: The list.
        extensions: Endings of images, in lower case.

    Raises:
        DataError: An image has no line, or several, or a line has no image.
    """
    names, labels = lines
    exact = dict(zip(names, labels, strict=True))
    if len(exact) == len(names) and exact.keys() == set(paths):
        return [exact[path] for path in paths]
    endings = tuple({*IMAGE_ENDINGS, *CONVERTED, *extensions})
    of_images = _images_by_key(paths, folder, endings)
    of_lines = _lines_by_key(lines, file, endings)
    _check_matched(of_images, of_lines, paths, names, folder=folder, file=file)
    return [labels[of_lines[key]] for key in of_images]


def _key(path: str, endings: tuple[str, ...]) -> str:
    """Return a file's name without its ending, if it has one of these."""
    name = path.rpartition("/")[2]
    lower = name.lower()
    found = max((ending for ending in endings if lower.endswith(ending)), key=len, default="")
    return name[: len(name) - len(found)]


def _images_by_key(paths: Sequence[str], folder: Path, endings: tuple[str, ...]) -> dict[str, int]:
    by_key: dict[str, int] = {}
    for position, path in enumerate(paths):
        first = by_key.setdefault(_key(path, endings), position)
        if first != position:
            raise DataError(
                f"{folder} has {paths[first]} and {path}, which a list without endings cannot "
                "tell apart; expected a line with the whole name for each image, or other names"
            )
    return by_key


def _lines_by_key(lines: Labelled, file: Path, endings: tuple[str, ...]) -> dict[str, int]:
    names, labels = lines
    by_key: dict[str, int] = {}
    for position, name in enumerate(names):
        key = _key(name, endings)
        first = by_key.setdefault(key, position)
        if first != position:
            raise DataError(
                f"{file} gives {key!r} the labels {labels[first]} and {labels[position]}, in the "
                f"lines {line_of(file, first)} ({names[first]}) and {line_of(file, position)} "
                f"({name}); expected one line for each image"
            )
    return by_key


def _check_matched(
    of_images: dict[str, int],
    of_lines: dict[str, int],
    paths: Sequence[str],
    names: Sequence[str],
    *,
    folder: Path,
    file: Path,
) -> None:
    unlabelled = sorted(of_images.keys() - of_lines.keys())
    missing = sorted(of_lines.keys() - of_images.keys())
    hint = same_looking(missing[:100], unlabelled)
    if unlabelled:
        images = shown(paths[of_images[key]] for key in unlabelled)
        raise DataError(
            f"images in {folder} without a line in {file}: {images}{hint}; a line has the whole "
            "name of the image, with or without its ending"
        )
    if missing:
        first = line_of(file, min(of_lines[key] for key in missing))
        raise DataError(
            f"{folder} lacks {counted(len(missing), 'image')} of {file}: "
            f"{shown(names[of_lines[key]] for key in missing)} (the first in line {first}){hint}; "
            "copy them there, or remove their lines"
        )

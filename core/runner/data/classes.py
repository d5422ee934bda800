"""Which classes a split may have."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from runner.data.image_files import ImageFiles
from runner.data.layouts.images import shown

if TYPE_CHECKING:
    from runner.contracts import Dataset


def only_one(dataset: Dataset, declared: int | None) -> str:
    """Say that a split has one class, of which every answer is right.

    Args:
        dataset: The split.
        declared: The number of classes that the recipe declares, if it does.

    Returns:
        "" if there are several classes, or one is declared.
    """
    if len(dataset.classes) != 1 or declared == 1:
        return ""
    [name] = dataset.classes
    inner = _folders_below(dataset)
    found = (
        f"{inner[0]} is the only class, and holds nothing but folders: {shown(inner[1])}; if these "
        "are the classes, the images lie one folder deeper than the recipe says: set dataset.train "
        f"and dataset.val, such as --set dataset.train=train/{name} --set dataset.val=val/{name}"
        if inner
        else f"the data has one class, {name!r}, so there is nothing to learn and every answer is "
        "right; expected two or more"
    )
    return f"{found} (if one class is what you want, set dataset.num_classes: 1)"


def same_inside(dataset: ImageFiles) -> str:
    """Say that all class folders hold the same folders and nothing else: these may be the classes.

    Args:
        dataset: A split.

    Returns:
        "" if it is otherwise.
    """
    inside: dict[str, set[str]] = {}
    for folder in dataset.paths.folders:
        name, _, below = folder.partition("/")
        inside.setdefault(name, set()).add(below.split("/", 1)[0])
    first = next(iter(inside.values()), set())
    few = min(len(inside), len(first)) < 2
    if few or "" in first or set(inside) != set(dataset.classes):
        return ""
    if any(names != first for names in inside.values()):
        return ""
    return (
        f"each folder in {dataset.folder} holds the same folders and no image of its own: "
        f"{shown(sorted(first))}; if these are the classes, set dataset.train and dataset.val to "
        f"a folder below, such as {Path(dataset.folder).name}/{next(iter(inside))}"
    )


def _folders_below(dataset: Dataset) -> tuple[str, list[str]] | None:
    """Return the only class folder and the folders in it, if no image lies in itself."""
    if not isinstance(dataset, ImageFiles):
        return None
    own = dataset.classes[0] + "/"
    below = [name.removeprefix(own) for name in dataset.paths.folders]
    if not all(name and name != own for name in below):
        return None
    if not all(name.startswith(own) for name in dataset.paths.folders):
        return None
    return f"{dataset.folder}/{own[:-1]}", sorted({name.split("/", 1)[0] for name in below})

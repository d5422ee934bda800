"""Images in one folder per class."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from runner.data.images import (
    ImageFiles,
    existing_folder,
    known_extensions,
    list_images,
    shown,
    split_folder,
    subfolders,
)
from runner.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from runner.data.plugin import ClassFoldersOptions


def open_class_folders(config: ClassFoldersOptions, split: str) -> ImageFiles:
    """Open ``<root>/<split folder>/<class>/<image>``.

    The label of a class is the rank of its folder's name, sorted by code point, as in
    torchvision's ``ImageFolder``. Folders below a class folder belong to the class. Where both
    splits exist they must have the same class folders, because labels would differ otherwise.

    Raises:
        DataError: A folder is missing or has no images, or the splits have different classes.
    """
    names = {"train": config.train, "val": config.val}
    name = split_folder(names, split)
    root = existing_folder(config.root, "dataset root", "dataset.root")
    folder = existing_folder(root / name, f"folder of the {split} images", "dataset.root")
    classes = subfolders(folder)
    if not classes:
        raise DataError(
            f"{folder} has no class folders; expected {folder}/<class>/<image>, one folder per "
            "class (for images without class folders, see dataset.name: flat_val_label)"
        )
    other = names["val" if split == "train" else "train"]
    if (root / other).is_dir():
        _check_same_classes(folder, classes, root / other)
    return _read_classes(folder, classes, known_extensions(config.extensions))


def _check_same_classes(folder: Path, classes: list[str], other: Path) -> None:
    here, there = set(classes), set(subfolders(other))
    if here == there:
        return
    differences = [
        f"{a} has {shown(sorted(extra))}, {b} has not"
        for a, b, extra in ((folder, other, here - there), (other, folder, there - here))
        if extra
    ]
    raise DataError(
        f"the splits have different classes, {len(here)} and {len(there)}: "
        f"{'; '.join(differences)}. A label is the rank of its folder's name, so labels would not "
        "agree; add the missing folders or remove the extra ones"
    )


def _read_classes(folder: Path, classes: list[str], extensions: tuple[str, ...]) -> ImageFiles:
    paths: list[str] = []
    counts: list[int] = []
    # Files beside the class folders, such as a README, are counted as well.
    ignored = sum(1 for entry in folder.iterdir() if not _hidden(entry) and not entry.is_dir())
    for name in classes:
        found, left = list_images(str(folder / name), f"{name}/", extensions)
        paths += found
        counts.append(len(found))
        ignored += left
    empty = [name for name, count in zip(classes, counts, strict=True) if count == 0]
    if empty:
        raise DataError(
            f"class folders without images in {folder}: {shown(empty)}; expected files ending in "
            f"{', '.join(extensions)}. Add images, remove the folders from both splits, or set "
            "dataset.extensions"
        )
    return ImageFiles(
        folder=str(folder),
        paths=paths,
        labels=np.repeat(np.arange(len(classes), dtype=np.int64), counts),
        classes=classes,
        ignored_files=ignored,
    )


def _hidden(entry: Path) -> bool:
    return entry.name.startswith(".")

"""Images in one folder per class."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.data.images import (
    existing_folder,
    folders_and_others,
    known_extensions,
    list_images,
    shown,
    split_folder,
)
from runner.data.index import Listing, Part, open_image_files
from runner.data.index_file import Key
from runner.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from runner.data.image_files import ImageFiles
    from runner.data.plugin import ClassFoldersOptions
    from runner.data.sources import Sources


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
    other = root / names["val" if split == "train" else "train"]
    extensions = known_extensions(config.extensions)
    return open_image_files(
        Key(layout="class_folders", paths=(folder, other), options=extensions),
        lambda noted: _list(folder, other, extensions, noted),
    )


def _list(folder: Path, other: Path, extensions: tuple[str, ...], noted: Sources) -> Listing:
    classes, ignored = folders_and_others(str(folder), noted)
    if not classes:
        raise DataError(
            f"{folder} has no class folders; expected {folder}/<class>/<image>, one folder per "
            "class (for images without class folders, see dataset.name: flat_val_label)"
        )
    noted.note(other)
    if other.is_dir():
        _check_same_classes(folder, classes, other, noted)
    parts = _read_classes(folder, classes, extensions, ignored, noted)
    return Listing(folder=str(folder), classes=classes, parts=parts)


def _check_same_classes(folder: Path, classes: list[str], other: Path, noted: Sources) -> None:
    here, there = set(classes), set(folders_and_others(str(other), noted)[0])
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


def _read_classes(
    folder: Path, classes: list[str], extensions: tuple[str, ...], ignored: int, noted: Sources
) -> Iterator[Part]:
    """List class after class.

    Args:
        folder: Where the class folders are.
        classes: Their names.
        extensions: Endings of images, in lower case.
        ignored: Files beside the class folders, such as a README, which are counted as well.
        noted: Learns what is listed.
    """
    empty = []
    for label, name in enumerate(classes):
        paths, left = list_images(str(folder / name), "", extensions, noted=noted)
        yield Part(prefix=f"{name}/", paths=paths, labels=label, ignored=left + ignored)
        ignored = 0
        if not paths:
            empty.append(name)
    if empty:
        raise DataError(
            f"class folders without images in {folder}: {shown(empty)}; expected files ending in "
            f"{', '.join(extensions)}. Add images, remove the folders from both splits, or set "
            "dataset.extensions"
        )

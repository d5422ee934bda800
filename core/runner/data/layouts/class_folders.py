"""Images in one folder per class."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.data.index.file import Key
from runner.data.index.listing import Listing, Part, open_image_files
from runner.data.layouts.images import (
    existing_folder,
    folders_and_others,
    known_extensions,
    list_images,
    shown,
    split_folder,
    visit,
)
from runner.errors import DataError
from runner.storage.lookalikes import same_looking

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from runner.data.image_files import ImageFiles
    from runner.data.index.sources import Sources
    from runner.data.layouts.options import ClassFoldersOptions


def open_class_folders(config: ClassFoldersOptions, split: str) -> ImageFiles:
    """Open ``<root>/<split folder>/<class>/<image>``.

    The label of a class is the rank of its folder's name, sorted by code point, as in
    torchvision's ``ImageFolder``. Folders below a class folder belong to the class. Where both
    splits exist they must have the same class folders, because labels would differ otherwise;
    with ``missing_classes``, those of the validation split may be some of them.

    Raises:
        DataError: A folder is missing, has no images or is listed twice, or the splits have
            different classes.
    """
    names = {"train": config.train, "val": config.val}
    name = split_folder(names, split)
    root = existing_folder(config.root, "dataset root", "dataset.root")
    folder = existing_folder(root / name, f"folder of the {split} images", "dataset.root")
    other = root / names["val" if split == "train" else "train"]
    extensions = known_extensions(config.extensions)
    some = [split] if config.missing_classes else []
    return open_image_files(
        Key(layout="class_folders", paths=(folder, other), options=[*extensions, *some]),
        lambda noted: _list(folder, other, extensions, noted, fewer=split if some else ""),
    )


def _list(
    folder: Path, other: Path, extensions: tuple[str, ...], noted: Sources, *, fewer: str
) -> Listing:
    """List a split.

    Args:
        folder: Where its class folders are.
        other: Where those of the other split are, if it is there.
        extensions: Endings of images, in lower case.
        noted: Learns what is listed.
        fewer: The name of this split if the validation split may have fewer classes, else "".
    """
    classes, ignored = folders_and_others(str(folder), noted)
    if not classes:
        raise DataError(
            f"{folder} has no class folders; expected {folder}/<class>/<image>, one folder per "
            "class (for images without class folders, see dataset.name: flat_val_label)"
        )
    visited: dict[tuple[int, int], str] = {}  # of all classes, so that none is listed as two
    for name in classes:
        visit(str(folder / name), visited, noted)
    noted.note(other)
    if other.is_dir():
        there = folders_and_others(str(other), noted)[0]
        train, val = (there, classes) if fewer == "val" else (classes, there)
        if not fewer or not set(val) <= set(train):
            _check_same_classes(folder, classes, other, there)
        elif fewer:
            classes = train
    else:
        there = []
    parts = _read_classes(
        folder,
        classes,
        extensions,
        ignored,
        noted,
        visited=visited,
        may_lack=fewer == "val",
        lacking_there=lambda: _lacking(other, there, extensions, may_lack=fewer == "train"),
    )
    return Listing(folder=str(folder), classes=classes, parts=parts)


def _check_same_classes(folder: Path, classes: list[str], other: Path, others: list[str]) -> None:
    here, there = set(classes), set(others)
    if here == there:
        return
    if folder > other:  # the same words for both splits, which are then said once
        folder, other, here, there = other, folder, there, here
    extra_here, extra_there = sorted(here - there), sorted(there - here)
    differences = [
        f"{a} has {shown(sorted(extra))}, {b} has not"
        for a, b, extra in ((folder, other, here - there), (other, folder, there - here))
        if extra
    ]
    raise DataError(
        f"the splits have different classes, {len(here)} and {len(there)}: "
        f"{'; '.join(differences)}{same_looking(extra_here, extra_there)}. A label is the rank of "
        "its folder's name, so labels would not agree; add the missing folders or remove the extra "
        "ones (if only the validation split lacks classes, dataset.missing_classes: true allows it)"
    )


def _read_classes(
    folder: Path,
    classes: list[str],
    extensions: tuple[str, ...],
    ignored: int,
    noted: Sources,
    *,
    visited: dict[tuple[int, int], str],
    may_lack: bool,
    lacking_there: Callable[[], list[str]],
) -> Iterator[Part]:
    """List class after class.

    Args:
        folder: Where the class folders are.
        classes: Their names.
        extensions: Endings of images, in lower case.
        ignored: Files beside the class folders, such as a README, which are counted as well.
        noted: Learns what is listed.
        visited: Folders that were listed, or are about to be, by device and inode.
        may_lack: Whether a class may have no images, or no folder.
        lacking_there: Says what the other split lacks, so that both splits are refused in the same
            words, which are then said once.
    """
    empty = []
    for label, name in enumerate(classes):
        if may_lack and not (folder / name).is_dir():
            continue
        paths, left = list_images(str(folder / name), "", extensions, noted=noted, visited=visited)
        yield Part(prefix=f"{name}/", paths=paths, labels=label, ignored=left + ignored)
        ignored = 0
        if not paths:
            empty.append(name)
    lacking = _refused(folder, empty, classes, may_lack=may_lack)
    if lacking:
        raise DataError(
            f"class folders without images in {'; in '.join(sorted(lacking + lacking_there()))}; "
            f"expected files ending in {', '.join(extensions)}. Add images, remove the folders "
            "from both splits, set dataset.extensions, or, for classes without validation images, "
            "dataset.missing_classes: true"
        )


def _lacking(
    folder: Path, classes: list[str], extensions: tuple[str, ...], *, may_lack: bool
) -> list[str]:
    """Name the class folders of the other split without images, if that is refused."""
    try:
        empty = [x for x in classes if not list_images(str(folder / x), "", extensions)[0]]
    except DataError:  # which that split says itself
        return []
    return _refused(folder, empty, classes, may_lack=may_lack)


def _refused(folder: Path, empty: list[str], classes: list[str], *, may_lack: bool) -> list[str]:
    wrong = empty and (not may_lack or len(empty) == len(classes))
    return [f"{folder}: {shown(empty)}"] if wrong else []

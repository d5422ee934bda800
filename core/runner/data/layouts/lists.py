"""Images whose labels stand in text files."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from runner.data.index.file import Key
from runner.data.index.listing import Listing, Part, open_image_files
from runner.data.layouts.class_names import check_no_header, line_of_name, read_class_names
from runner.data.layouts.images import (
    SHOWN,
    existing_folder,
    known_extensions,
    list_images,
    shown,
    split_folder,
)
from runner.data.layouts.label_file import line_of, read_list
from runner.data.layouts.matching import match
from runner.data.layouts.missing import cause_of, check_present, exists
from runner.errors import DataError
from runner.storage.lookalikes import same_looking
from runner.terminal.display import counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence, Set

    from runner.data.image_files import ImageFiles
    from runner.data.index.sources import Sources
    from runner.data.layouts.label_file import Labelled
    from runner.data.layouts.options import (
        ClassFoldersWithListsOptions,
        FlatValLabelOptions,
        ListFileOptions,
    )

MAX_UNNAMED_CLASSES = 100_000
"""A label file may skip labels; above this many classes more than it has lines, it is wrong."""


def open_class_folders_with_lists(config: ClassFoldersWithListsOptions, split: str) -> ImageFiles:
    """Open class folders whose labels stand in ``<root>/train.txt`` and ``<root>/val.txt``.

    Paths in a list start at its split folder or at the root; the first line decides for all. A
    class is named after its folder.

    Raises:
        DataError: A file or folder is missing, a line is malformed, or folders and labels do not
            belong together one to one, in both splits alike.
    """
    root = existing_folder(config.root, "dataset root", "dataset.root")
    folders = {"train": config.train, "val": config.val}
    lists = {"train": config.train_list, "val": config.val_list}
    own = root / split_folder(folders, split)
    named = [root / name for name in (*folders.values(), *lists.values())]

    def read(noted: Sources) -> Listing:
        found: dict[str, Labelled] = {}
        for name, file_name in lists.items():
            file = root / file_name
            noted.note(file)
            if name == split or file.is_file():
                paths, labels = read_list(file, f"dataset.{name}_list")
                found[name] = _below_root(paths, root, file), labels
        _count_from(config.first_label, {lists[name]: found[name][1] for name in found})
        paths, labels = found[split]
        base = _base(paths[0], root / lists[split], [own, root], noted)
        names: dict[int, str] = {}
        for name, lines in found.items():
            _name_classes(names, lines, root / lists[name], folders[name])
        check_present(base, paths, root / lists[split], noted, root=root)
        return _listing(base, _classes(names, root), paths, labels)

    options = [split, str(config.first_label)]
    key = Key(layout="class_folders_with_lists", paths=[root, *named], options=options)
    return open_image_files(key, read)


def open_list_file(config: ListFileOptions, split: str) -> ImageFiles:
    """Open images listed in one file per split, each line ``<path> <label>``.

    Labels are 0 to K-1; K is the length of ``class_names``, or else follows from both lists.
    Where both lists exist they must have the same labels; with ``missing_classes``, those of the
    validation list may be some of them.

    Raises:
        DataError: A file is missing, a line is malformed, labels are missing or too large, or a
            class has images in one list only.
    """
    root = existing_folder(config.root, "dataset root", "dataset.root")
    lists = {"train": config.train_list, "val": config.val_list}
    if split not in lists:
        raise DataError(f"unknown split {split!r}, expected train or val")
    own, other = lists[split], lists["val" if split == "train" else "train"]
    if own is None:
        raise DataError(f"there is no list of {split} images; set dataset.{split}_list to a file")
    files = [_below(root, name) for name in (own, other, config.class_names)]

    def read(noted: Sources) -> Listing:
        own_file, other_file, names_file = files
        assert own_file is not None
        for file in filter(None, files):
            noted.note(file)
        paths, labels = read_list(own_file, f"dataset.{split}_list")
        by_list = {own: labels}
        # With class names, an evaluation needs no list of train images.
        if other not in (None, own) and other_file and (names_file is None or other_file.is_file()):
            other_split = "val" if split == "train" else "train"
            by_list[other] = read_list(other_file, f"dataset.{other_split}_list")[1]
        # the same words for both splits, which are then said once
        by_list = {name: by_list[name] for name in lists.values() if name in by_list}
        _count_from(config.first_label, by_list)
        first = config.first_label or 0
        seen = set(labels)
        there = set(by_list[other]) if other in by_list else None
        if names_file is not None:
            classes = read_class_names(names_file, "dataset.class_names")
            check_no_header(classes, max(seen | (there or set())) + 1, names_file)
            _check_below(labels, classes, own, own_file, first)
            if there is not None and not config.missing_classes:
                _check_all_named_are_there(seen | there, classes, names_file, first)
        else:
            classes = _numbered(seen | (there or set()), " or ".join(by_list), first)
        if len(by_list) > 1:
            (train_list, train), (val_list, val) = ((n, set(by_list[n])) for n in by_list)
            if not (config.missing_classes and val <= train):
                _check_same_labels(train, val, train_list, val_list, classes, first)
        check_present(root, paths, own_file, noted, root=root)
        return _listing(root, classes, paths, labels)

    options = [split, str(config.first_label), *(["some"] if config.missing_classes else [])]
    return open_image_files(Key(layout="list_file", paths=[root, *files], options=options), read)


def open_flat_val_label(config: FlatValLabelOptions, split: str) -> ImageFiles:
    """Open a folder of validation images with a label file next to it.

    A line is ``<file name> <label>``. Names are compared without their image ending, so that the
    list fits converted files too.

    Raises:
        DataError: The split is not ``val``, a file is missing, a line is malformed, or images and
            labels do not belong together one to one.
    """
    if split != "val":
        raise DataError(
            f"flat_val_label has validation images only, and the {split} split was asked for; "
            "use it for evaluation, or train with dataset.name: class_folders"
        )
    root = existing_folder(config.root, "dataset root", "dataset.root")
    folder = existing_folder(root / config.val, "folder of the val images", "dataset.root")
    file = root / config.labels
    names_file = (
        None if config.class_names is None else root / Path(config.class_names).expanduser()
    )

    def read(noted: Sources) -> Listing:
        for path in filter(None, (file, names_file)):
            noted.note(path)
        extensions = known_extensions(config.extensions)
        lines = read_list(file, "dataset.labels")
        _count_from(config.first_label, {str(file): lines[1]})
        paths, ignored = list_images(str(folder), "", extensions, noted=noted)
        labels = match(paths, lines, folder, file, extensions)
        classes = _classes_of(lines[1], file, names_file, config.first_label or 0)
        return _listing(folder, classes, paths, labels, ignored)

    options = [*config.extensions, f"first_label={config.first_label}"]
    key = Key(layout="flat_val_label", paths=[root, folder, file, names_file], options=options)
    return open_image_files(key, read)


def _count_from(first: int | None, lists: Mapping[str, list[int]]) -> None:
    """Let labels begin at 0, in place.

    Args:
        first: The label of the first class; ``None`` for 0, which an image must have then.
        lists: Labels by the name of their list.

    Raises:
        DataError: A label lies below the first, or none is 0.
    """
    where = min(lists, key=lambda name: min(lists[name]))
    lowest = min(lists[where])
    if first is None and lowest:
        raise DataError(
            f"no image of {' or '.join(lists)} has label 0, but there is label {lowest}; expected "
            f"labels 0 to K-1 without gaps (they seem to start at {lowest}). If the first class "
            f"has the label {lowest}, set dataset.first_label: {lowest}, which is taken off every "
            "label; if the class 0 has no images here, set dataset.first_label: 0"
        )
    if not first:
        return
    if lowest < first:
        raise DataError(
            f"{where} has the label {lowest}, and dataset.first_label says that the first class "
            f"has the label {first}; leave dataset.first_label out for labels from 0"
        )
    for labels in lists.values():
        labels[:] = [label - first for label in labels]


def _below(root: Path, name: str | None) -> Path | None:
    return None if name is None else root / Path(name).expanduser()


def _classes_of(labels: list[int], file: Path, names_file: Path | None, first: int) -> list[str]:
    """Return the class names that a file lists, or else one for each number up to the largest."""
    largest = max(labels)
    if names_file is not None:
        classes = read_class_names(names_file, "dataset.class_names")
        check_no_header(classes, largest + 1, names_file)
        _check_below(labels, classes, str(file), file, first)
        return classes
    if largest >= max(len(labels), MAX_UNNAMED_CLASSES):
        raise DataError(
            f"{file} has the label {largest}, but {counted(len(labels), 'line')}; correct it, or "
            "set dataset.class_names to a file with one name per line for that many classes"
        )
    return [str(label) for label in range(largest + 1)]


def _listing(
    folder: Path, classes: Sequence[str], paths: list[str], labels: list[int], ignored: int = 0
) -> Listing:
    part = Part(prefix="", paths=paths, labels=labels, ignored=ignored)
    return Listing(folder=str(folder), classes=classes, parts=[part])


def _repeated(names: Sequence[str]) -> list[str]:
    return sorted(name for name, count in Counter(names).items() if count > 1)


def _base(first: str, file: Path, candidates: Sequence[Path], noted: Sources) -> Path:
    for candidate in candidates:
        noted.note((candidate / first).parent)
        if exists(candidate / first):
            return candidate
    tried = " and ".join(str(candidate / first) for candidate in candidates)
    raise DataError(
        f"{file}:{line_of(file, 0)}: the first image of the list does not exist: tried {tried}; "
        f"{cause_of(candidates[-1], first, candidates[-1])}"
    )


def _below_root(paths: list[str], root: Path, file: Path) -> list[str]:
    """Return paths that name their class folder: below the root, or a split folder.

    Raises:
        DataError: A path does not.
    """
    starts = [f"{folder}/" for folder in (root.absolute(), root.resolve())]
    below = [
        path
        if path[0] != "/"
        else next((path.removeprefix(start) for start in starts if path.startswith(start)), path)
        for path in paths
    ]
    for position, path in enumerate(below):
        if path[0] == "/":
            raise DataError(
                f"{file}:{line_of(file, position)}: {path} does not lie below {root.absolute()}, "
                "so its class folder is unknown; expected <class>/<image>, or use dataset.name: "
                "list_file, which has no class folders"
            )
    return below


def _name_classes(names: dict[int, str], lines: Labelled, file: Path, split_folder: str) -> None:
    """Name each label after the class folder of its images.

    Raises:
        DataError: An image lies in no folder, or in another one than its label has.
    """
    skip = split_folder + "/"  # at the start of a path, this is not the class
    for position, (path, label) in enumerate(zip(*lines, strict=True)):
        folder, slash, _ = path.removeprefix(skip).partition("/")
        if not slash or names.setdefault(label, folder) != folder:
            raise _wrong_class(file, position, label, folder, names[label] if slash else "")


def _wrong_class(file: Path, position: int, label: int, found: str, named: str) -> DataError:
    """Return the error of an image in no class folder, or in another one than its label has."""
    where = f"{file}:{line_of(file, position)}"
    if not named:
        return DataError(
            f"{where}: the image {found!r} lies in no class folder; expected <class>/<image>, or "
            "use dataset.name: list_file, which has no class folders"
        )
    return DataError(
        f"{where} gives label {label} to images of {found!r} and of {named!r}"
        f"{same_looking([found], [named])}; expected one class folder for each label, in both lists"
    )


def _classes(names: dict[int, str], root: Path) -> list[str]:
    _numbered(names.keys(), str(root))
    classes = [names[label] for label in range(len(names))]
    twice = _repeated(classes)
    if twice:
        labels = [label for label, name in names.items() if name == twice[0]]
        raise DataError(
            f"the lists of {root} give images of {twice[0]!r} the labels {sorted(labels)}; "
            "expected one label for each class folder"
        )
    return classes


def _numbered(labels: Set[int], where: str, first_label: int = 0) -> list[str]:
    """Name classes after their labels, which must be 0 to K-1.

    Args:
        labels: Those of the images, from 0.
        where: The list, in errors.
        first_label: The label of the first class in the list.
    """
    # Counted, because a label may be far larger than the number of images.
    gaps = max(labels) + 1 - len(labels)
    if gaps:
        missing = (label + first_label for label in range(max(labels)) if label not in labels)
        rest = gaps - SHOWN
        first = ", ".join(map(str, islice(missing, SHOWN)))
        more = f" and {rest} more" if rest > 0 else ""
        raise DataError(
            f"no image of {where} has label {first}{more}, but there is label "
            f"{max(labels) + first_label}; expected labels {_all(first_label)} without gaps"
        )
    return [str(label) for label in range(len(labels))]


def _all(first_label: int) -> str:
    """Describe the labels of K classes."""
    return f"{first_label} to {first_label}+K-1" if first_label else "0 to K-1"


def _check_below(
    labels: list[int], classes: Sequence[str], where: str, file: Path, first: int
) -> None:
    largest, count = max(labels), len(classes)
    if largest >= count:
        there_are = "there is 1 class name" if count == 1 else f"there are {count} class names"
        expected = f"labels {first} to {count - 1 + first}" if count > 1 else f"label {first}"
        raise DataError(
            f"{where} has the label {largest + first}, but {there_are}; "
            f"expected {expected}; the first that is larger is in line "
            f"{line_of(file, next(at for at, label in enumerate(labels) if label >= count))}"
        )


def _check_all_named_are_there(
    labels: Set[int], classes: Sequence[str], file: Path, first: int
) -> None:
    """Refuse names of classes that have no image in either list."""
    missing = next((label for label in range(len(classes)) if label not in labels), None)
    if missing is not None:
        raise DataError(
            f"{file}:{line_of_name(file, missing)}: found the name {classes[missing]!r} for the "
            f"label {missing + first}, which no image of either list has; expected a name for each "
            "of their labels: remove what is not a class, or allow classes without images with "
            "dataset.missing_classes: true"
        )


def _check_same_labels(
    here: Set[int], there: Set[int], own: str, other: str, classes: Sequence[str], first: int
) -> None:
    if here == there:
        return
    differences = [
        f"{a} has {shown(_described(n, classes, first) for n in sorted(extra))}, {b} has not"
        for a, b, extra in ((own, other, here - there), (other, own, there - here))
        if extra
    ]
    shifted = abs(min(here) - min(there)) == 1 and len(here) == len(there)
    raise DataError(
        f"the lists have different labels, {len(here)} and {len(there)}: "
        f"{'; '.join(differences)}. Every class needs images in both lists; "
        + (
            "one list seems to count from 0 and the other from 1, use labels 0 to K-1 in both"
            if shifted
            else "add lines for the missing labels or remove the extra ones (if only the "
            "validation list lacks classes, dataset.missing_classes: true allows it)"
        )
    )


def _described(label: int, classes: Sequence[str], first: int) -> str:
    """Return a label in the numbers of the list, and the name of its class if it has another."""
    name = classes[label] if label < len(classes) else str(label)
    given = label + first
    return f"label {given}" if name == str(label) else f"label {given} ({name})"

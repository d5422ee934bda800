"""Images whose labels stand in text files."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from runner.data.images import (
    SHOWN,
    existing_folder,
    known_extensions,
    list_images,
    shown,
    split_folder,
    stem_of,
)
from runner.data.index import Listing, Part, open_image_files
from runner.data.index_file import Key
from runner.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence, Set

    from runner.data.image_files import ImageFiles
    from runner.data.plugin import (
        ClassFoldersWithListsOptions,
        FlatValLabelOptions,
        ListFileOptions,
    )
    from runner.data.sources import Sources

MAX_UNNAMED_CLASSES = 100_000
"""A label file may skip labels; above this many classes more than it has lines, it is wrong."""

Labelled = tuple[list[str], list[int]]
"""Paths and their labels, in the order of the file."""


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
            noted.note(root / file_name)
            if name == split or (root / file_name).is_file():
                found[name] = read_list(root / file_name, f"dataset.{name}_list")
        base = _base(found[split][0][0], [own, root], noted)
        names: dict[int, str] = {}
        for name, (paths, labels) in found.items():
            # A split folder at the start of a path is not the class.
            skip = folders[name] + "/"
            for path, label in zip(paths, labels, strict=True):
                _name_class(names, label, path.removeprefix(skip).split("/", 1)[0], lists[name])
        return _listing(base, _classes(names, root), *found[split])

    key = Key(layout="class_folders_with_lists", paths=[root, *named], options=[split])
    return open_image_files(key, read)


def open_list_file(config: ListFileOptions, split: str) -> ImageFiles:
    """Open images listed in one file per split, each line ``<path> <label>``.

    Labels are 0 to K-1; K is the length of ``class_names``, or else follows from both lists.
    Where both lists exist they must have the same labels.

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
        seen = set(labels)
        there = None
        # With class names, an evaluation needs no list of train images.
        if other_file is not None and (names_file is None or other_file.is_file()):
            there = set(read_list(other_file, "the other list")[1])
        if names_file is not None:
            classes = _read_names(names_file)
            _check_below(max(labels), classes, own)
        else:
            classes = _numbered(seen if there is None else seen | there, own)
        if there is not None and other is not None:
            _check_same_labels(seen, there, own, other, classes)
        return _listing(root, classes, paths, labels)

    return open_image_files(Key(layout="list_file", paths=[root, *files], options=[split]), read)


def open_flat_val_label(config: FlatValLabelOptions, split: str) -> ImageFiles:
    """Open a folder of validation images with a label file beside it.

    A line is ``<file name> <label>``. Names are compared up to their first dot, so that the list
    fits converted files too.

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
        by_key = _by_key(*read_list(file, "dataset.labels"), file)
        paths, ignored = list_images(
            str(folder), "", known_extensions(config.extensions), noted=noted
        )
        keys = [stem_of(path) for path in paths]
        _check_matched(keys, by_key, folder, file)
        labels = [by_key[key] for key in keys]
        return _listing(folder, _classes_of(labels, file, names_file), paths, labels, ignored)

    key = Key(
        layout="flat_val_label", paths=[root, folder, file, names_file], options=config.extensions
    )
    return open_image_files(key, read)


def _below(root: Path, name: str | None) -> Path | None:
    return None if name is None else root / Path(name).expanduser()


def _classes_of(labels: list[int], file: Path, names_file: Path | None) -> list[str]:
    """Return the class names that a file lists, or else one for each number up to the largest."""
    largest = max(labels)
    if names_file is not None:
        classes = _read_names(names_file)
        _check_below(largest, classes, str(file))
        return classes
    if largest >= max(len(labels), MAX_UNNAMED_CLASSES):
        raise DataError(
            f"{file} has the label {largest}, but {len(labels)} lines; correct it, or set "
            "dataset.class_names to a file with one name per line for that many classes"
        )
    return [str(label) for label in range(largest + 1)]


def _listing(
    folder: Path, classes: Sequence[str], paths: list[str], labels: list[int], ignored: int = 0
) -> Listing:
    part = Part(prefix="", paths=paths, labels=labels, ignored=ignored)
    return Listing(folder=str(folder), classes=classes, parts=[part])


def read_list(file: Path, setting: str) -> Labelled:
    """Read lines of ``<path> <label>``; the path may hold spaces, empty lines are left out.

    Raises:
        DataError: The file is missing, empty, or has a malformed line, which is named.
    """
    paths: list[str] = []
    labels: list[int] = []
    for number, line in _lines(file, setting):
        path, _, label = line.rpartition(" ")
        path = path.rstrip()
        # isascii: str.isdigit accepts digits of other scripts, and int() accepts "1_000".
        if not path or not (label.isascii() and label.isdigit()):
            raise DataError(
                f"{file}:{number}: found {line!r}, expected `<path> <label>` with one space "
                "between them and a label of 0 or more"
            )
        paths.append(path)
        labels.append(int(label))
    if not paths:
        raise DataError(f"{file} is empty, expected lines of `<path> <label>`")
    return paths, labels


def _lines(file: Path, setting: str) -> list[tuple[int, str]]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(
            f"{file.absolute()} does not exist; set the file with --set {setting}=/path/to/file"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read as UTF-8 text: {error}") from error
    stripped = ((number, line.strip()) for number, line in enumerate(text.split("\n"), 1))
    return [(number, line) for number, line in stripped if line]


def _read_names(file: Path) -> list[str]:
    names = [line for _, line in _lines(file, "dataset.class_names")]
    twice = sorted({name for name in names if names.count(name) > 1})
    if not names or twice:
        found = f"has {shown(twice)} more than once" if twice else "is empty"
        raise DataError(f"{file} {found}, expected one name per line, in label order")
    return names


def _base(first: str, candidates: Sequence[Path], noted: Sources) -> Path:
    for candidate in candidates:
        noted.note((candidate / first).parent)
        if (candidate / first).exists():
            return candidate
    tried = " and ".join(str(candidate / first) for candidate in candidates)
    raise DataError(f"the first image of the list does not exist: tried {tried}")


def _name_class(names: dict[int, str], label: int, folder: str, where: str) -> None:
    if names.setdefault(label, folder) != folder:
        raise DataError(
            f"{where} gives label {label} to images of {folder!r} and of {names[label]!r}; "
            "expected one class folder for each label, in both lists"
        )


def _classes(names: dict[int, str], root: Path) -> list[str]:
    _numbered(names.keys(), str(root))
    classes = [names[label] for label in range(len(names))]
    twice = sorted({name for name in classes if classes.count(name) > 1})
    if twice:
        labels = [label for label, name in names.items() if name == twice[0]]
        raise DataError(
            f"the lists of {root} give images of {twice[0]!r} the labels {sorted(labels)}; "
            "expected one label for each class folder"
        )
    return classes


def _numbered(labels: Set[int], where: str) -> list[str]:
    """Name classes after their labels, which must be 0 to K-1."""
    # Counted, because a label may be far larger than the number of images.
    gaps = max(labels) + 1 - len(labels)
    if gaps:
        missing = (label for label in range(max(labels)) if label not in labels)
        rest = gaps - SHOWN
        first = ", ".join(map(str, islice(missing, SHOWN)))
        more = f" and {rest} more" if rest > 0 else ""
        raise DataError(
            f"no image of {where} has label {first}{more}, but there is label "
            f"{max(labels)}; expected labels 0 to K-1 without gaps"
            + (" (they seem to start at 1)" if gaps == 1 and 0 not in labels else "")
        )
    return [str(label) for label in range(len(labels))]


def _check_below(largest: int, classes: Sequence[str], where: str) -> None:
    if largest >= len(classes):
        raise DataError(
            f"{where} has the label {largest}, but there are {len(classes)} class names; "
            f"expected labels 0 to {len(classes) - 1}"
        )


def _check_same_labels(
    here: Set[int], there: Set[int], own: str, other: str, classes: Sequence[str]
) -> None:
    if here == there:
        return
    differences = [
        f"{a} has {shown(_described(label, classes) for label in sorted(extra))}, {b} has not"
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
            else "add lines for the missing labels or remove the extra ones"
        )
    )


def _described(label: int, classes: Sequence[str]) -> str:
    name = classes[label] if label < len(classes) else str(label)
    return f"label {label}" if name == str(label) else f"label {label} ({name})"


def _by_key(names: list[str], labels: list[int], file: Path) -> dict[str, int]:
    by_key: dict[str, int] = {}
    for name, label in zip(names, labels, strict=True):
        if by_key.setdefault(stem_of(name), label) != label:
            raise DataError(
                f"{file} gives {stem_of(name)!r} the labels {by_key[stem_of(name)]} and {label}"
            )
    return by_key


def _check_matched(keys: list[str], by_key: dict[str, int], folder: Path, file: Path) -> None:
    unlabelled = sorted(set(keys) - by_key.keys())
    missing = sorted(by_key.keys() - set(keys))
    if unlabelled:
        raise DataError(f"images in {folder} without a line in {file}: {shown(unlabelled)}")
    if missing:
        raise DataError(
            f"{len(missing)} images of {file} are not in {folder}: {shown(missing)}; "
            "copy them there, or remove their lines"
        )

"""Labels and lists of images, in the forms that programs elsewhere read and write.

    imagenet_label.json    {"<file name>": <label>, ...}
    val_label.txt          lines of `<file name> <label>`
    *.info                 lines of `<position> <path> <width> <height>`

Labels begin at 0. An image is known by its file name up to the first dot.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from runner.artifacts.offline.logits import check_output, check_stems
from runner.data.image_files import ImageFiles
from runner.data.layouts.images import IMAGE_ENDINGS, list_images, shown, stem_of
from runner.data.size_limits import MAX_FILE
from runner.errors import DataError, StorageError, UsageError
from runner.storage import files
from runner.storage.files import write_text
from runner.terminal import display

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from runner.contracts import Dataset

JSON = ".json"


def read(path: Path) -> dict[str, int]:
    """Return the label of each image, by the stem of its name.

    Args:
        path: A JSON object if it ends in ``.json``, otherwise lines.

    Raises:
        DataError: The file is missing or damaged, or two images have one stem.
    """
    if not path.is_file():
        raise DataError(
            f"{path} does not exist; expected the labels of the images, as "
            '{"<file name>": <label>, ...} in a .json file, or lines of `<file name> <label>`; '
            "name another file with --labels"
        )
    if path.suffix == JSON:
        pairs = _read_json(path)
    else:
        from runner.data.layouts.label_file import read_list

        pairs = list(zip(*read_list(path, "--labels"), strict=True))
    check_stems([name for name, _ in pairs])
    return {stem_of(name): label for name, label in pairs}


def _read_json(path: Path) -> list[tuple[str, int]]:
    try:
        pairs = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=list)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}; check its permissions") from error
    except ValueError as error:
        raise DataError(f"{path} is no JSON: {error}; write it again") from error
    if not isinstance(pairs, list) or not pairs or not all(map(_is_label, pairs)):
        raise DataError(
            f'{path} is not one object {{"<file name>": <label>, ...}} with labels from 0; '
            "write it again"
        )
    return pairs


def _is_label(pair: object) -> bool:
    # exact types, because a boolean is an int
    return isinstance(pair, tuple) and type(pair[1]) is int and pair[1] >= 0


def write(names: Sequence[str], labels: Iterable[int], path: Path) -> None:
    """Write the label of each image, in the form that the file's ending asks for.

    Args:
        names: Names or paths of the images; of a path the last part is written.
        labels: As many labels.
        path: Ends in ``.json`` for one object, or in ``.txt`` for lines.

    Raises:
        DataError: Two images have one stem.
        StorageError: The file cannot be written.
        UsageError: It ends otherwise.
    """
    check_stems(names)
    pairs = zip([name.rsplit("/", 1)[-1] for name in names], labels, strict=True)
    if path.suffix == JSON:
        text = json.dumps(dict(pairs)) + "\n"
    elif path.suffix == ".txt":
        text = as_lines([f"{name} {label}" for name, label in pairs])
    else:
        raise UsageError(f"{path} ends in {path.suffix!r}; expected .txt for lines, or .json")
    write_text(path, text)


def as_lines(texts: Sequence[str]) -> str:
    """Return texts as the lines of a file.

    Raises:
        DataError: One holds a line break or another control character.
    """
    for text in texts:
        if letter := display.first_control(text):
            raise DataError(
                f"{text!r} holds {letter}, so it cannot be a line of a file; rename what has it in "
                "its name, or write labels to a .json file"
            )
    return "".join(f"{text}\n" for text in texts)


def names_of(dataset: Dataset) -> list[str]:
    """Return the names of all images of a split, in its order."""
    return [dataset.describe(index) for index in range(len(dataset.labels))]


def lay_out(dataset: Dataset, output: Path, *, flat: bool) -> int:
    """Lay the validation images out anew, as symbolic links.

        flat             val/<image>, val_label.txt, class_names.txt
        class folders    val/<class>/<image>

    Args:
        dataset: The validation split, in any layout of files.
        output: Folder to make; the dataset's new root.
        flat: Which of the two.

    Returns:
        The number of images.

    Raises:
        UsageError: The folder is in use.
        DataError: The images are no files, two would have one name, or class folders would give
            other labels.
        StorageError: A link cannot be made.
    """
    check_output(output)
    if not isinstance(dataset, ImageFiles):
        raise DataError(
            f"the images of this dataset are no files ({type(dataset).__name__}), so there is "
            "nothing to link to; expected a dataset of image files, such as class_folders"
        )
    classes, labels = list(dataset.classes), dataset.labels.tolist()
    if not flat:
        _check_sortable(classes, set(labels))
    names = names_of(dataset)
    check_stems(names)
    try:
        folder = output / "val"
        folder.mkdir(parents=True)
        for name, label in zip(names, labels, strict=True):
            place = folder if flat else folder / classes[label]
            place.mkdir(exist_ok=True)
            (place / Path(name).name).symlink_to(Path(name).absolute())
    except OSError as error:
        raise StorageError(f"cannot write {output}: {error.strerror or error}") from error
    if flat:
        write_text(output / "class_names.txt", as_lines(classes))
        write(names, labels, output / "val_label.txt")
    return len(names)


def _check_sortable(classes: Sequence[str], used: set[int]) -> None:
    """Refuse names whose folders would be numbered otherwise."""
    moved = [
        f"{name} (label {label})"
        for label, (name, at) in enumerate(zip(classes, sorted(classes), strict=True))
        if name != at
    ]
    if moved:
        raise DataError(
            "the label of a class folder is the rank of its name, and the names of these classes "
            f"are not in sorted order: {shown(moved)}; give names that are, with "
            "dataset.class_names"
        )
    unused = [name for label, name in enumerate(classes) if label not in used]
    if unused:
        raise DataError(
            f"no image has the classes {shown(unused)}, and without their folders the labels of "
            "the others would change; expected an image of every class"
        )


def write_info(folder: Path, path: Path, size: tuple[int, int] | None) -> int:
    """List the files of a folder with their sizes, sorted by name.

    Args:
        folder: Holds images, or ``.bin`` files of pixels.
        path: File to write.
        size: Width and height of the pixels in the ``.bin`` files; images tell their own.

    Returns:
        The number of files.

    Raises:
        UsageError: There is no such folder, or a size is given for images or missing for pixels.
        DataError: There are no files, or one is not what it should be.
        StorageError: The list cannot be written.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder; expected one that holds images or .bin files")
    endings = (".bin",) if size else IMAGE_ENDINGS
    found, _ = list_images(str(folder), "", endings)
    if not found:
        raise UsageError(
            f"no file in {folder} ends in {', '.join(endings)}; "
            + ("leave --size out for images" if size else "say --size for .bin files")
        )
    files = [str(folder / name) for name in found]
    sizes = [_pixels_size(file, size) if size else _image_size(file) for file in files]
    lines = [
        f"{position} {file} {width} {height}"
        for position, (file, (width, height)) in enumerate(zip(files, sizes, strict=True))
    ]
    write_text(path, as_lines(lines))
    return len(files)


def _pixels_size(file: str, size: tuple[int, int]) -> tuple[int, int]:
    found, expected = Path(file).stat().st_size, size[0] * size[1] * 3
    if found != expected:
        raise DataError(
            f"{file} has {found} bytes, expected {expected} for {size[0]} x {size[1]} pixels of "
            "three channels; write it again, or correct --size"
        )
    return size


def _image_size(file: str) -> tuple[int, int]:
    from runner.data.decode import decode

    return decode(files.read_regular(Path(file), MAX_FILE), file).size

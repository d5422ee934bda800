"""Files of logits, as programs elsewhere write them: one for each image and output of the model.

<stem>_<output>.bin    K numbers, little-endian, without header
<stem>_<output>.txt    K numbers as text, separated by spaces
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from runner.artifacts.offline.logits import DTYPES
from runner.data.layouts.images import shown
from runner.errors import DataError, NonFiniteError, UsageError
from runner.terminal.display import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

BINARY, TEXT = ".bin", ".txt"
_FILES_AT_ONCE = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """The files of one output for a number of images, all of which are there."""

    folder: Path
    files: tuple[Path, ...]
    dtype: str | None
    """Type of the numbers; ``None`` in text."""


def find(
    folder: Path, stems: Sequence[str], *, labels: Path, dtype: str | None, output: int | None
) -> Results:
    """Find one file for each image.

    Args:
        folder: Where they are.
        stems: Names of the images.
        labels: Where these names come from, for errors.
        dtype: Type of the numbers in ``.bin`` files, ``float16`` if ``None``.
        output: The model's output to read, while files of others are left alone; ``None`` for
            the first, while others are refused.

    Raises:
        DataError: Files are missing, or there are others.
        UsageError: ``dtype`` has no effect, because the files are text.
    """
    try:
        found = {entry.name for entry in folder.iterdir()}
    except OSError as error:
        raise DataError(
            f"{folder}: {error.strerror or error}; expected a folder of <image>_<output> files; "
            "name another with --results"
        ) from error
    text = any(name.endswith(TEXT) for name in found) and not any(
        name.endswith(BINARY) for name in found
    )
    if text and dtype:
        raise UsageError(f"{folder} holds {TEXT} files: --dtype has no effect on them")
    ending = TEXT if text else BINARY
    names = [f"{stem}_{output or 0}{ending}" for stem in stems]
    if output is not None:
        found = {name for name in found if not _is_other_output(name, set(stems), set(names))}
    _check_complete(folder, set(names), found, labels=labels, output=output or 0, ending=ending)
    return Results(
        folder=folder,
        files=tuple(folder / name for name in names),
        dtype=None if text else dtype or "float16",
    )


def _is_other_output(name: str, stems: set[str], expected: set[str]) -> bool:
    stem, _, rest = name.rpartition("_")
    return name not in expected and stem in stems and rest.split(".")[0].isdecimal()


def _check_complete(
    folder: Path, expected: set[str], found: set[str], *, labels: Path, output: int, ending: str
) -> None:
    differences = [
        f"{len(names)} {what} ({shown(sorted(names))})"
        for what, names in (("missing", expected - found), ("extra", found - expected))
        if names
    ]
    if not differences:
        return
    other = any(name.rpartition("_")[2] == f"1{ending}" for name in found - expected)
    raise DataError(
        f"{folder} does not hold one file <image>_{output}{ending} for each of the "
        f"{counted(len(expected), 'image')} of {labels}: {'; '.join(differences)}; run the "
        "inference again, or name the labels that belong to it with --labels"
        + (", or, of a model with several outputs, the one to score with --output" * other)
    )


def read(results: Results, classes: int) -> Iterator[NDArray[np.float32]]:
    """Yield the logits ``[B, K]`` of images, in the order of the files.

    Raises:
        DataError: A file does not hold ``classes`` numbers.
        NonFiniteError: One holds NaN or infinite numbers.
        OSError: One cannot be read.
    """
    import numpy as np

    if results.dtype is not None:
        _check_sizes(results, results.dtype, classes)
    for start in range(0, len(results.files), _FILES_AT_ONCE):
        part = results.files[start : start + _FILES_AT_ONCE]
        rows = [_read_one(file, results.dtype) for file in part]
        _check_counts(part, rows, classes)
        logits = np.stack(rows)
        bad = [
            file.name
            for file, row in zip(part, logits, strict=True)
            if not bool(np.isfinite(row).all())
        ]
        if bad:
            raise NonFiniteError(
                f"logits that are not finite in {counted(len(bad), 'file')}: {shown(bad)}; "
                "weights or activations overflowed where they were computed"
            )
        yield logits.astype(np.float32)


def count_columns(results: Results) -> int | None:
    """Return the numbers in the first file; ``None`` where only their size in bytes is known."""
    return None if results.dtype else len(_read_one(results.files[0], None))


def _read_one(file: Path, dtype: str | None) -> NDArray[np.float32]:
    import numpy as np

    if dtype:
        return np.fromfile(file, DTYPES[dtype])
    try:
        values = [float(word) for word in file.read_text(encoding="ascii").split()]
    except ValueError as error:
        raise DataError(f"{file} is damaged: {error}; run the inference again") from error
    return np.asarray(values, np.float32)


def _check_counts(files: Sequence[Path], rows: Sequence[NDArray[np.float32]], classes: int) -> None:
    wrong = [
        f"{file.name} {len(row)}"
        for file, row in zip(files, rows, strict=True)
        if len(row) != classes
    ]
    if wrong:
        raise DataError(
            f"expected {counted(classes, 'logit')} in each file of {files[0].parent}, found "
            f"another number in {counted(len(wrong), 'file')}: "
            f"{shown(wrong)}; run the inference again"
        )


def _check_sizes(results: Results, dtype: str, classes: int) -> None:
    expected = classes * _item_bytes(dtype)
    sizes = {file.name: file.stat().st_size for file in results.files}
    wrong = {name: size for name, size in sizes.items() if size != expected}
    if not wrong:
        return
    listed = shown(f"{name} {size}" for name, size in wrong.items())
    fix = "run the inference again"
    if len(wrong) == len(sizes) and len(set(wrong.values())) == 1:
        fix = _fix(next(iter(wrong.values())), classes)
    raise DataError(
        f"expected {counted(expected, 'byte')} in each file of {results.folder}, for "
        f"{counted(classes, 'logit')} in {dtype}, found another size in {len(wrong)} of "
        f"{counted(len(sizes), 'file')}: {listed}; {fix}"
    )


def _fix(size: int, classes: int) -> str:
    """Say what files of this size could hold."""
    readings = []
    for dtype in DTYPES:
        item = _item_bytes(dtype)
        if size == classes * item:
            return f"they have the size of {dtype}: --dtype {dtype}"
        if size % item == 0 and size > classes * item:
            readings.append(f"--classes {size // item} --dtype {dtype}")
    if readings:
        return f"if the model has more classes than the labels show, say {' or '.join(readings)}"
    return "run the inference again"


def _item_bytes(dtype: str) -> int:
    import numpy as np

    return np.dtype(DTYPES[dtype]).itemsize

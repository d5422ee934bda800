"""Accuracy from files of logits and labels; ``offline`` describes them."""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from runner import metrics
from runner.data.images import shown
from runner.errors import DataError, NonFiniteError
from runner.files import write_output
from runner.offline import DTYPES, LABELS, LOG, RESULTS, SUFFIX, check_stems

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from runner.metrics import Evaluation

_FILES_AT_ONCE = 1024


def accuracy_line(result: Evaluation) -> str:
    """Return what the accuracy log says."""
    return (
        f"Total data: {result.count}, top1 accuracy: {result.top1}, top5 accuracy: {result.top5}."
    )


def score_folder(
    folder: Path,
    *,
    results: Path | None = None,
    labels: Path | None = None,
    dtype: str,
    classes: int | None = None,
) -> Evaluation:
    """Score the files in ``folder``, or where the other paths say, and write ``acc.log`` into it.

    Raises:
        DataError: The files are not what ``score`` expects.
        NonFiniteError: A file holds NaN or infinite logits.
        StorageError: The log cannot be written.
    """
    result = score(
        results or folder / RESULTS, labels or folder / LABELS, dtype=dtype, classes=classes
    )
    write_output(folder / LOG, accuracy_line(result) + "\n")
    return result


def score(results: Path, labels: Path, *, dtype: str, classes: int | None = None) -> Evaluation:
    """Compute the accuracy from files alone.

    Classes are ranked by descending logit; among equal logits the lower class comes first.

    Args:
        results: Folder of the files ``<stem>_0.bin``.
        labels: JSON file with the label of each file name; its ending does not matter.
        dtype: Type of the logits: ``float16`` or ``float32``.
        classes: Logits in each file; one more than the largest label when left out.

    Raises:
        DataError: The label file is damaged, result files are missing, extra, or of another size
            than ``classes`` logits.
        NonFiniteError: A file holds NaN or infinite logits.
    """
    label_of = _read_labels(labels)
    count = classes or max(label_of.values()) + 1
    _check_range(labels, label_of, count)
    _check_files(results, labels, label_of)
    stems = sorted(label_of)
    files = [results / (stem + SUFFIX) for stem in stems]
    try:
        _check_sizes(results, files, dtype, count)
        return metrics.total(
            metrics.count_correct(*part)
            for part in _parts(files, [label_of[stem] for stem in stems], dtype)
        )
    except OSError as error:
        raise DataError(
            f"{error.filename}: {error.strerror or error}; check its permissions"
        ) from error


def _read_labels(path: Path) -> dict[str, int]:
    """Return the label of each stem."""
    try:
        pairs = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=list)
    except OSError as error:
        raise DataError(
            f"{path}: {error.strerror or error}; expected the labels of the images, "
            'as {"<file name>": <label>, ...}; name another file with --labels'
        ) from error
    except ValueError as error:
        raise DataError(f"{path} is no JSON: {error}; write it again") from error
    if not isinstance(pairs, list) or not pairs or not all(map(_is_label, pairs)):
        raise DataError(
            f'{path} is not one object {{"<file name>": <label>, ...}} with labels from 0; '
            "write it again"
        )
    check_stems([name for name, _ in pairs])
    return {PurePosixPath(name).stem: label for name, label in pairs}


def _is_label(pair: object) -> bool:
    # exact types, because a boolean is an int
    return isinstance(pair, tuple) and type(pair[1]) is int and pair[1] >= 0


def _check_range(path: Path, label_of: dict[str, int], classes: int) -> None:
    above = [f"{stem}: {label}" for stem, label in label_of.items() if label >= classes]
    if above:
        raise DataError(
            f"{path} has {len(above)} labels above {classes - 1}: {shown(above)}; expected labels "
            f"from 0 to {classes - 1} for {classes} classes"
        )


def _check_files(results: Path, labels: Path, label_of: dict[str, int]) -> None:
    """Compare the files that are there with the images that have labels."""
    try:
        found = {entry.name for entry in results.iterdir()}
    except OSError as error:
        raise DataError(
            f"{results}: {error.strerror or error}; expected a folder of <stem>{SUFFIX} files; "
            "name another with --results"
        ) from error
    expected = {stem + SUFFIX for stem in label_of}
    differences = [
        f"{len(names)} {what} ({shown(sorted(names))})"
        for what, names in (("missing", expected - found), ("extra", found - expected))
        if names
    ]
    if differences:
        raise DataError(
            f"{results} does not hold one file <stem>{SUFFIX} for each of the {len(label_of)} "
            f"images of {labels}: {'; '.join(differences)}; run the inference again, or name the "
            "labels that belong to it with --labels"
        )


def _check_sizes(results: Path, files: Sequence[Path], dtype: str, classes: int) -> None:
    expected = classes * _item_bytes(dtype)
    wrong = {file.name: size for file in files if (size := file.stat().st_size) != expected}
    if not wrong:
        return
    listed = shown(f"{name} {size}" for name, size in wrong.items())
    fix = "run the inference again"
    if len(wrong) == len(files) and len(set(wrong.values())) == 1:
        fix = _fix(next(iter(wrong.values())), classes)
    raise DataError(
        f"{len(wrong)} of {len(files)} files in {results} do not have the {expected} bytes of "
        f"{classes} logits in {dtype}: {listed}; {fix}"
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


def _parts(
    files: Sequence[Path], labels: Sequence[int], dtype: str
) -> Iterable[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """Yield logits ``[B, K]`` and labels ``[B]``."""
    import numpy as np

    for start in range(0, len(files), _FILES_AT_ONCE):
        part = files[start : start + _FILES_AT_ONCE]
        logits = np.stack([np.fromfile(file, DTYPES[dtype]) for file in part])
        bad = [file.name for file, row in zip(part, logits, strict=True) if not _finite(row)]
        if bad:
            raise NonFiniteError(
                f"{len(bad)} files hold logits that are not finite: {shown(bad)}; weights or "
                "activations overflowed where they were computed"
            )
        chosen = np.asarray(labels[start : start + _FILES_AT_ONCE], np.int64)
        yield logits.astype(np.float32), chosen


def _finite(row: NDArray[np.float32]) -> bool:
    import numpy as np

    return bool(np.isfinite(row).all())

"""Offline results: the raw logits of every image in files, and the accuracy from these alone.

    result_Files/<stem>_0.bin             logits of one image: K numbers, little-endian, no header
    time_Result/test_perform_static.txt   mean time of one call of the predictor
    imagenet_label.json                   {"<file name>": <label>, ...}, labels from 0
    acc.log, result.json                  the score

This is how a model is judged on a machine that cannot run this package: a small program there
writes the results, and ``score`` reads them. ``predict`` writes the same files with any predictor.
"""

from __future__ import annotations

import json
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from runner.data.layouts.images import shown, stem_of
from runner.errors import ArtifactError, DataError, NonFiniteError, StorageError, UsageError
from runner.storage.files import write_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Any

    import numpy as np
    from numpy.typing import NDArray

    from runner.artifacts.artifact import ArtifactModel
    from runner.session.opening import Split

RESULTS, LABELS, LOG = "result_Files", "imagenet_label.json", "acc.log"
TIMES = "time_Result/test_perform_static.txt"
SUFFIX = "_0.bin"
"""What follows the stem: the number of the model's output, and the ending."""

DTYPES = {"float16": "<f2", "float32": "<f4"}
"""Types of the logits, and how NumPy spells them, little-endian."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How long the predictor took, without reading, decoding and normalising images."""

    average_ms: float
    """Mean time of one call, in milliseconds."""
    calls: int
    runtime: Mapping[str, Any]
    """What ran (JSON)."""

    def line(self) -> str:
        """Return what the timing file says."""
        return f"NN inference cost average time: {self.average_ms:g} ms of infer_count {self.calls}"


def check_output(folder: Path) -> None:
    """Refuse a folder that holds something already.

    Raises:
        UsageError: It is not empty, or not a folder.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UsageError(
            f"{folder} is in the way; name a folder for --output that is empty or does not exist"
        )


def predict(
    model: ArtifactModel,
    split: Split,
    output: Path,
    *,
    dtype: str,
    batch_size: int,
) -> Timing:
    """Predict every image of a split and write all files but the score.

    The first batch is predicted once more before the clock starts, because some runtimes compile
    at their first call.

    Args:
        model: The artifact in its runtime.
        split: The images.
        output: Folder to write to.
        dtype: Type of the logits in the files: ``float16`` or ``float32``.
        batch_size: Images in one call of the predictor.

    Raises:
        ArtifactError: A logit is too large for ``dtype``.
        DataError: Two images have the same stem, or an image is damaged.
        NonFiniteError: A logit is NaN or infinite.
        StorageError: A file cannot be written.
    """
    paths = [split.dataset.describe(index) for index in range(len(split.dataset.labels))]
    check_stems(paths)
    labels: dict[str, int] = {}
    seconds, calls = 0.0, 0
    _make_folders(output)
    with closing(split.loader.eval_batches(batch_size)) as batches:
        for batch in batches:
            inputs = model.inputs(batch.images)
            if not calls:
                model.predict(inputs)
            start = time.perf_counter()
            logits = model.predict(inputs)
            seconds += time.perf_counter() - start
            calls += 1
            names = [PurePosixPath(paths[index]).name for index in batch.indices]
            labels.update(zip(names, batch.labels.tolist(), strict=True))
            _write_logits(output / RESULTS, names, logits, dtype)
    if not calls:
        raise DataError("no image was predicted: the validation split is empty or all damaged")
    timing = Timing(average_ms=1000 * seconds / calls, calls=calls, runtime=model.describe())
    write_text(output / TIMES, timing.line() + "\n")
    write_text(output / LABELS, json.dumps(labels) + "\n")
    return timing


def check_stems(paths: Sequence[str]) -> None:
    """Refuse images whose files would have the same name."""
    seen: dict[str, list[str]] = {}
    for path in paths:
        seen.setdefault(stem_of(path), []).append(path)
    shared = [f"{stem} ({' and '.join(same[:3])})" for stem, same in seen.items() if len(same) > 1]
    if shared:
        raise DataError(
            f"files are named by the image's name up to its first dot, and {len(shared)} such "
            f"names stand for several images: {shown(shared)}; rename the images"
        )


def _make_folders(output: Path) -> None:
    try:
        for folder in (output / RESULTS, (output / TIMES).parent):
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot write {output}: {error.strerror or error}") from error


def _write_logits(
    folder: Path, names: Sequence[str], logits: NDArray[np.float32], dtype: str
) -> None:
    import numpy as np

    if not np.isfinite(logits).all():
        bad = [name for name, row in zip(names, logits, strict=True) if not np.isfinite(row).all()]
        raise NonFiniteError(
            f"the logits of {shown(bad)} are not finite; export weights from before, or with "
            "another precision.compute"
        )
    largest = float(np.abs(logits).max())
    if largest > np.finfo(dtype).max:
        raise ArtifactError(
            f"a logit of magnitude {largest:g} does not fit {dtype}; write float32: --dtype float32"
        )
    for name, row in zip(names, logits.astype(DTYPES[dtype]), strict=True):
        file = folder / (stem_of(name) + SUFFIX)
        try:
            file.write_bytes(row.tobytes())
        except OSError as error:
            raise StorageError(f"cannot write {file}: {error.strerror or error}") from error

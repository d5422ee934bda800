"""Accuracy from files of logits and labels; ``logits`` and ``results`` describe them.

acc.log        Total data: <N>, top1 accuracy: <share>, top5 accuracy: <share>.
result.json    number of images and classes, and top-1 to top-5, all as text
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from runner.artifacts.offline import labels as label_files
from runner.artifacts.offline import results as result_files
from runner.artifacts.offline.logits import LABELS, LOG, RESULTS
from runner.data.layouts.images import shown
from runner.errors import DataError
from runner.session import metrics
from runner.storage.files import write_json, write_output
from runner.terminal.display import counted

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Any

    from runner.session.metrics import Evaluation

SUMMARY = "result.json"
CLASSES_WITH_BACKGROUND = 1001
"""Logits of a model whose first class is the background, so that the label 0 is its class 1."""
_RANKS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What files of logits are worth."""

    evaluation: Evaluation
    top: tuple[float, ...]
    """Share of images whose label is among the 1, 2, ... 5 highest logits."""
    classes: int
    """Logits of an image."""
    label_offset: int
    """What was added to the labels."""

    def as_data(self) -> dict[str, Any]:
        """Return everything (JSON)."""
        tops = {f"val.top{place}": share for place, share in enumerate(self.top, 1)}
        return {
            "metrics": {**tops, **self.evaluation.as_metrics()},
            "classes": self.classes,
            "label_offset": self.label_offset,
        }

    def summary(self) -> dict[str, Any]:
        """Return what ``result.json`` says: every value as text, shares in per cent."""
        values = [
            ("Number of images", str(self.evaluation.count)),
            ("Number of classes", str(self.classes)),
            *(
                (f"Top{place} accuracy", f"{100 * share:.2f}%")
                for place, share in enumerate(self.top, 1)
            ),
        ]
        return {
            "title": "Overall statistical evaluation",
            "value": [{"key": key, "value": value} for key, value in values],
        }

    def line(self) -> str:
        """Return what the accuracy log says."""
        found = self.evaluation
        return (
            f"Total data: {found.count}, top1 accuracy: {found.top1}, top5 accuracy: {found.top5}."
        )


def score_folder(
    folder: Path,
    *,
    results: Path | None = None,
    labels: Path | None = None,
    dtype: str | None = None,
    classes: int | None = None,
    output: int | None = None,
    label_offset: int | None = None,
) -> Score:
    """Score the files in ``folder``, or where the other paths say, and write the score into it.

    Raises:
        DataError: The files are not what ``score`` expects.
        NonFiniteError: A file holds NaN or infinite logits.
        StorageError: The score cannot be written.
        UsageError: ``dtype`` has no effect.
    """
    result = score(
        results or folder / RESULTS,
        labels or folder / LABELS,
        dtype=dtype,
        classes=classes,
        output=output,
        label_offset=label_offset,
    )
    write_json(folder / SUMMARY, result.summary())
    write_output(folder / LOG, result.line() + "\n")
    return result


def score(
    results: Path,
    labels: Path,
    *,
    dtype: str | None = None,
    classes: int | None = None,
    output: int | None = None,
    label_offset: int | None = None,
) -> Score:
    """Compute the accuracy from files alone.

    Classes are ranked by descending logit; among equal logits the lower class comes first.

    Args:
        results: Folder of the files ``<image>_<output>.bin`` or ``.txt``.
        labels: The label of each image, as lines or, in a ``.json`` file, as an object.
        dtype: Type of the logits in ``.bin`` files, ``float16`` or ``float32``.
        classes: Logits in each file. Left out, text tells; in ``.bin`` files it is one more than
            the largest label.
        output: The model's output to score, where the files of others are there as well.
        label_offset: Added to the labels. Left out it is 0, or 1 where there are known to be 1001
            logits: then the first class is the background.

    Raises:
        DataError: Labels or results are damaged, missing, or do not belong together.
        NonFiniteError: A file holds NaN or infinite logits.
        UsageError: ``dtype`` has no effect.
    """
    label_of = label_files.read(labels)
    stems = sorted(label_of)
    found = result_files.find(results, stems, labels=labels, dtype=dtype, output=output)
    try:
        known = classes or result_files.count_columns(found)
        if label_offset is None:
            label_offset = 1 if known == CLASSES_WITH_BACKGROUND else 0
        count = known or max(label_of.values()) + 1 + label_offset
        _check_range(labels, label_of, count, label_offset)
        chosen = [label_of[stem] + label_offset for stem in stems]
        return _count(found, chosen, count, label_offset)
    except OSError as error:
        raise DataError(
            f"{error.filename}: {error.strerror or error}; check its permissions"
        ) from error


def _count(
    found: result_files.Results, labels: Sequence[int], classes: int, label_offset: int
) -> Score:
    import numpy as np

    at_rank = np.zeros(_RANKS, np.int64)
    counts, start = [], 0
    for logits in result_files.read(found, classes):
        part = np.asarray(labels[start : start + len(logits)], np.int64)
        start += len(logits)
        counts.append(metrics.count_correct(logits, part))
        ranks = metrics.ranks_of(logits, part)
        at_rank += np.bincount(ranks[ranks < _RANKS], minlength=_RANKS)
    evaluation = metrics.total(counts, classes)
    top = np.cumsum(at_rank) / evaluation.count
    return Score(
        evaluation=evaluation, top=tuple(top.tolist()), classes=classes, label_offset=label_offset
    )


def _check_range(path: Path, label_of: dict[str, int], classes: int, offset: int) -> None:
    largest = classes - 1 - offset
    above = [f"{stem}: {label}" for stem, label in label_of.items() if label > largest]
    if above:
        raise DataError(
            f"{path} has {counted(len(above), 'label')} above {largest}: {shown(above)}; expected "
            f"labels from 0 to {largest} for {counted(classes, 'class')}"
            + (f", to which {offset} is added: say --label-offset 0 if it is not to be" * offset)
        )

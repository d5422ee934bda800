"""Accuracy from logits, and rates of images."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from runner.contracts import EvalCounts
from runner.errors import DataError, NonFiniteError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    import numpy as np
    from numpy.typing import NDArray

    from runner.contracts import Batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The result of an evaluation over a whole split."""

    top1: float
    """Share of images whose label has the highest logit, in [0, 1]."""
    top5: float
    """Share of images whose label is among the five highest logits."""
    loss: float
    """Mean cross-entropy, without label smoothing."""
    count: int
    """Images evaluated."""

    def as_metrics(self) -> dict[str, float]:
        """Return the values under their metric names."""
        return {
            "val.top1": self.top1,
            "val.top5": self.top5,
            "val.loss": self.loss,
            "val.count": self.count,
        }


def add_up(counts: Iterable[EvalCounts]) -> EvalCounts:
    """Add up the counts of batches."""
    top1 = top5 = count = 0
    loss_sum = 0.0
    for part in counts:
        top1 += part.top1
        top5 += part.top5
        loss_sum += part.loss_sum
        count += part.count
    return EvalCounts(top1=top1, top5=top5, loss_sum=loss_sum, count=count)


def total(counts: Iterable[EvalCounts]) -> Evaluation:
    """Turn the counts of all batches into the result of the split.

    Raises:
        DataError: They count no image.
        NonFiniteError: The loss is NaN or infinite.
    """
    whole = add_up(counts)
    if not whole.count:
        raise DataError("no image was evaluated: the validation split is empty or all damaged")
    if not math.isfinite(whole.loss_sum):
        raise NonFiniteError(
            f"the loss of the evaluation is {whole.loss_sum}: weights or activations are not "
            "finite; use weights from before, or another precision.compute"
        )
    return Evaluation(
        top1=whole.top1 / whole.count,
        top5=whole.top5 / whole.count,
        loss=whole.loss_sum / whole.count,
        count=whole.count,
    )


def count_correct(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> EvalCounts:
    """Count correct predictions and add up the cross-entropy.

    Among equal logits the lower class leads, as in argmax. An image with a logit that is not
    finite counts as wrong. With fewer than five classes top-5 is top-K.

    Args:
        logits: ``[B, K]``.
        labels: ``[B]``.
    """
    import numpy as np

    values = logits.astype(np.float64)
    rows = np.arange(len(labels))
    target = values[rows, labels]
    # The rank of a label is the number of classes that beat it.
    tied = (values == target[:, None]) & (np.arange(values.shape[1]) < labels[:, None])
    rank = ((values > target[:, None]) | tied).sum(axis=1)
    finite = np.isfinite(values).all(axis=1)
    with np.errstate(invalid="ignore"):  # infinite logits have no finite loss
        shifted = values - values.max(axis=1, keepdims=True)
        log_sum = np.log(np.exp(shifted).sum(axis=1))
    return EvalCounts(
        top1=int((finite & (rank < 1)).sum()),
        top5=int((finite & (rank < 5)).sum()),
        loss_sum=float((log_sum - shifted[rows, labels]).sum()),
        count=len(labels),
    )


def probabilities(logits: NDArray[np.float32]) -> NDArray[Any]:
    """Return the softmax of logits ``[B, K]``."""
    import numpy as np

    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))


@final
class Throughput:
    """Images per second over the time that was spent in training steps.

    A window ends when the device is known to be idle, that is when a loss was read. The first
    window holds warm-up (memory allocation, kernel selection, compilation) and is left out of the
    total, unless it is the only one.
    """

    def __init__(self) -> None:
        self._windows = 0
        self._images = self._seconds = self._waited = 0.0

    def add(self, images: float, seconds: float, waited: float) -> None:
        """Add a window of ``seconds``, of which ``waited`` were spent waiting for data."""
        if self._windows == 1:  # the first window stands alone until there is a second
            self._images = self._seconds = self._waited = 0.0
        self._windows += 1
        self._images += images
        self._seconds += seconds
        self._waited += waited

    def images_per_s(self) -> float | None:
        """Return the rate over all windows after the first."""
        return self._images / self._seconds if self._seconds else None

    def data_wait(self) -> float | None:
        """Return the share of time that the loop waited for data, in [0, 1]."""
        return self._waited / self._seconds if self._seconds else None


@final
class Window:
    """The steps since the last log line: images, time, and time spent waiting for data."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Begin a new window now."""
        self.images = 0
        self.waited = 0.0
        self._start = time.perf_counter()

    def seconds(self) -> float:
        """Return how long it has lasted."""
        return time.perf_counter() - self._start

    def timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yield the batches, counting them and the time it takes to get them."""
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - asked
            if batch is None:
                return
            self.images += len(batch.labels)
            yield batch

"""Accuracy and loss from logits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runner.contracts import EvalCounts
from runner.errors import DataError, NonFiniteError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    import numpy as np
    from numpy.typing import NDArray


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
    num_classes: int

    def as_metrics(self) -> dict[str, float]:
        """Return the values under their metric names.

        Top-5 is left out where there are no more classes than that, as it is 1 whatever the model.
        """
        top5 = {"val.top5": self.top5} if self.num_classes > 5 else {}
        return {"val.top1": self.top1, **top5, "val.loss": self.loss, "val.count": self.count}


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


def total(counts: Iterable[EvalCounts], num_classes: int) -> Evaluation:
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
        num_classes=num_classes,
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
    rank = ranks_of(values, labels)
    finite = np.isfinite(values).all(axis=1)
    with np.errstate(invalid="ignore"):  # infinite logits have no finite loss
        shifted = values - values.max(axis=1, keepdims=True)
        log_sum = np.log(np.exp(shifted).sum(axis=1))
    return EvalCounts(
        top1=int((finite & (rank < 1)).sum()),
        top5=int((finite & (rank < 5)).sum()),
        loss_sum=float((log_sum - shifted[np.arange(len(labels)), labels]).sum()),
        count=len(labels),
    )


def ranks_of(logits: NDArray[Any], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the number of classes ``[B]`` that beat each label; of equals the lower one does.

    Args:
        logits: ``[B, K]``.
        labels: ``[B]``.
    """
    import numpy as np

    target = logits[np.arange(len(labels)), labels][:, None]
    tied = (logits == target) & (np.arange(logits.shape[1]) < labels[:, None])
    rank: NDArray[np.int64] = ((logits > target) | tied).sum(axis=1)
    return rank


def probabilities(logits: NDArray[np.float32]) -> NDArray[Any]:
    """Return the softmax of logits ``[B, K]``."""
    import numpy as np

    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))

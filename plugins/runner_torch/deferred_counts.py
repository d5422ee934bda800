"""What steps return while the device still computes it.

Shapes: B images, K classes.
"""

from __future__ import annotations

from typing import final

from runner.contracts import EvalCounts, StepResult
from runner_torch.autoload import torch


@final
class DeferredStep:
    """The result of a step, still on the device."""

    def __init__(self, loss: torch.Tensor, skipped: torch.Tensor | None) -> None:
        self._loss = loss
        self._skipped = skipped

    def read(self) -> StepResult:
        """Wait for the device and return the result."""
        skipped = self._skipped is not None and bool(self._skipped)
        return StepResult(loss=float(self._loss), skipped=skipped)


@final
class DeferredCounts:
    """The counts of an evaluation batch, still on the device."""

    def __init__(self, sums: torch.Tensor, count: int) -> None:
        self._sums = sums
        self._count = count

    def read(self) -> EvalCounts:
        """Wait for the device and return the counts."""
        top1, top5, loss_sum = self._sums.cpu().tolist()
        return EvalCounts(top1=int(top1), top5=int(top5), loss_sum=loss_sum, count=self._count)


def count(logits: torch.Tensor, labels: torch.Tensor) -> DeferredCounts:
    """Count correct predictions as ``session.metrics.count_correct`` does, and add the losses.

    Args:
        logits: In ``float32``, ``[B, K]``.
        labels: Classes ``[B]``.
    """
    with torch.inference_mode():
        own, classes = logits.gather(1, labels[:, None]), logits.shape[1]
        lower = torch.arange(classes, device=labels.device) < labels[:, None]
        rank = ((logits > own) | ((logits == own) & lower)).sum(dim=1)
        rank = rank.masked_fill(~logits.isfinite().all(dim=1), classes + 5)
        loss_sum = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
        # fp32 counts exactly up to 2^24 images, and not every device has fp64
        top1, top5 = ((rank < limit).sum(dtype=torch.float32) for limit in (1, 5))
        return DeferredCounts(torch.stack([top1, top5, loss_sum]), len(labels))

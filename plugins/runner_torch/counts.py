"""Counts of correct predictions, on the device.

Shapes: B images, K classes.
"""

from __future__ import annotations

from runner_torch.autoload import torch


def count(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Count correct predictions as ``session.metrics.count_correct`` does, and add the losses.

    Args:
        logits: In ``float32``, ``[B, K]``.
        labels: Classes ``[B]``.

    Returns:
        Top-1, top-5 and the sum of the losses, ``[3]``.
    """
    own, classes = logits.gather(1, labels[:, None]), logits.shape[1]
    lower = torch.arange(classes, device=labels.device) < labels[:, None]
    rank = ((logits > own) | ((logits == own) & lower)).sum(dim=1)
    rank = rank.masked_fill(~logits.isfinite().all(dim=1), classes + 5)
    loss_sum = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
    # fp32 counts exactly up to 2^24 images, and not every device has fp64
    top1, top5 = ((rank < limit).sum(dtype=torch.float32) for limit in (1, 5))
    return torch.stack([top1, top5, loss_sum])

"""Softmax cross-entropy, in fp32, averaged over the images.

Shapes: B images, K classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.framework.loss import smoothing_over_all
from runner_mindspore.autoload import Tensor, ms, nn, ops

if TYPE_CHECKING:
    from typing import Any

    from runner.recipe.schema import LossSection


class TrainingLoss(nn.Cell):
    """Cross-entropy with smoothed labels, plus the weighted losses of auxiliary heads.

    A model with auxiliary heads returns a tuple whose first element are the main logits.
    """

    def __init__(self, smoothing: float, aux_weight: float) -> None:
        super().__init__()
        self.smoothing = smoothing
        self.aux_weight = aux_weight

    def construct(self, output: Any, labels: Tensor) -> Tensor:
        """Return the mean loss, a scalar, for logits ``[B, K]`` and labels ``[B]``."""
        if not isinstance(output, tuple):
            return self._cross_entropy(output, labels)
        loss = self._cross_entropy(output[0], labels)
        for logits in output[1:]:
            loss = loss + self.aux_weight * self._cross_entropy(logits, labels)
        return loss

    def _cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        fp32 = logits.astype(ms.float32)
        return ops.cross_entropy(fp32, labels, label_smoothing=self.smoothing)


def training_loss(section: LossSection, num_classes: int) -> TrainingLoss:
    """Make the loss that a recipe asks for.

    Raises:
        UsageError: The smoothing leaves the true class less than the others.
    """
    return TrainingLoss(smoothing_over_all(section, num_classes), section.aux_weight)

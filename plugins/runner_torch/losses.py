"""Softmax cross-entropy, in fp32, averaged over the images.

Shapes: B images, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from runner.framework.loss import smoothing_over_all
from runner_torch.autoload import torch

if TYPE_CHECKING:
    from typing import Any

    from runner.recipe.schema import LossSection


def main_logits(output: Any) -> torch.Tensor:
    """Return the logits ``[B, K]`` of a model that may have auxiliary heads behind them."""
    logits: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return logits


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingLoss:
    """Cross-entropy with smoothed labels, plus the weighted losses of auxiliary heads.

    A model with auxiliary heads returns a tuple whose first element are the main logits, as
    torchvision's GoogLeNet does. (Scripts of pytorch_modelzoo take the last one for them
    and so train and report an auxiliary head.)
    """

    smoothing: float
    """As ``torch.nn.functional.cross_entropy`` means it: mass spread over all K classes."""
    aux_weight: float

    def __call__(self, output: Any, labels: torch.Tensor) -> torch.Tensor:
        """Return the mean loss, a scalar, for logits ``[B, K]`` and labels ``[B]``."""
        heads = output if isinstance(output, tuple) else (output,)
        main, *auxiliary = (self._cross_entropy(logits, labels) for logits in heads)
        if auxiliary:
            main = main + self.aux_weight * sum(auxiliary)
        return main

    def _cross_entropy(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(
            logits.float(), labels, label_smoothing=self.smoothing
        )


def training_loss(section: LossSection, num_classes: int) -> TrainingLoss:
    """Make the loss that a recipe asks for.

    Raises:
        UsageError: The smoothing leaves the true class less than the others.
    """
    smoothing = smoothing_over_all(section, num_classes)
    return TrainingLoss(smoothing=smoothing, aux_weight=section.aux_weight)

"""Softmax cross-entropy, in fp32, averaged over the images.

Shapes: B images, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from runner.errors import PluginError, UsageError
from runner_torch.autoload import torch

if TYPE_CHECKING:
    from typing import Any

    from runner.recipe.schema import LossSection


def main_logits(output: Any) -> torch.Tensor:
    """Return the logits ``[B, K]`` of a model that may have auxiliary heads behind them."""
    logits: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return logits


def check_output(output: Any, model: str, images: int, num_classes: int) -> None:
    """Check what a model returned; looks at shapes only, so does not wait for the device.

    Raises:
        PluginError: It is not logits ``[B, K]``, nor a tuple of such.
    """
    for logits in output if isinstance(output, tuple) and output else (output,):
        is_tensor = isinstance(logits, torch.Tensor)
        found = f"shape {list(logits.shape)}" if is_tensor else f"a {type(logits).__name__}"
        if not is_tensor or tuple(logits.shape) != (images, num_classes):
            raise PluginError(
                f"model {model} returned {found} for {images} images, expected logits of shape "
                f"{[images, num_classes]}; the entry's build must make as many outputs as the "
                f"num_classes it is given, {num_classes}"
            )


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingLoss:
    """Cross-entropy with smoothed labels, plus the weighted losses of auxiliary heads.

    A model with auxiliary heads returns a tuple whose first element are the main logits, as
    torchvision's GoogLeNet does. (Cambricon's vision_classification takes the last one for them
    and so trains and reports an auxiliary head.)
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

    Smoothing by s over the K-1 other classes (MindSpore, Ascend ModelZoo ResNet50_for_PyTorch)
    leaves 1-s on the true class and puts s/(K-1) on each other; spreading s*K/(K-1) over all
    classes does exactly that.

    Raises:
        UsageError: The smoothing leaves the true class less than the others.
    """
    smoothing = section.label_smoothing
    if smoothing and section.smooth_over == "others":
        largest = (num_classes - 1) / num_classes
        if smoothing > largest:
            raise UsageError(
                f"loss.label_smoothing is {smoothing}, which with {num_classes} classes leaves "
                f"the true class less than the others; use at most {largest:g}"
            )
        smoothing *= num_classes / (num_classes - 1)
    return TrainingLoss(smoothing=smoothing, aux_weight=section.aux_weight)

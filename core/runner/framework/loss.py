"""Softmax cross-entropy: what does not depend on the framework."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.errors import UsageError

if TYPE_CHECKING:
    from runner.recipe.schema import LossSection


def smoothing_over_all(section: LossSection, num_classes: int) -> float:
    """Return the recipe's label smoothing as mass spread over all K classes.

    Smoothing by s over the K-1 other classes (MindSpore, Ascend ModelZoo ResNet50_for_PyTorch)
    leaves 1-s on the true class and puts s/(K-1) on each other; spreading s*K/(K-1) over all
    classes does exactly that.

    Raises:
        UsageError: The smoothing leaves the true class less than the others.
    """
    smoothing = section.label_smoothing
    if not smoothing or section.smooth_over == "all":
        return smoothing
    largest = (num_classes - 1) / num_classes
    if smoothing > largest:
        raise UsageError(
            f"loss.label_smoothing is {smoothing}, which with {num_classes} classes leaves "
            f"the true class less than the others; use at most {largest:g}"
        )
    return smoothing * num_classes / (num_classes - 1)

"""Softmax cross-entropy: what does not depend on the framework.

Shapes: B images, K classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.errors import DataError, PluginError, UsageError
from runner.terminal.display import counted

if TYPE_CHECKING:
    from typing import Any

    import numpy as np
    from numpy.typing import NDArray

    from runner.recipe.schema import LossSection


def smoothing_over_all(section: LossSection, num_classes: int) -> float:
    """Return the recipe's label smoothing as mass spread over all K classes.

    Smoothing by s over the K-1 other classes (MindSpore, ResNet50_for_PyTorch of ModelZoo)
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
            f"loss.label_smoothing is {smoothing}, which with {counted(num_classes, 'class')} "
            f"leaves the true class less than the others; use at most {largest:g}"
        )
    return smoothing * num_classes / (num_classes - 1)


def check_labels(labels: NDArray[np.int64], num_classes: int) -> None:
    """Check the labels of a batch on the host; a device reads out of bounds or ignores them.

    Raises:
        DataError: A label is not one of the classes.
    """
    if labels.size and not (labels.min() >= 0 and labels.max() < num_classes):
        wrong = labels[(labels < 0) | (labels >= num_classes)]
        raise DataError(
            f"found label {wrong[0]} in a batch, expected 0 to {num_classes - 1} as the model has "
            f"{counted(num_classes, 'class')}; set dataset.num_classes to what the labels need"
        )


def check_output(output: Any, tensor_type: type, model: str, images: int, num_classes: int) -> None:
    """Check what a model returned; looks at shapes only, so does not wait for the device.

    Args:
        output: What the model returned.
        tensor_type: The framework's tensors.
        model: Name of the model.
        images: Images that it was given.
        num_classes: Classes that it was built with.

    Raises:
        PluginError: It is not logits ``[B, K]``, nor a tuple of such.
    """
    for logits in output if isinstance(output, tuple) and output else (output,):
        is_tensor = isinstance(logits, tensor_type)
        if is_tensor and tuple(logits.shape) == (images, num_classes):
            continue
        what = f"shape {list(logits.shape)}" if is_tensor else f"a {type(logits).__name__}"
        raise PluginError(
            f"model {model} returned {what} for {counted(images, 'image')}, expected logits of "
            f"shape {[images, num_classes]}; the entry's build must make as many outputs as the "
            f"num_classes it is given, {num_classes}"
        )

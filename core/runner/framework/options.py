"""Recipe keys of models and optimizers that several frameworks offer under one name.

A recipe that sets them runs on each of these frameworks unchanged.
"""

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt

from runner.options import options

Probability = Annotated[float, Ge(0), Lt(1)]
CHANGE_OUTPUT = ("max_pool_padding",)
"""Keys of models that change what they compute though the same weights fit."""


@options
class ResNetOptions:
    """Keys of the ResNet and ResNeXt models."""

    zero_init_last_gamma: bool = False
    """Start every residual block as the identity (Goyal et al. 2017, section 5.1)."""
    stem: Literal["imagenet", "small"] = "imagenet"
    """`small`, for images of about 32 pixels, is a 3x3 convolution of stride 1 without the max
    pooling after it (He et al. 2016, section 4.2)."""
    max_pool_padding: Literal["symmetric", "end"] = "symmetric"
    """Where the max pooling of the stem pads: one pixel on each side (torchvision), or, as in
    MindSpore's `same` mode, no more than is missing: of an even number of pixels, one at the bottom
    or right. Same weights, windows shifted by a pixel."""
    conv_init: Literal["fan_out", "fan_out_per_group"] = "fan_out"
    """Fan-out that fresh convolution weights are scaled by: of the whole layer, or of each group,
    as if the groups were layers of their own (MindSpore models resnext152_64x4d)."""

    classifier_init: Literal["uniform", "normal"] = "uniform"
    """Distribution of the last layer's fresh weights, with standard deviation
    1 / sqrt(3 * inputs) both: torch's default, or Kaiming normal with a = sqrt(5)."""

    def __post_init__(self) -> None:
        if self.stem == "small" and self.max_pool_padding != "symmetric":
            raise ValueError(
                f"max_pool_padding {self.max_pool_padding} has no effect with stem small, "
                "which has no max pooling; remove one of them"
            )


@options
class MobileNetOptions:
    """Keys of MobileNetV2."""

    dropout: Probability = 0.2
    """Probability of dropping a value before the classifier."""


@options
class SgdOptions:
    """Keys of `optimizer: sgd`."""

    momentum: Annotated[float, Ge(0), Lt(1)] = 0.9
    """Share of the previous update that the next one keeps."""
    nesterov: bool = False
    """Take the gradient where the momentum leads (Sutskever et al. 2013)."""
    dampening: Annotated[float, Ge(0), Le(1)] = 0.0
    """Share of the gradient that does not enter the momentum."""

    def __post_init__(self) -> None:
        if self.nesterov and (self.momentum == 0 or self.dampening != 0):
            raise ValueError(
                f"nesterov needs a momentum above 0 and a dampening of 0, "
                f"found momentum {self.momentum} and dampening {self.dampening}"
            )


@options
class AdamWOptions:
    """Keys of `optimizer: adamw`."""

    betas: tuple[Probability, Probability] = (0.9, 0.999)
    """Decay of the running means of the gradient and of its square."""
    eps: Annotated[float, Gt(0)] = 1e-8
    """Added to the denominator."""

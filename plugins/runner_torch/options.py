"""The keys that this plugin adds to a recipe."""

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt

from runner.options import options

Probability = Annotated[float, Ge(0), Lt(1)]


@options
class TorchOptions:
    """Keys of `framework: torch`."""

    compile: bool = False
    """Compile the model with `torch.compile`; the first step takes a minute or more, and the
    results differ from eager mode by rounding."""
    memory_format: Literal["auto", "contiguous", "channels_last"] = "auto"
    """Layout of images and convolution weights; `auto` is channels-last where the device gains
    from it."""
    deterministic: bool = False
    """Use deterministic kernels only, and stop at an operation that has none. The CPU repeats
    itself bit for bit without it; on other devices it costs speed."""


@options
class CpuOptions:
    """Keys of `device: cpu`."""

    threads: Annotated[int, Gt(0)] | None = None
    """Threads of one operation; left out, `OMP_NUM_THREADS` or else the cores of this process.
    Sums are taken in another order with another number, so results differ by rounding."""
    keep_freed_memory: bool = True
    """Keep memory that a step frees for the next one, instead of giving it back to the system;
    with the GNU C library only."""


@options
class CudaOptions:
    """Keys of `device: cuda`."""

    index: Annotated[int, Ge(0)] = 0
    """Which of the visible cards; `CUDA_VISIBLE_DEVICES` says which are visible."""
    tf32: bool = False
    """Round the inputs of fp32 convolutions and matrix products to 10 bits of mantissa, which is
    several times faster on NVIDIA GPUs since Ampere."""


@options
class ResNetOptions:
    """Keys of the ResNet and ResNeXt models."""

    zero_init_last_gamma: bool = False
    """Start every residual block as the identity (Goyal et al. 2017, section 5.1)."""
    stem: Literal["imagenet", "small"] = "imagenet"
    """`small`, for images of about 32 pixels, is a 3x3 convolution of stride 1 without the max
    pooling after it (He et al. 2016, section 4.2)."""


@options
class DropoutOptions:
    """Keys of AlexNet and VGG."""

    dropout: Probability = 0.5
    """Probability of dropping a value between the fully connected layers."""


@options
class MobileNetOptions:
    """Keys of MobileNetV2."""

    dropout: Probability = 0.2
    """Probability of dropping a value before the classifier."""


@options
class GoogLeNetOptions:
    """Keys of GoogLeNet."""

    dropout: Probability = 0.2
    """Probability of dropping a value before the classifier."""
    aux_dropout: Probability = 0.7
    """Probability of dropping a value in the auxiliary heads."""
    aux_heads: bool = True
    """Build the two auxiliary heads, which only training uses."""


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


@options
class OnnxOptions:
    """Keys of `export: onnx`."""

    opset: Annotated[int, Ge(11), Le(23)] = 20
    """Version of the ONNX operators. Below 18 the older TorchScript exporter is used, for
    converters that need such a version."""

"""The keys that this plugin adds to a recipe."""

import re
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from runner.framework.graphs import INPUT, OUTPUT
from runner.framework.options import Probability
from runner.options import options
from runner.storage.paths import check_name


@options
class TorchOptions:
    """Keys of `framework: torch`."""

    compile: bool = False
    """Compile the model with `torch.compile`; the first step takes a minute or more, and the
    results differ from eager mode by rounding. Not with batch normalisation in a lower format,
    which compiled kernels compute in fp32."""
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
    """Which of the visible cards, for a run on one; `CUDA_VISIBLE_DEVICES` says which are visible.
    `--devices 0,2,4,6` chooses those of a run on several."""
    tf32: bool = False
    """Round the inputs of fp32 convolutions and matrix products to 10 bits of mantissa, which is
    several times faster on NVIDIA GPUs since Ampere."""


@options
class DropoutOptions:
    """Keys of AlexNet and VGG."""

    dropout: Probability = 0.5
    """Probability of dropping a value between the fully connected layers."""


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
class OnnxOptions:
    """Keys of `export: onnx`."""

    opset: Annotated[int, Ge(11), Le(23)] = 20
    """Version of the ONNX operators. Below 18 the older TorchScript exporter is used, for
    converters that need such a version."""
    batch_size: Annotated[int, Gt(0)] | None = None
    """Images of a pass, for converters and runtimes that need a fixed shape; any number of them
    if left out."""
    input_name: str = INPUT
    """Name of the graph's input."""
    output_name: str = OUTPUT
    """Name of the graph's output."""
    file: str = "model.onnx"
    """Name of the file, in the folder of the artifact."""

    def __post_init__(self) -> None:
        check_name(self.file)
        if not re.fullmatch(r"[\w.-]+\.onnx", self.file):
            raise ValueError(
                f"file is {self.file!r}; expected a name without a folder that ends in .onnx"
            )
        if not self.input_name or not self.output_name or self.input_name == self.output_name:
            raise ValueError(
                f"input_name is {self.input_name!r} and output_name {self.output_name!r}; "
                "expected two different names"
            )


@options
class CompiledOptions:
    """Keys of `export: aot_inductor`."""

    batch_size: Annotated[int, Gt(0)] | None = None
    """Images of a pass, which lets the compiler do more; any number of them if left out."""

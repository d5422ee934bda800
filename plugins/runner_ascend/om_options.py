"""The keys of ``export: om``."""

from dataclasses import field
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from runner.options import options
from runner.storage.paths import check_name


@options
class OmOptions:
    """Keys of `export: om`."""

    soc_version: str
    """The processor to compile for: `Ascend` and the name that `npu-smi info` shows, such as
    `Ascend910A` or `Ascend310P3`."""
    batch_size: Annotated[int, Gt(0)] = 64
    """Images in one call of the compiled model."""
    crop: Literal["device", "host"] = "device"
    """Who does the last center_crop of the evaluation."""
    onnx_file: str | None = None
    """Name of the ONNX file; the model's when left out."""
    opset: Annotated[int, Ge(11), Le(23)] = 11
    """Version of the ONNX operators."""
    fixed_batch: bool = False
    """Write the batch into the ONNX file as well, which otherwise takes any."""
    input_name: str = "actual_input_1"
    """Name of the ONNX input."""
    output_name: str = "output1"
    """Name of the ONNX output."""
    enable_small_channel: bool = True
    """Let the compiler speed up a first convolution of up to four channels."""
    csc_switch: Literal[False] | None = None
    """`false` says in the AIPP file that colours are not converted, which is the default."""
    log: Literal["debug", "info", "warning", "error", "null"] = "error"
    """What the compiler tells."""
    atc_arguments: list[str] = field(default_factory=list)
    """Further arguments of `atc`."""
    infer_arguments: list[str] = field(default_factory=list)
    """Further arguments of `ais_bench`, such as `["--batchsize", "4"]`."""

    def __post_init__(self) -> None:
        if not self.soc_version.startswith("Ascend"):
            raise ValueError(
                f"soc_version is {self.soc_version!r}, expected Ascend and the name that "
                f"`npu-smi info` shows, such as Ascend{self.soc_version or '910A'}"
            )
        if self.onnx_file is not None:
            check_name(self.onnx_file)
            if not self.onnx_file.endswith(".onnx"):
                raise ValueError(
                    f"onnx_file is {self.onnx_file!r}, expected a name ending in .onnx"
                )

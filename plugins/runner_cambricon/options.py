"""The keys that this plugin adds to a recipe."""

from typing import Annotated, Literal

from annotated_types import Ge, Gt

from runner.options import options
from runner.terminal.display import counted


@options
class MluOptions:
    """Keys of `device: mlu`."""

    index: Annotated[int, Ge(0)] = 0
    """Which of the visible cards, for a run on one; `MLU_VISIBLE_DEVICES` says which are visible.
    `--devices 0,2,4,6` chooses those of a run on several."""


@options
class MagicMindOptions:
    """Keys of `export: magicmind`."""

    batch_size: Annotated[int, Gt(0)] = 64
    """Images of a pass; the compiled model takes no other number."""
    precision: Literal["fp32", "fp16"] = "fp32"
    """What the network computes in. With `fp16` it also takes its input in it."""
    quantize: Literal["int8", "int16"] | None = None
    """Quantise convolutions and matrix products; the scales come from the first images of the
    validation split."""
    calibration_batches: Annotated[int, Gt(0)] = 5
    """How many batches of `batch_size` images, for `quantize`."""

    def too_few(self, images: int) -> str:
        """Say that a validation split cannot calibrate the model; "" if it can, or need not."""
        if self.quantize is None or images >= self.batch_size:
            return ""
        return (
            f"the validation split has {counted(images, 'image')}, fewer than one batch of "
            f"{self.batch_size} to calibrate with; set the export's batch_size to at most that"
        )

"""The keys that this plugin adds to a recipe."""

from typing import Annotated, Literal

from annotated_types import Ge

from runner.options import options


@options
class NpuOptions:
    """Keys of `device: npu`. A switch that is left out keeps the vendor's setting."""

    index: Annotated[int, Ge(0)] = 0
    """Which of the visible cards, for a run on one; `ASCEND_RT_VISIBLE_DEVICES` says which are
    visible. `--devices 0,2,4,6` chooses those of a run on several."""
    jit_compile: bool | None = None
    """Compile each operator for the shapes that it meets, or take those that come with CANN
    (`false`, which the scripts of ModelZoo-PyTorch call binary mode)."""
    precision_mode: (
        Literal["allow_fp32_to_fp16", "must_keep_origin_dtype", "allow_mix_precision"] | None
    ) = None
    """What an operator may compute fp32 tensors in, CANN's `ACL_PRECISION_MODE`. The last value
    is for older releases of `torch_npu` only; later ones refuse it."""
    internal_format: bool | None = None
    """Let tensors take layouts of the hardware's own, such as NC1HWC0."""

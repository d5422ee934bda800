"""The compiler: it checks what it is given, and keeps the network as it is, in the type asked for.

What it returns is closed, as a compiled model is: no weights to move, one shape, one type.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch

from simulated_accelerator import STATE

if TYPE_CHECKING:
    from collections.abc import Sequence, Set

    from torch_mlu.inputs import Input
    from torch_mlu.ptq import DataLoaderCalibrator

FLOATS, INTEGERS = {torch.float32, torch.float16}, {torch.int8, torch.int16}


class Compiled(torch.nn.Module):
    """Takes images on the card, and returns logits there."""

    def __init__(self, network: Any, images: int, *, half: bool) -> None:
        super().__init__()
        self.network, self.images, self.half_input = network, images, half

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert images.shape[0] == self.images, "the model was compiled for another batch"
        assert (images.dtype == torch.float16) == self.half_input, "another type was compiled for"
        logits: torch.Tensor = self.network(images.to("cpu")).to(images.device)
        return logits


def compile(  # noqa: A001  the vendor's name
    module: torch.jit.ScriptModule,
    *,
    inputs: Sequence[Input],
    device: dict[str, int],
    enabled_precisions: Set[torch.dtype],
    truncate_long_and_double: bool = False,
    calibrator: DataLoaderCalibrator | None = None,
) -> Any:
    if not isinstance(module, torch.jit.ScriptModule):
        raise TypeError(f"expected a TorchScript module, found {type(module).__name__}")
    if not enabled_precisions <= FLOATS | INTEGERS or not enabled_precisions & FLOATS:
        raise ValueError(f"cannot compile for {enabled_precisions}")
    if bool(enabled_precisions & INTEGERS) != (calibrator is not None):
        raise ValueError("integers need a calibrator, and only they do")
    if calibrator is not None:
        calibrator.calibrate()
    asked = {
        "shapes": [item.shape for item in inputs],
        "device": device,
        "precisions": sorted(str(item) for item in enabled_precisions),
        "truncate_long_and_double": truncate_long_and_double,
    }
    STATE.options.setdefault("compiled", []).append(asked)
    half = torch.float16 in enabled_precisions
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates TorchScript
        network = module.half() if half else module
        closed = torch.jit.script(Compiled(network, inputs[0].shape[0], half=half).eval())
        return torch.jit.freeze(closed)

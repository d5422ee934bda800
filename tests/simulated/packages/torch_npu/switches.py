"""The vendor's switches and its loss scaler."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch

from simulated_accelerator import STATE, counted

ALLOWED = {
    "ACL_PRECISION_MODE": ("allow_fp32_to_fp16", "must_keep_origin_dtype"),
    "ACL_OP_SELECT_IMPL_MODE": ("high_performance", "high_precision"),
}
"""Values that the vendor's package accepts; it does not look at other options."""


class Config:
    """``torch.npu.config``: setting ``allow_internal_format`` takes effect at once."""

    def __setattr__(self, name: str, value: object) -> None:
        STATE.options[name] = value


def set_compile_mode(jit_compile: bool = False) -> None:
    STATE.options["jit_compile"] = jit_compile


def set_option(option: dict[str, Any]) -> None:
    for name, value in option.items():
        allowed = ALLOWED.get(name)
        if allowed is not None and value not in allowed:
            raise ValueError(f"value of {name} should be in {list(allowed)} but got {value}")
        STATE.options[name] = value


class GradScaler(torch.amp.GradScaler):
    """Takes no device, and refuses tensors of other devices, as the vendor's does."""

    def __init__(
        self,
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        dynamic: bool = True,
        enabled: bool = True,
    ) -> None:
        STATE.calls["amp.GradScaler"] += 1
        super().__init__("npu", init_scale, growth_factor, backoff_factor, growth_interval, enabled)

    def scale(self, outputs: Any) -> Any:
        if outputs.device.type != "npu":
            raise ValueError("Device type of outputs should be npu.")
        return super().scale(outputs)


def get_amp_supported_dtype() -> list[torch.dtype]:
    return [torch.float16, *([torch.bfloat16] if STATE.bf16 else []), torch.float32]


def add_to(npu: Any) -> None:
    """Add what the vendor's module has beyond the common functions, or instead of them."""
    for function in (set_compile_mode, set_option, get_amp_supported_dtype):
        setattr(npu, function.__name__, counted(function))
    npu.config = Config()


def amp() -> ModuleType:
    module = ModuleType("torch_npu.npu.amp")
    module.GradScaler = GradScaler  # type: ignore[attr-defined]
    return module

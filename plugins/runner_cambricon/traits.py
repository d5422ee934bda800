"""What Cambricon MLUs do differently under PyTorch. Imports no torch until a function is called."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from runner_torch.traits import DeviceTraits

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

VISIBLE_DEVICES = "MLU_VISIBLE_DEVICES"


def explain_absence() -> str:
    """Say what decides whether ``torch_mlu`` finds a card."""
    visible = os.environ.get(VISIBLE_DEVICES)
    return (
        "torch_mlu finds no card; `cnmon` lists those that the driver sees, "
        f"{VISIBLE_DEVICES} is {'not set' if visible is None else repr(visible)}"
    )


def describe(index: int) -> Mapping[str, Any]:
    """Return what identifies card and software (JSON)."""
    import torch_mlu

    properties = torch_mlu.mlu.get_device_properties(index)
    return {
        "name": properties.name,
        "memory_bytes": int(properties.total_memory),
        "torch_mlu": str(torch_mlu.__version__),
    }


def hardware_bf16() -> bool:
    """Ask the card: autocast accepts bf16 on every MLU, and those before the 500 series lack it."""
    import torch_mlu

    return bool(torch_mlu.mlu.is_bf16_supported())


MLU = DeviceTraits(
    kind="mlu",
    vendor_package="torch_mlu",
    distributed_backend="cncl",
    visible_devices=VISIBLE_DEVICES,
    channels_last=False,
    pinned_memory=True,
    explain_absence=explain_absence,
    describe=describe,
    hardware_bf16=hardware_bf16,
)

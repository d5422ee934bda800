"""What Ascend NPUs do differently under PyTorch. Imports no torch until a function is called."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, cast

from runner_torch.traits import DeviceTraits

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from runner_torch.autoload import torch

VISIBLE_DEVICES = "ASCEND_RT_VISIBLE_DEVICES"
CANN_FOLDER = "ASCEND_HOME_PATH"
"""Set by the ``set_env.sh`` of CANN, the vendor's libraries."""


def explain_absence() -> str:
    """Say what decides whether ``torch_npu`` finds a card."""
    cann, visible = os.environ.get(CANN_FOLDER), os.environ.get(VISIBLE_DEVICES)
    return (
        "torch_npu finds no card; `npu-smi info` lists those that the driver sees, "
        f"{VISIBLE_DEVICES} is {'not set' if visible is None else repr(visible)}, "
        + (f"CANN is {cann}" if cann else f"{CANN_FOLDER} is not set: source CANN's set_env.sh")
    )


def describe(index: int) -> Mapping[str, Any]:
    """Return what identifies card and software (JSON)."""
    import torch_npu

    properties = torch_npu.npu.get_device_properties(index)
    cann = os.environ.get(CANN_FOLDER)
    return {
        "name": properties.name,
        "memory_bytes": int(properties.total_memory),
        "torch_npu": str(torch_npu.__version__),
        "cann": None if cann is None else str(Path(cann).resolve()),
    }


def loss_scaler() -> torch.amp.GradScaler:
    """Make the vendor's scaler.

    On cards before the Atlas A2 series a number that is too large becomes the largest one, not
    infinite; the vendor's scaler reads the flag that the hardware raises, torch's finds nothing.
    """
    import torch_npu

    return cast("torch.amp.GradScaler", torch_npu.npu.amp.GradScaler())


NPU = DeviceTraits(
    kind="npu",
    vendor_package="torch_npu",
    distributed_backend="hccl",
    group_environment={"HCCL_WHITELIST_DISABLE": "1"},  # otherwise it needs a file of addresses
    visible_devices=VISIBLE_DEVICES,
    address_variables=("HCCL_IF_IP",),
    channels_last=False,
    pinned_memory=True,
    explain_absence=explain_absence,
    describe=describe,
    loss_scaler=loss_scaler,
)

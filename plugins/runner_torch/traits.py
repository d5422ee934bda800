"""What kinds of device do differently, one row each; nothing else in this plugin names a kind.

This module imports torch only when a row's function is called.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from runner.framework import device_traits as framework
from runner.framework.cores import available_cores
from runner.terminal.display import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from runner_torch.autoload import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceTraits(framework.DeviceTraits):
    """One kind of device, as ``torch.device`` and ``torch.autocast`` name it."""

    channels_last: bool
    """Convolutions are at least as fast on channels-last tensors."""
    pinned_memory: bool
    """Copies from page-locked host memory do not block."""
    explain_absence: Callable[[], str] = field(default=lambda: "it reports no device")
    """Say why ``is_available()`` answered no."""
    loss_scaler: Callable[[], torch.amp.GradScaler] | None = None
    """Make the vendor's own dynamic loss scaler, for hardware on which an overflow does not
    become infinite; torch's generic one when ``None``."""


def _describe_cpu(_index: int) -> Mapping[str, Any]:
    from runner_torch.autoload import torch

    return {
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": available_cores(),
    }


def _explain_no_cuda() -> str:
    from runner_torch.autoload import torch

    if torch.version.cuda is None:
        return f"torch {torch.__version__} was built without CUDA"
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]  # torch
        answer = counted(torch.cuda.device_count(), "device")
    except (RuntimeError, AssertionError) as error:
        answer = str(error).split(". ")[0].strip()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return (
        f"torch {torch.__version__} for CUDA {torch.version.cuda} answers {answer!r}; "
        f"CUDA_VISIBLE_DEVICES is {'not set' if visible is None else repr(visible)}"
    )


def _describe_cuda(index: int) -> Mapping[str, Any]:
    from runner_torch.autoload import torch

    properties = torch.cuda.get_device_properties(index)
    return {
        "name": properties.name,
        "memory_bytes": properties.total_memory,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]  # torch
    }


CPU = DeviceTraits(
    kind="cpu",
    is_host=True,
    distributed_backend="gloo",
    channels_last=True,
    pinned_memory=False,
    slow_formats={
        "fp16": "most processors have no instructions for it",
        "bf16": "only recent processors have instructions for it (AMX, AVX-512 BF16)",
    },
    describe=_describe_cpu,
)

CUDA = DeviceTraits(
    kind="cuda",
    distributed_backend="nccl",
    visible_devices="CUDA_VISIBLE_DEVICES",
    card_environment={"CUDA_DEVICE_ORDER": "PCI_BUS_ID"},  # by speed otherwise
    interface_variables=("NCCL_SOCKET_IFNAME",),
    channels_last=True,
    pinned_memory=True,
    native_sync_batch_norm=True,
    explain_absence=_explain_no_cuda,
    describe=_describe_cuda,
)

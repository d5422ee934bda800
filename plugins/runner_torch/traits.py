"""What kinds of device do differently, one row each; nothing else in this plugin names a kind.

This module imports torch only when a row's function is called.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from runner.framework.cores import available_cores
from runner.terminal.display import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from runner_torch.autoload import torch


def _nothing(_index: int) -> Mapping[str, Any]:
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceTraits:
    """One kind of device, as ``torch.device`` and ``torch.autocast`` name it."""

    kind: str
    vendor_package: str | None = None
    """Module whose import adds the kind to torch, such as ``torch_acme``."""
    is_host: bool = False
    """The kind is the processor itself: one device, no index, no memory or random state of its
    own, nothing to wait for."""
    distributed_backend: str
    """Back-end of ``torch.distributed`` for tensors of the kind, such as ``nccl``."""
    group_environment: Mapping[str, str] = field(default_factory=dict)
    """Environment of processes that train together, where the user has not set it."""
    visible_devices: str | None = None
    """Environment variable that chooses physical cards."""
    card_environment: Mapping[str, str] = field(default_factory=dict)
    """Further variables that make its numbers those that the vendor's tools show."""
    interface_variables: tuple[str, ...] = ()
    """Environment variables that take the network interface towards other machines."""
    address_variables: tuple[str, ...] = ()
    """Environment variables that take the address of this machine towards others."""
    pod_variable: str = ""
    """Environment variable by which pods of the vendor's cluster software are known: with one card
    they are told their place in the words in which torchrun tells a process its own."""
    channels_last: bool
    """Convolutions are at least as fast on channels-last tensors."""
    pinned_memory: bool
    """Copies from page-locked host memory do not block."""
    native_sync_batch_norm: bool = False
    """There are kernels for torch's own ``SyncBatchNorm``; this plugin's is used otherwise."""
    explain_absence: Callable[[], str] = field(default=lambda: "it reports no device")
    """Say why ``is_available()`` answered no."""
    describe: Callable[[int], Mapping[str, Any]] = field(default=_nothing)
    """Return what identifies the hardware with this index (JSON)."""
    loss_scaler: Callable[[], torch.amp.GradScaler] | None = None
    """Make the vendor's own dynamic loss scaler, for hardware on which an overflow does not
    become infinite; torch's generic one when ``None``."""
    hardware_bf16: Callable[[], bool] | None = None
    """Ask the hardware for bf16, for kinds whose autocast accepts it in any case."""


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

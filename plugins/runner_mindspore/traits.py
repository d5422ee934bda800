"""What kinds of device do differently, one row each; nothing else in this plugin names a kind.

This module imports MindSpore only when a row's function is called.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from runner.framework import device_traits as framework
from runner.framework.cores import available_cores

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceTraits(framework.DeviceTraits):
    """One kind of device."""

    target: str
    """What ``mindspore.set_device`` calls it."""
    bind_cores: bool = False
    """msrun binds each process to the cores that are nearest to its card."""
    exchange_timeout: str = ""
    """Environment variable that takes the seconds after which an exchange fails; "" if there is
    none."""
    needs: str = ""
    """What must be installed beside MindSpore."""
    writes_air: bool = False
    """MindSpore can write AIR files, which is work of the compiler of this kind."""


def _describe_cpu(_index: int) -> Mapping[str, Any]:
    return {"cores": available_cores()}


def _describe_gpu(index: int) -> Mapping[str, Any]:
    from runner_mindspore.autoload import ms

    return {"name": ms.hal.get_device_name(index, "GPU")}


def _describe_ascend(index: int) -> Mapping[str, Any]:
    from runner_mindspore.autoload import ms

    return {"name": ms.hal.get_device_name(index, "Ascend")}


def _ascend_has_bf16() -> bool:
    """Say whether the card is of a generation after the 910 and the 310, which have no bf16."""
    from mindspore._c_expression import MSContext

    generation: str = MSContext.get_instance().get_ascend_soc_version()
    return generation not in {"ascend910", "ascend310", "ascend310p"}


CPU = DeviceTraits(
    kind="cpu",
    target="CPU",
    is_host=True,
    distributed_backend="mccl",
    group_environment={
        # Seconds until the scheduler notices that a process is gone; 45 by default. Other kinds
        # of device use the same time for more than that.
        "MS_NODE_TIMEOUT": "10",
        # Seconds until a process notices that the scheduler is gone; 30 by default. One that lives
        # on where the next attempt begins would register there.
        "MS_HEARTBEAT_RETRY_TIMEOUT": "10",
        "MS_SUBMODULE_LOG_v": "{DISTRIBUTED:3,DEVICE:3}",  # nothing but steps of the start
    },
    exchange_timeout="MS_CPU_COMM_OP_TIMEOUT",  # 15 by default, less than evaluating can take
    refused_formats={
        "bf16": "MindSpore has no bf16 kernels for convolution and batch normalisation on the CPU"
    },
    describe=_describe_cpu,
)

GPU = DeviceTraits(
    kind="gpu",
    target="GPU",
    distributed_backend="nccl",
    visible_devices="CUDA_VISIBLE_DEVICES",
    card_environment={"CUDA_DEVICE_ORDER": "PCI_BUS_ID"},  # by speed otherwise
    interface_variables=("NCCL_SOCKET_IFNAME",),
    needs="CUDA 11 with cuDNN 8",
    refused_formats={"bf16": "MindSpore's GPU kernels for convolution have no bf16"},
    describe=_describe_gpu,
)

ASCEND = DeviceTraits(
    kind="ascend",
    target="Ascend",
    distributed_backend="hccl",
    visible_devices="ASCEND_RT_VISIBLE_DEVICES",
    address_variables=("HCCL_IF_IP",),
    needs="CANN and the NPU driver",
    bind_cores=True,
    exchange_timeout="HCCL_EXEC_TIMEOUT",
    native_sync_batch_norm=True,
    writes_air=True,
    hardware_bf16=_ascend_has_bf16,
    describe=_describe_ascend,
)


KINDS = {traits.kind: traits for traits in (CPU, GPU, ASCEND)}
"""The rows of this plugin; ``device_entry`` adds those of others."""


def by_target(target: str) -> DeviceTraits:
    """Return the row of what ``mindspore.get_context("device_target")`` names."""
    return next(traits for traits in KINDS.values() if traits.target == target)

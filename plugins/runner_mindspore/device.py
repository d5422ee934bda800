"""Any device that MindSpore knows, behind one class; what differs comes from its row of traits."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final

from runner.contracts import Availability
from runner.errors import DeviceError
from runner.framework.cores import available_cores, threads_asked_for, visible_cores
from runner.framework.memory import peak_host_memory_bytes
from runner.terminal.display import counted
from runner_mindspore.autoload import ms, nn
from runner_mindspore.launch import launched_world_size
from runner_mindspore.messages import quiet, reason
from runner_mindspore.traits import ASCEND, CPU, GPU

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType
    from typing import Any

    from runner.recipe.schema import PrecisionSection
    from runner_mindspore.options import AscendOptions, CpuOptions, GpuOptions
    from runner_mindspore.traits import DeviceTraits

COMPUTE_TYPES = {"fp16": ms.float16, "bf16": ms.bfloat16}
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
FEWEST_THREADS = 2
"""Size of MindSpore's smallest pool of threads; it starts one of this size when asked for less."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class MindSporeDevice:
    """One device, opened for this process."""

    traits: DeviceTraits
    index: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What the device's options have put into effect (JSON)."""

    @property
    def name(self) -> str:
        """Name of the kind, which is also the name of the device entry."""
        return self.traits.kind

    def check_precision(self, section: PrecisionSection) -> None:
        """Make sure that the device really computes as asked.

        Raises:
            DeviceError: The device does not support the format.
        """
        problem = self.traits.not_computed.get(section.compute)
        ask = self.traits.hardware_bf16
        if problem is None and section.compute == "bf16" and ask is not None and not ask():
            problem = "the hardware has no bf16"
        if problem is not None:
            formats = [f for f in ("fp32", "fp16", "bf16") if f not in self.traits.not_computed]
            raise DeviceError(
                f"device {self.name} cannot compute in {section.compute}: {problem}; "
                f"set precision.compute to {' or '.join(formats)}"
            )

    def cast(self, net: nn.Cell, section: PrecisionSection) -> None:
        """Make a net compute in the formats that the recipe asks for.

        Parameters stay in fp32, and the net returns what its last layer computes in.
        """
        if section.compute == "fp32":
            return
        dtype = COMPUTE_TYPES[section.compute]
        if section.level == "auto":
            ms.amp.auto_mixed_precision(net, "auto", dtype)
            return
        net.to_float(dtype)
        if section.effective_batch_norm == "fp32":
            for _, cell in net.cells_and_names():
                if isinstance(cell, BATCH_NORMS):
                    cell.to_float(ms.float32)

    def synchronize(self) -> None:
        """Wait until the device is idle."""
        if not self.traits.is_host:
            ms.runtime.synchronize()

    def peak_memory_bytes(self) -> int | None:
        """Return the most memory that tensors have held; on the host, that the process has."""
        if self.traits.is_host:
            return peak_host_memory_bytes()
        return int(ms.runtime.max_memory_allocated())

    def describe(self) -> Mapping[str, Any]:
        """Return what identifies hardware and driver in a manifest (JSON)."""
        name = self.name if self.traits.is_host else f"{self.name}:{self.index}"
        return {"device": name, **self.traits.describe(self.index), **self.settings}


def _module(traits: DeviceTraits) -> ModuleType:
    module: ModuleType = getattr(ms.device_context, traits.target.lower())
    return module


def probe_device(traits: DeviceTraits) -> Availability:
    """Say whether this machine has a device of a kind. Never raises."""
    asked = f"mindspore.device_context.{traits.target.lower()}.is_available()"
    with quiet() as lines:
        try:
            if _module(traits).is_available():
                return Availability(available=True)
        except Exception as error:  # noqa: BLE001  drivers fail with anything
            return Availability(available=False, reason=f"{asked} raised {reason(error)}")
    causes = [line.rpartition("Error message: ")[2] for line in lines]
    variable = os.environ.get(traits.visible_devices or "")
    parts = [
        f"{asked} of mindspore {ms.__version__}, which needs {traits.needs}, answers no",
        *(cause for cause in causes if f"libmindspore_{traits.target.lower()}." in cause),
        f"{traits.visible_devices} is {'not set' if variable is None else repr(variable)}",
    ]
    return Availability(available=False, reason="; ".join(parts))


def open_device(
    traits: DeviceTraits, *, index: int = 0, settings: Mapping[str, Any] | None = None
) -> MindSporeDevice:
    """Open a device for this process.

    Args:
        traits: The row of its kind.
        index: Its number among the visible devices of the kind.
        settings: What the caller has put into effect, for ``describe``.

    Raises:
        DeviceError: There is no such device.
    """
    availability = probe_device(traits)
    if not availability.available:
        raise DeviceError(
            f"no {traits.kind} device can be used: {availability.reason}; "
            "use --device cpu to run on the processor"
        )
    if not traits.is_host:
        _check_index(traits, index)
        _choose(traits.target, index)
    elif ms.get_context("device_target") != traits.target:
        _choose(traits.target)
    return MindSporeDevice(traits=traits, index=index, settings=settings or {})


@functools.cache
def _choose(target: str, *index: int) -> None:
    """Choose a device for this process, which cannot be done again once something has run on it."""
    ms.set_device(target, *index)


def _check_index(traits: DeviceTraits, index: int) -> None:
    count = _module(traits).device_count()
    if index >= count:
        raise DeviceError(
            f"device {traits.kind} has no index {index}: {count} visible, numbered from 0 "
            f"({traits.visible_devices} chooses which); set device.index to at most {count - 1}"
        )


@functools.cache
def _set_threads(count: int) -> None:
    """Set the threads of one operation; MindSpore takes one number in the life of a process."""
    cores = available_cores()
    if count > max(cores, FEWEST_THREADS):
        raise DeviceError(
            f"device.threads is {count}, but this process has {counted(cores, 'core')}, and "
            "MindSpore starts no more threads than cores; set it to at most "
            f"{max(cores, FEWEST_THREADS)}"
        )
    try:
        ms.device_context.cpu.op_tuning.threads_num(count)
    except RuntimeError as error:
        raise DeviceError(
            f"device.threads cannot become {count}: {reason(error)}; use one number of threads "
            "in a process"
        ) from error


def open_cpu(options: CpuOptions) -> MindSporeDevice:
    """Open the processor, and set the number of threads."""
    threads = options.threads or _launched_threads() or _allowed_threads()
    if threads is not None:
        _set_threads(threads)
    return open_device(CPU, settings={"threads": threads or available_cores()})


def _launched_threads() -> int | None:
    """Return the threads of one of several processes: those of ``OMP_NUM_THREADS``.

    The launch sets it to a share of the cores. MindSpore does not look at it, so each process
    would take the whole machine.
    """
    threads = threads_asked_for()
    if launched_world_size() is None or threads is None:
        return None
    return min(max(threads, FEWEST_THREADS), max(available_cores(), FEWEST_THREADS))


def _allowed_threads() -> int | None:
    """Return the threads that a container's quota allows: MindSpore counts the cores in sight."""
    cores = available_cores()
    return max(cores, FEWEST_THREADS) if cores < visible_cores() else None


def open_gpu(options: GpuOptions) -> MindSporeDevice:
    """Open an NVIDIA GPU."""
    return open_device(GPU, index=_card(options.index))


def open_ascend(options: AscendOptions) -> MindSporeDevice:
    """Open an Ascend NPU."""
    return open_device(ASCEND, index=_card(options.index))


def _card(index: int | None) -> int:
    """Return the card of this process: the recipe's, the launcher's, or the first one.

    Raises:
        DeviceError: Both name one.
    """
    launched = os.environ.get("DEVICE_ID")
    if launched is None:
        return index or 0
    if index is not None:
        raise DeviceError(
            f"device.index is {index}, but the launcher gives this process card {launched} "
            "(DEVICE_ID); leave device.index out, or unset DEVICE_ID"
        )
    return int(launched)

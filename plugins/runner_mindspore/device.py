"""Any device that MindSpore knows, behind one class; what differs comes from its row of traits."""

from __future__ import annotations

import functools
import importlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from runner.contracts import Availability
from runner.errors import DeviceError
from runner.framework.cores import available_cores, threads_asked_for, visible_cores
from runner.framework.device import DeviceBase, check_available, check_index
from runner.terminal.display import counted
from runner_mindspore.autoload import ms, nn
from runner_mindspore.launch import place, rank_table_place
from runner_mindspore.messages import quiet, reason
from runner_mindspore.traits import DeviceTraits

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import ModuleType
    from typing import Any

    from runner.recipe.schema import PrecisionSection
    from runner_mindspore.options import CpuOptions

COMPUTE_TYPES = {"fp16": ms.float16, "bf16": ms.bfloat16}
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
FEWEST_THREADS = 2
"""Size of MindSpore's smallest pool of threads; it starts one of this size when asked for less."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class MindSporeDevice(DeviceBase[DeviceTraits]):
    """One device, opened for this process."""

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

    def _synchronize(self) -> None:
        ms.runtime.synchronize()

    def _peak_memory_bytes(self) -> int:
        return int(ms.runtime.max_memory_allocated())


def _module(traits: DeviceTraits) -> ModuleType:
    if traits.vendor_package is not None:
        importlib.import_module(traits.vendor_package)
    module: ModuleType = getattr(ms.device_context, traits.target.lower())
    return module


def probe_device(traits: DeviceTraits) -> Availability:
    """Say whether this machine has a device of a kind. Never raises."""
    asked = f"mindspore.device_context.{traits.target.lower()}.is_available()"
    with quiet() as lines:
        try:
            module = _module(traits)
            if module.is_available():
                count = None if traits.is_host else module.device_count()
                return Availability(available=True, count=count)
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
    traits: DeviceTraits,
    *,
    index: int | None = None,
    configure: Callable[[], Mapping[str, Any]] | None = None,
) -> MindSporeDevice:
    """Open a device for this process.

    Args:
        traits: The row of its kind.
        index: Its number among the visible devices of the kind; ``None`` for the launcher's choice,
            or else the first.
        configure: Called once the device is chosen; puts options into effect, and returns what is
            in effect, for ``describe``.

    Raises:
        DeviceError: There is no such device, or the launcher chose another.
    """
    number = 0 if traits.is_host else _card(index)
    found = probe_device(traits)
    check_available(traits, found)
    if not traits.is_host:
        check_index(traits, number, found.count or 0)
        _choose(traits.target, number)
    elif ms.get_context("device_target") != traits.target:
        _choose(traits.target)
    settings = {} if configure is None else configure()
    return MindSporeDevice(traits=traits, index=number, settings=settings)


@functools.cache
def _choose(target: str, *index: int) -> None:
    """Choose a device for this process, which cannot be done again once something has run on it."""
    ms.set_device(target, *index)


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


def configure_cpu(options: CpuOptions) -> Mapping[str, Any]:
    """Set the number of threads."""
    threads = options.threads or _launched_threads() or _allowed_threads()
    if threads is not None:
        _set_threads(threads)
    return {"threads": threads or available_cores()}


def _launched_threads() -> int | None:
    """Return the threads of one of several processes: those of ``OMP_NUM_THREADS``.

    The launch sets it to a share of the cores. MindSpore does not look at it, so each process
    would take the whole machine.
    """
    threads = threads_asked_for()
    launched = place(os.environ) or rank_table_place(os.environ)
    if launched is None or threads is None:
        return None
    return min(max(threads, FEWEST_THREADS), max(available_cores(), FEWEST_THREADS))


def _allowed_threads() -> int | None:
    """Return the threads that a container's quota allows: MindSpore counts the cores in sight."""
    cores = available_cores()
    return max(cores, FEWEST_THREADS) if cores < visible_cores() else None


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

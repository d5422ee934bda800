"""Any device that torch knows, behind one class; what differs comes from its row of traits."""

from __future__ import annotations

import importlib
import os
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from runner.contracts import Availability
from runner.errors import DeviceError
from runner.framework.cores import available_cores, check_threads, threads_asked_for
from runner.framework.device import DeviceBase, check_available, check_index, format_refused
from runner_torch.autoload import torch
from runner_torch.host_memory import keep_freed_memory
from runner_torch.launch import env_place, refuse_one_card
from runner_torch.precision import COMPUTE_TYPES, cast_problem, casts_whole_network
from runner_torch.traits import CPU, DeviceTraits

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import ModuleType
    from typing import Any

    from runner.recipe.schema import PrecisionSection
    from runner_torch.options import CpuOptions, CudaOptions


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TorchDevice(DeviceBase[DeviceTraits]):
    """One device, opened for this process."""

    torch_device: torch.device
    module: ModuleType
    """``torch.cpu``, ``torch.cuda``, or what a vendor package has added beside them."""

    def check_precision(self, section: PrecisionSection) -> None:
        """Make sure that the device really computes as the recipe says.

        Where autocast cannot, torch warns and continues in fp32.

        Raises:
            DeviceError: The device does not support the format.
        """
        compute, level = section.compute, section.level
        self.check_format(compute, level)
        if casts_whole_network(section):
            problem = cast_problem(self.torch_device, section)
        elif compute != "fp32":
            problem = self._autocast_problem(COMPUTE_TYPES[compute])
        else:
            return
        if problem is not None:
            raise format_refused(self.traits, compute, level, problem)

    def _autocast_problem(self, dtype: torch.dtype) -> str | None:
        kind = self.traits.kind
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                with torch.autocast(kind, dtype=dtype):
                    enabled = torch.is_autocast_enabled(kind)
            except RuntimeError as error:
                return str(error)
        if not enabled:
            return "; ".join(str(w.message) for w in caught) or "torch.autocast stays disabled"
        return None

    def loss_scaler(self) -> torch.amp.GradScaler:
        """Make a dynamic loss scaler.

        Raises:
            DeviceError: torch has switched it off for this device.
        """
        make = self.traits.loss_scaler
        scaler = torch.amp.GradScaler(self.traits.kind) if make is None else make()
        if not scaler.is_enabled():
            raise DeviceError(
                f"torch {torch.__version__} has no dynamic loss scaling on device {self.name}; "
                "set precision.loss_scale to a number"
            )
        return scaler

    def random_states(self) -> dict[str, torch.Tensor]:
        """Copy the states of torch's generators, by kind, as ``uint8`` tensors on the host."""
        states = {CPU.kind: torch.get_rng_state()}
        if not self.traits.is_host:
            states[self.traits.kind] = self.module.get_rng_state(self.torch_device)
        return states

    def set_random_states(self, states: Mapping[str, torch.Tensor]) -> None:
        """Put back what ``random_states`` returned."""
        torch.set_rng_state(states[CPU.kind])
        if not self.traits.is_host:
            self.module.set_rng_state(states[self.traits.kind], self.torch_device)

    def _synchronize(self) -> None:
        self.module.synchronize(self.torch_device)

    def _peak_memory_bytes(self) -> int:
        return int(self.module.max_memory_allocated(self.torch_device))


def _import_module(traits: DeviceTraits) -> ModuleType:
    if traits.vendor_package is not None:
        importlib.import_module(traits.vendor_package)
    return torch.get_device_module(traits.kind)


def probe_device(traits: DeviceTraits) -> Availability:
    """Say whether this machine has a device of a kind. Never raises."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            module = _import_module(traits)
            if module.is_available():
                count = None if traits.is_host else module.device_count()
                return Availability(available=True, count=count)
            reason = traits.explain_absence()
        except Exception as error:  # noqa: BLE001  vendor packages fail with anything
            reason = f"{type(error).__name__}: {error}"
    warned = [str(w.message) for w in caught if issubclass(w.category, UserWarning)]
    return Availability(available=False, reason="; ".join([reason, *warned]))


def open_device(
    traits: DeviceTraits,
    *,
    index: int = 0,
    configure: Callable[[], Mapping[str, Any]] | None = None,
) -> TorchDevice:
    """Open a device for this process.

    Args:
        traits: The row of its kind.
        index: Its number among the visible devices of the kind. Of several processes that train
            together, each takes the one of its own number on this machine.
        configure: Called once the device is chosen; puts options into effect, and returns what is
            in effect, for ``describe``.

    Raises:
        DeviceError: There is no such device.
        UsageError: An index is asked for, and there are several processes.
    """
    check_available(traits, probe_device(traits))
    module = _import_module(traits)
    number = 0
    device = torch.device(traits.kind)
    if not traits.is_host:
        number = _choose_index(traits, index, module.device_count())
        device = torch.device(traits.kind, number)
        module.set_device(number)
    settings = {} if configure is None else configure()
    return TorchDevice(
        traits=traits, index=number, torch_device=device, module=module, settings=settings
    )


def _choose_index(traits: DeviceTraits, index: int, visible: int) -> int:
    """Return the number of this process's card."""
    place = env_place(os.environ)
    processes = (place and place.local_world_size) or 1
    if place is not None and place.local_rank is not None and processes > 1:
        refuse_one_card(index, processes)
        if processes > visible:
            raise DeviceError(
                f"{processes} processes need as many {traits.kind} devices on this machine, "
                f"and {visible} are visible ({traits.visible_devices} chooses which); "
                f"use --devices {visible}"
            )
        return place.local_rank
    check_index(traits, index, visible)
    return index


def configure_cpu(options: CpuOptions) -> Mapping[str, Any]:
    """Set the number of threads, and keep freed memory."""
    threads = options.threads
    if threads is None and threads_asked_for() is None:
        place = env_place(os.environ)
        threads = max(1, available_cores() // ((place and place.local_world_size) or 1))
    if threads is not None:
        torch.set_num_threads(threads)
    _start_threads(torch.get_num_threads())
    kept = options.keep_freed_memory and keep_freed_memory()
    return {"threads": torch.get_num_threads(), "keep_freed_memory": kept}


def _start_threads(count: int) -> None:
    """Start the threads that compute, while others have not taken what a limit leaves.

    Raises:
        DeviceError: The limit is lower; OpenMP would end the process without a word of it.
    """
    check_threads(count)
    torch.zeros(count << 16).sin_()  # enough that each thread has a share


def configure_cuda(options: CudaOptions) -> Mapping[str, Any]:
    """Set the precision of fp32 operations."""
    set_tf32(enabled=options.tf32)
    return {"tf32": options.tf32}


def set_tf32(*, enabled: bool) -> None:
    """Allow or forbid TF32 in matrix products and convolutions; torch allows it in the latter.

    These are the older switches: after the newer ``fp32_precision`` ones, torch's own code that
    still reads the older ones (``torch.export``, for example) stops with an error.
    """
    torch.backends.cuda.matmul.allow_tf32 = enabled
    torch.backends.cudnn.allow_tf32 = enabled


def set_deterministic(*, enabled: bool) -> None:
    """Forbid or allow kernels that add in varying order; holds for the whole process."""
    if enabled:
        # cuBLAS reads it when its first handle is made, and torch insists on it
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(enabled)
    torch.backends.cudnn.benchmark = not enabled  # times several kernels and keeps the fastest

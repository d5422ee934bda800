"""Any device that torch knows, behind one class; what differs comes from its row of traits."""

from __future__ import annotations

import contextlib
import importlib
import os
import resource
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final

from runner.contracts import Availability
from runner.errors import DeviceError, UsageError
from runner_torch.autoload import torch
from runner_torch.host_memory import keep_freed_memory
from runner_torch.traits import CPU, CUDA, available_cores

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager
    from types import ModuleType
    from typing import Any

    from runner.recipe.schema import PrecisionSection
    from runner_torch.options import CpuOptions, CudaOptions
    from runner_torch.traits import DeviceTraits

COMPUTE_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TorchDevice:
    """One device, opened for this process."""

    traits: DeviceTraits
    torch_device: torch.device
    module: ModuleType
    """``torch.cpu``, ``torch.cuda``, or what a vendor package has added beside them."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What the device's options have put into effect (JSON)."""

    @property
    def name(self) -> str:
        """Name of the kind, which is also the name of the device entry."""
        return self.traits.kind

    def check_precision(self, precision: PrecisionSection) -> None:
        """Make sure that autocast really computes as the recipe says.

        Where it cannot, torch warns and goes on in fp32.

        Raises:
            UsageError: The recipe asks for a level that autocast does not have.
            DeviceError: The device does not support the format.
        """
        compute = precision.compute
        if compute == "fp32":
            return
        if precision.level != "auto":
            raise UsageError(
                f"precision.level is {precision.level}, which casts the whole network; PyTorch's "
                "autocast chooses the format operator by operator: set precision.level to auto"
            )
        problem = self._autocast_problem(COMPUTE_TYPES[compute])
        if problem is not None:
            raise DeviceError(
                f"device {self.name} cannot compute in {compute}: {problem}; "
                "set precision.compute to another of fp32, bf16, fp16"
            )

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
        ask = self.traits.hardware_bf16
        if dtype == torch.bfloat16 and ask is not None and not ask():
            return "the hardware has no bf16"
        return None

    def autocast(self, compute: str) -> AbstractContextManager[object]:
        """Return a context in which convolutions and matrix products run in ``compute``."""
        if compute == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.traits.kind, dtype=COMPUTE_TYPES[compute])

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

    def synchronize(self) -> None:
        """Wait until the device is idle."""
        if not self.traits.is_host:
            self.module.synchronize(self.torch_device)

    def peak_memory_bytes(self) -> int | None:
        """Return the most memory that tensors have held; on the host, that the process has."""
        if self.traits.is_host:
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts KiB
        return int(self.module.max_memory_allocated(self.torch_device))

    def describe(self) -> Mapping[str, Any]:
        """Return what identifies hardware and driver in a manifest (JSON)."""
        hardware = self.traits.describe(self.torch_device.index or 0)
        return {"device": str(self.torch_device), **hardware, **self.settings}


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
                return Availability(available=True)
            reason = traits.explain_absence()
        except Exception as error:  # noqa: BLE001  vendor packages fail with anything
            reason = f"{type(error).__name__}: {error}"
    warned = [str(w.message) for w in caught if issubclass(w.category, UserWarning)]
    return Availability(available=False, reason="; ".join([reason, *warned]))


def open_device(
    traits: DeviceTraits, *, index: int = 0, settings: Mapping[str, Any] | None = None
) -> TorchDevice:
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
    module = _import_module(traits)
    if traits.is_host:
        device = torch.device(traits.kind)
    else:
        count = module.device_count()
        if index >= count:
            raise DeviceError(
                f"device {traits.kind} has no index {index}: {count} visible, numbered from 0 "
                f"({traits.visible_devices} chooses which); set device.index to at most {count - 1}"
            )
        device = torch.device(traits.kind, index)
        module.set_device(index)
    return TorchDevice(traits=traits, torch_device=device, module=module, settings=settings or {})


def open_cpu(options: CpuOptions) -> TorchDevice:
    """Open the processor, and set the number of threads."""
    threads = options.threads
    if threads is None and "OMP_NUM_THREADS" not in os.environ:
        threads = available_cores()
    if threads is not None:
        torch.set_num_threads(threads)
    kept = options.keep_freed_memory and keep_freed_memory()
    settings = {"threads": torch.get_num_threads(), "keep_freed_memory": kept}
    return open_device(CPU, settings=settings)


def open_cuda(options: CudaOptions) -> TorchDevice:
    """Open an NVIDIA GPU, and set the precision of its fp32 operations."""
    device = open_device(CUDA, index=options.index, settings={"tf32": options.tf32})
    set_tf32(enabled=options.tf32)
    return device


def set_tf32(*, enabled: bool) -> None:
    """Allow or forbid TF32 in matrix products and convolutions; torch allows it in the latter.

    These are the older switches: after the newer ``fp32_precision`` ones, torch's own code that
    still reads the older ones (``torch.export``, for example) stops with an error.
    """
    torch.backends.cuda.matmul.allow_tf32 = enabled
    torch.backends.cudnn.allow_tf32 = enabled

"""The half of a device that is the same in every framework."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from runner.errors import DeviceError
from runner.framework.device_traits import DeviceTraits
from runner.framework.memory import peak_host_memory_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runner.contracts import Availability
    from runner.entries import DeviceEntry

TraitsT = TypeVar("TraitsT", bound=DeviceTraits)
FORMATS = ("fp32", "bf16", "fp16")
"""Values of ``precision.compute``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceBase(ABC, Generic[TraitsT]):
    """One device, opened for this process; what differs between kinds is in their traits."""

    traits: TraitsT
    index: int = 0
    """Number among the visible devices of the kind."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What the device's options have put into effect (JSON)."""

    @property
    def name(self) -> str:
        """Name of the kind, which is also the name of the device entry."""
        return self.traits.kind

    def check_format(self, compute: str, level: str) -> None:
        """Refuse what the kind, or this card of it, does not compute in.

        Args:
            compute: The recipe's ``precision.compute``.
            level: Its ``precision.level``.

        Raises:
            DeviceError: It is such a format.
        """
        ask = self.traits.hardware_bf16
        problem = self.traits.refused_formats.get(compute)
        if problem is None and compute == "bf16" and ask is not None and not ask():
            problem = "the hardware has no bf16"
        if problem is not None:
            raise format_refused(self.traits, compute, level, problem)

    def synchronize(self) -> None:
        """Wait until the device is idle."""
        if not self.traits.is_host:
            self._synchronize()

    @abstractmethod
    def _synchronize(self) -> None:
        """Wait until a card is idle."""

    def peak_memory_bytes(self) -> int | None:
        """Return the most memory that tensors have held; on the host, that the process has."""
        return peak_host_memory_bytes() if self.traits.is_host else self._peak_memory_bytes()

    @abstractmethod
    def _peak_memory_bytes(self) -> int:
        """Return the most memory of a card that tensors have held."""

    def describe(self) -> Mapping[str, Any]:
        """Return what identifies hardware and driver in a manifest (JSON)."""
        name = self.name if self.traits.is_host else f"{self.name}:{self.index}"
        return {"device": name, **self.traits.describe(self.index), **self.settings}


def format_refused(
    device: DeviceTraits | DeviceEntry, compute: str, level: str, problem: str
) -> DeviceError:
    """Say which formats a device computes in, in place of one that it does not.

    Args:
        device: What tells its name and the formats that it does not compute in at all.
        compute: The recipe's ``precision.compute``.
        level: Its ``precision.level``.
        problem: What keeps the device from that.
    """
    name = device.kind if isinstance(device, DeviceTraits) else device.name
    at = "" if level == "auto" else f" at level {level}"
    others = [f for f in FORMATS if f != compute and f not in device.refused_formats]
    return DeviceError(
        f"device {name} cannot compute in {compute}{at}: {problem}; "
        f"set precision.compute to {' or '.join(others)}"
        + (", or precision.level to auto" if at else "")
    )


def check_available(traits: DeviceTraits, availability: Availability) -> None:
    """Refuse a kind of device that is not there.

    Raises:
        DeviceError: It cannot be used.
    """
    if not availability.available:
        raise DeviceError(
            f"no {traits.kind} device can be used: {availability.reason}; "
            "use --device cpu to run on the processor"
        )


def check_index(traits: DeviceTraits, index: int, visible: int) -> None:
    """Refuse a number that no visible device has.

    Raises:
        DeviceError: There are not so many.
    """
    if index >= visible:
        raise DeviceError(
            f"device {traits.kind} has no index {index}: {visible} visible, numbered from 0 "
            f"({traits.visible_devices} chooses which); set device.index to at most {visible - 1}"
        )

"""The whole of it: a row of traits, the keys of the device, and one hook."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge

from runner import DeviceEntry, hookimpl, options
from runner_torch.device_entry import device_entry
from runner_torch.traits import DeviceTraits

if TYPE_CHECKING:
    from collections.abc import Iterable

ACME = DeviceTraits(
    kind="acme",
    vendor_package="torch_acme",
    distributed_backend="accl",
    visible_devices="ACME_VISIBLE_DEVICES",
    channels_last=False,
    pinned_memory=True,
)


@options
class AcmeOptions:
    """Keys of `device: acme`."""

    index: Annotated[int, Ge(0)] = 0
    """Which of the visible cards."""


@hookimpl
def runner_register_devices() -> Iterable[DeviceEntry]:
    """Offer Acme cards."""
    yield device_entry(ACME, summary="Acme cards", config=AcmeOptions, install="pip install acme")

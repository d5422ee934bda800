"""The whole of it: a row of traits, the keys of the device, and one hook."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Optional

from runner import DeviceEntry, hookimpl, options
from runner_mindspore.device_entry import device_entry
from runner_mindspore.traits import DeviceTraits

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

ACME = DeviceTraits(
    kind="acme",
    target="CPU",
    vendor_package="mindspore_acme",
    distributed_backend="accl",
    visible_devices="ACME_VISIBLE_DEVICES",
    needs="an Acme card",
)


@options
class AcmeOptions:
    """Keys of `device: acme`."""

    index: Optional[int] = None  # noqa: UP045  pydantic evaluates it on Python 3.10 as well
    """Which of the visible cards."""
    fast_math: bool = False
    """Round the inputs of matrix products."""


def configure(options: AcmeOptions) -> Mapping[str, Any]:
    """Return what would be in effect."""
    return {"fast_math": options.fast_math}


@hookimpl
def runner_register_devices() -> Iterable[DeviceEntry]:
    """Offer Acme cards."""
    yield device_entry(
        ACME,
        summary="Acme cards",
        config=AcmeOptions,
        install="pip install mindspore-acme",
        configure=configure,
    )

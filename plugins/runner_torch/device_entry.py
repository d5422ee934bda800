"""The entry of a kind of device, made from its row of traits. Imports no torch until it is used."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from runner.contracts import Availability
from runner.framework.device_traits import entry_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from runner.contracts import Device
    from runner.entries import DeviceEntry
    from runner_torch.traits import DeviceTraits

FRAMEWORK = "torch"
REQUIRES = ("torch", "torchvision")


def device_entry(
    traits: DeviceTraits,
    *,
    summary: str,
    config: type,
    install: str,
    configure: Callable[[Any], Mapping[str, Any]] | None = None,
) -> DeviceEntry:
    """Make the entry of a kind of device, which recipes name by ``traits.kind``.

    Args:
        traits: What the kind does differently.
        summary: One line for lists.
        config: The class, made with ``runner.options``, of the device's keys in a recipe. One of a
            card's must be ``index``, an ``int`` that is 0 by default.
        install: The command that installs torch and what else the kind needs.
        configure: Puts the options into effect and returns what is in effect, for the manifest
            (JSON). It is called once, when the device is chosen and nothing is computed yet. It
            raises ``DeviceError`` where the device cannot do what they ask.
    """
    return entry_of(
        traits,
        framework=FRAMEWORK,
        requires=REQUIRES,
        summary=summary,
        config=config,
        install=install,
        probe=partial(_probe, traits),
        open_device=partial(_open, traits, configure),
    )


def _probe(traits: DeviceTraits) -> Availability:
    try:
        from runner_torch.device import probe_device
    except ImportError as error:
        return Availability(available=False, reason=f"torch cannot be imported: {error}")
    return probe_device(traits)


def _open(
    traits: DeviceTraits, configure: Callable[[Any], Mapping[str, Any]] | None, options: Any
) -> Device:
    from runner_torch.device import open_device

    settings = None if configure is None else partial(configure, options)
    return open_device(traits, index=getattr(options, "index", 0), configure=settings)

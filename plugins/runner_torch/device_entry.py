"""The entry of a kind of card, made from its row of traits. Imports no torch until it is used."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from runner.contracts import Availability
from runner.entries import DeviceEntry
from runner_torch.launch import POD_VARIABLES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from runner.contracts import Device
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
    """Make the entry of a kind of card, which recipes name by ``traits.kind``.

    Args:
        traits: What the kind does differently.
        summary: One line for lists.
        config: The class, made with ``runner.options``, of the device's keys in a recipe. One of
            them must be ``index``, an ``int`` that is 0 by default.
        install: The command that installs torch and what else the kind needs.
        configure: Puts the options into effect and returns what is in effect, for the manifest
            (JSON). It is called once, when the card is chosen and nothing is computed yet. It
            raises ``DeviceError`` where the card cannot do what they ask.
    """
    if traits.pod_variable:
        POD_VARIABLES.add(traits.pod_variable)
    package = () if traits.vendor_package is None else (traits.vendor_package,)
    return DeviceEntry(
        name=traits.kind,
        summary=summary,
        config=config,
        requires=(*REQUIRES, *package),
        install=install,
        framework=FRAMEWORK,
        probe=partial(probe, traits),
        open=partial(_open, traits, configure),
        visible_devices=traits.visible_devices,
        card_environment=traits.card_environment,
        interface_variables=traits.interface_variables,
        address_variables=traits.address_variables,
    )


def probe(traits: DeviceTraits) -> Availability:
    """Say whether this machine has a device of a kind, torch itself included. Never raises."""
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
    return open_device(traits, index=options.index, configure=settings)

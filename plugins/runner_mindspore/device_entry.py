"""The entry of a kind of device, made from its row of traits. Imports no MindSpore until used."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from runner.contracts import Availability
from runner.errors import PluginError
from runner.framework.device_traits import entry_of
from runner_mindspore.traits import KINDS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from runner.contracts import Device
    from runner.entries import DeviceEntry
    from runner_mindspore.traits import DeviceTraits

FRAMEWORK = "mindspore"
REQUIRES = ("mindspore",)


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
            card's must be ``index``, ``int | None``, where ``None`` is the launcher's choice.
        install: The command that installs MindSpore and what else the kind needs.
        configure: Puts the options into effect and returns what is in effect, for the manifest
            (JSON). It is called once, when the device is chosen and nothing is computed yet. It
            raises ``DeviceError`` where the device cannot do what they ask.
    """
    KINDS.setdefault(traits.kind, traits)
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
        from runner_mindspore.device import probe_device
    except (ImportError, PluginError) as error:
        return Availability(available=False, reason=f"mindspore cannot be imported: {error}")
    return probe_device(traits)


def _open(
    traits: DeviceTraits, configure: Callable[[Any], Mapping[str, Any]] | None, options: Any
) -> Device:
    from runner_mindspore.device import open_device

    settings = None if configure is None else partial(configure, options)
    return open_device(traits, index=getattr(options, "index", None), configure=settings)

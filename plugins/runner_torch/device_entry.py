"""The entry of a kind of device, made from its row of traits. Imports no torch until it is used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner import lazy
from runner.framework.device_traits import entry_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from runner import DeviceEntry
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
        configure=configure,
        probe_device=lazy("runner_torch.device:probe_device"),
        open_device=lazy("runner_torch.device:open_device"),
    )

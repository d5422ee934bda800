"""Which cards of a machine the processes see.

A device's variable of visible cards, such as ``CUDA_VISIBLE_DEVICES``, names them before the
framework is imported; a process then takes the one that has its number in that list.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from runner.errors import DeviceError, UsageError
from runner.terminal.display import counted

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from runner.entries import DeviceEntry


def check_count(cards: Sequence[int], local_count: int) -> None:
    """Refuse another number of cards than a machine has processes.

    Raises:
        UsageError: They differ.
    """
    if cards and len(cards) != local_count:
        raise UsageError(
            f"device.cards names {counted(len(cards), 'card')} of each machine ({_text(cards)}), "
            f"and {local_count} {'devices are' if local_count > 1 else 'device is'} to be used "
            "there; "
            f"choose with --devices {_text(cards)}{',' * (len(cards) == 1)}, which counts them, or "
            "give another number, which takes any"
        )


def environment(
    entry: DeviceEntry, cards: Sequence[int], environ: Mapping[str, str]
) -> Mapping[str, str]:
    """Return the variables that make processes see the chosen cards, and no others.

    Args:
        entry: The device.
        cards: Numbers of the cards, in the order of the processes; empty for all that are visible.
        environ: Environment variables.

    Raises:
        DeviceError: The device has no cards to choose among.
        UsageError: A card is named twice, or is not among those that the variable already names.
    """
    if not cards:
        return {}
    name = entry.visible_devices
    if name is None:
        raise DeviceError(
            f"device {entry.name} has no cards to choose among, found device.cards "
            f"{_text(cards)}; give their number alone, such as --devices {len(cards)}"
        )
    if twice := [card for card, times in Counter(cards).items() if times > 1]:
        raise UsageError(
            f"device.cards names {_text(twice)} more than once: {_text(cards)}; every process has "
            "a card of its own"
        )
    given = environ.get(name)
    if given is not None:
        visible = _split(given)
        if hidden := [card for card in cards if str(card) not in visible]:
            raise UsageError(
                f"device.cards asks for {_text(hidden)}, and {name} is {given!r}: choose among "
                f"the cards that it names, or unset {name}"
            )
    return {**entry.card_environment, name: _text(cards)}


def without(
    entry: DeviceEntry,
    cards: Sequence[int],
    lost_local_ranks: Collection[int],
    local_count: int,
    environ: Mapping[str, str],
) -> Mapping[str, str]:
    """Return the variables that hide the cards of lost processes from those that go on.

    Args:
        entry: The device.
        cards: The cards that were chosen; empty for all that are visible.
        lost_local_ranks: Numbers of the lost processes among those of this machine.
        local_count: Processes that this machine had.
        environ: Environment variables that the lost processes had.

    Returns:
        Nothing for a device without cards, such as the processor.
    """
    name = entry.visible_devices
    if name is None:
        return {}
    given = environ.get(name)
    if given is not None:
        visible = _split(given)
    else:
        visible = [str(card) for card in cards or range(local_count)]
    kept = [card for rank, card in enumerate(visible) if rank not in lost_local_ranks]
    return {**entry.card_environment, name: ",".join(kept)}


def _split(value: str) -> list[str]:
    return [item.strip() for item in value.split(",") if item.strip()]


def _text(cards: Sequence[int]) -> str:
    return ",".join(str(card) for card in cards)

"""The command that tries on this machine what was asked of a device that it does not have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.terminal import display

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

TAKE_RECIPES = ("run", "train", "bench")
"""Commands that have ``--smoke``; what takes hours on a device may take weeks on the host."""


def on_host(arguments: Sequence[str], device: str) -> str:
    """Return a command line with another device in place of the one that it, or its recipe, names.

    Args:
        arguments: Arguments of ``runner``, as they were typed.
        device: Device entry that is there on every machine.
    """
    from runner.benchmark.model import is_model

    kept = list(_without_device(arguments))
    command = kept[0] if kept else ""
    resumes = command == "resume"
    added = ["--set", f"device.name={device}"] if resumes else ["--device", device]
    if command in TAKE_RECIPES and "--smoke" not in kept and not any(map(is_model, kept[1:])):
        added.append("--smoke")
    return display.command(["runner", *kept, *added])


def _without_device(arguments: Sequence[str]) -> Iterator[str]:
    rest = iter(arguments)
    for argument in rest:
        option, equals, value = argument.partition("=")
        if option not in {"--device", "--devices", "--set"}:
            yield argument
            continue
        if not equals:
            value = next(rest, "")
        if option == "--set" and not value.startswith(("device=", "device.")):
            yield from ("--set", value)

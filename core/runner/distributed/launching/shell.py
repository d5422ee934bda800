"""The commands that would carry a recipe out, on this machine or on each of several.

A run has another folder for logs, from which the port of msrun follows, and knows addresses and
interfaces of several machines once they have met.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from runner.distributed.launching import cards, command
from runner.distributed.machines import Machines, as_machine
from runner.terminal import display

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from runner.entries import Command
    from runner.planning.plan import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """How the recipe would be started."""

    command: Sequence[str]
    """Arguments of ``runner``."""
    runs_dir: Path
    """Where run folders are made."""
    machines: Machines = field(default_factory=Machines)


def launch_lines(plan: Plan, start: Start) -> list[str]:
    """Return the commands that carry the recipe out, those of each machine.

    Raises:
        RunnerError: The framework cannot start the processes.
    """
    several = start.machines.several
    if not several and (plan.recipe.device.count == 1 or plan.framework_entry.launch is None):
        return [machine_line(start.command, None)]
    lines = []
    for rank, prepared in enumerate(commands_of_machines(plan, start)):
        if several:
            lines.append(f"{machine_line(start.command, rank)}, starts")
        lines += ["  " * several + command.line(item) for item in prepared]
    return lines


def commands_of_machines(plan: Plan, start: Start) -> list[Sequence[Command]]:
    """Return what starts the processes of each machine.

    Raises:
        RunnerError: The framework cannot start them.
    """
    machines, logs = start.machines, start.runs_dir / plan.name / "launch"
    cards.check_count(plan.recipe.device.cards, machines.share(plan.recipe.device.count))
    return [
        command.commands(
            plan,
            as_machine(start.command, rank) if machines.several else start.command,
            logs,
            replace(machines, rank=rank),
        )
        for rank in range(machines.count)
    ]


def machine_line(command: Sequence[str], rank: int | None) -> str:
    """Write the command of a machine as a shell takes it; of this one alone if ``None``."""
    if rank is None:
        return display.command(["runner", *command])
    return f"{display.command(['runner', *as_machine(command, rank)])}  # on machine {rank}"

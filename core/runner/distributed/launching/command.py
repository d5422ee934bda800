"""The command that starts the processes of one machine."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from runner.distributed.launching import cards
from runner.distributed.machines import Machines
from runner.entries import LaunchRequest
from runner.errors import DeviceError
from runner.system import interpreter
from runner.terminal import display

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from runner.entries import Command
    from runner.planning.plan import Plan


def commands(
    plan: Plan, arguments: Sequence[str], log_folder: Path, machines: Machines | None = None
) -> Sequence[Command]:
    """Return what starts ``runner`` with some arguments on the recipe's devices of a machine.

    Raises:
        DeviceError: The framework has no launcher, or the device no cards to choose among.
        UsageError: The devices are not the same number on each machine.
    """
    # what explains a run of one process, or carries it out, needs no network
    from runner.distributed.meeting import network

    machines = machines or Machines()
    section, launch = plan.recipe.device, plan.framework_entry.launch
    if launch is None:
        raise DeviceError(
            f"the recipe asks for {section.count} {section.name} devices, and "
            f"{plan.framework_entry.name} has no launcher that would start one process for each; "
            "start them yourself, or add --devices 1"
        )
    prepared = launch(
        LaunchRequest(
            count=section.count,
            local_count=machines.share(section.count),
            arguments=arguments,
            device=plan.device_entry.name,
            device_options=section.options,
            framework_options=plan.recipe.framework.options,
            machines=machines,
            rendezvous_s=plan.recipe.distributed.rendezvous_s,
            log_folder=log_folder,
            cards=section.cards,
        )
    )
    added = {
        **interpreter.environment(),
        **cards.environment(plan.device_entry, section.cards, os.environ),
        **network.environment(plan.device_entry, machines, os.environ),
    }
    return [replace(command, environment={**command.environment, **added}) for command in prepared]


def line(command: Command) -> str:
    """Write a command as a shell takes it."""
    removed = [word for name in command.unset for word in ("-u", name)]
    variables = ["env", *removed] if removed else []
    variables += [f"{name}={display.quote(value)}" for name, value in command.environment.items()]
    place = [f" # on {command.host}"] if command.host else []
    return " ".join([*variables, display.command(command.arguments), *place])

"""The place of a process that somebody else has started for one device."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from runner.distributed.meeting import network
from runner.distributed.reporting import reporter
from runner.distributed.slurm import environment
from runner.errors import UsageError
from runner.terminal.display import counted

if TYPE_CHECKING:
    from runner.distributed.machines import Machines
    from runner.planning.plan import Plan


def alone_in_pod(plan: Plan, machines: Machines) -> str:
    """Say that this machine works alone where its environment names others; "" if it does not.

    Operators of Kubernetes tell every pod of a job its place, whatever runs in it.
    """
    entry = plan.framework_entry
    found = (
        entry.pod()
        if entry.pod and not machines.several and not reporter.of_process().watched
        else None
    )
    if found is None or not found.several:
        return ""
    return (
        f"the environment names this machine as number {found.rank} of {found.count} of a job, and "
        f"the run is on this machine alone; for one run on all of them add --nnodes {found.count} "
        f"--node-rank {found.rank} --rdzv {found.endpoint}, with --devices for all together"
    )


def take_place(plan: Plan, machines: Machines) -> None:
    """Set the environment that makes this process a rank, where SLURM has started all of them.

    Raises:
        UsageError: The tasks do not fit the recipe or the framework, or the machines are named
            beside a launcher that has started this process and knows them.
    """
    entry = plan.framework_entry
    launched = entry.launched_world_size() if entry.launched_world_size else None
    if launched is not None:
        if (
            machines.several
            and not reporter.of_process().watched
            and environment.step(os.environ) is None
        ):
            raise UsageError(
                f"a launcher has started {counted(launched, 'process')}, and knows the machines: "
                "leave out --nnodes, --node-rank and --rdzv; or run the command itself, without a "
                "launcher"
            )
        return
    place = environment.place(os.environ, plan.recipe.device.count)
    if place is None:
        return
    if entry.rank_environment is None:
        raise UsageError(
            f"srun has started {counted(place.world_size, 'task')}, one for each device, and "
            f"{entry.name} needs its own launcher: start one task on each node, with srun "
            "--ntasks-per-node=1"
        )
    if machines.several:
        raise UsageError(
            f"srun has started {counted(place.world_size, 'task')}, one for each device, which "
            "know their machines: leave out --nnodes, --node-rank and --rdzv"
        )
    address = network.address_towards(place.machines.host)
    place = replace(
        place,
        machines=replace(place.machines, address=address, interface=network.interface_of(address)),
    )
    found = {
        **environment.threads(os.environ),
        **network.environment(plan.device_entry, place.machines, os.environ),
        **entry.rank_environment(place),
    }
    os.environ.update(found)

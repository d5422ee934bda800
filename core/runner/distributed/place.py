"""The place of this process among those of a job, and the job, as launchers tell them.

Readers are entries that plugins register for their frameworks; SLURM's is core's own. Nothing else
reads the variables of a launcher.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from runner.distributed.machines import Machines, endpoint
from runner.entries import LauncherEntry
from runner.errors import DeviceError, UsageError
from runner.planning.plan import check_devices
from runner.terminal.display import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from runner.distributed.reporting.reporter import Reporter
    from runner.entries import Attempt, Place
    from runner.planning.plan import Plan


def _place_by_slurm(environ: Mapping[str, str]) -> Place | None:
    if "SLURM_STEP_NUM_TASKS" not in environ:
        return None
    from runner.distributed.slurm import environment

    return environment.place(environ)


def _attempt_by_slurm(environ: Mapping[str, str]) -> Attempt | None:
    if "SLURM_STEP_NUM_TASKS" not in environ:
        return None
    from runner.distributed.slurm import environment

    return environment.attempt(environ)


SLURM = LauncherEntry(
    name="slurm",
    summary="srun of SLURM: one task for each device, or one on each node",
    place=_place_by_slurm,
    attempt=_attempt_by_slurm,
)


def find(plan: Plan) -> Place | None:
    """Return the place that a launcher has given this process; ``None`` if it was started alone.

    A launcher in a pod is asked before the operator that started the pod, and both before variables
    that anybody may have set.

    Raises:
        RunnerError: A launcher's variables are wrong.
    """
    machine = None
    for launcher in _launchers(plan):
        if launcher.shared_variables and machine is not None:
            break
        place = launcher.place(os.environ)
        if place is not None and not place.whole_machine:
            return place
        machine = machine or place
    return machine


def rank_of(plan: Plan) -> Place | None:
    """Return the place of this process if a launcher has started it as one of the ranks."""
    place = find(plan)
    return None if place is None or place.whole_machine else place


def attempt(plan: Plan, reporter: Reporter) -> Attempt | None:
    """Return the job that this process belongs to, of a launcher that starts processes again.

    What a process of ``runner`` has started is told by that one what it continues: its own launcher
    counts for nothing, and what has started ``runner`` does.
    """
    for launcher in _launchers(plan):
        if launcher.attempt is None:
            continue
        place = launcher.place(os.environ) if reporter.watched else None
        if place is not None and not place.whole_machine:
            continue
        found = launcher.attempt(os.environ)
        if found is not None:
            return found
    return None


def needs_launch(plan: Plan, place: Place | None, machines: Machines | None = None) -> bool:
    """Return whether the recipe asks for several devices and no launcher has started this process.

    Args:
        plan: What the recipe asks for.
        place: The place of this process.
        machines: Those that the command names.

    Raises:
        DeviceError: A launcher has started another number of processes, or the framework works on
            one device.
    """
    check_devices(plan)
    count = plan.recipe.device.count
    if place is None or place.whole_machine:
        return count > 1 or (machines is not None and machines.several)
    if place.world_size != count:
        raise DeviceError(
            f"a launcher has started {counted(place.world_size, 'process')}, and the recipe asks "
            f"for {counted(count, 'device')}; add --devices {place.world_size}, or start {count}"
        )
    return False


def take(plan: Plan, machines: Machines, reporter: Reporter) -> Place | None:
    """Return the place of this process, and make it a rank where a batch system started all ranks.

    Raises:
        UsageError: The tasks do not fit the recipe or the framework, or the machines are named
            although the launcher that has started this process knows them.
    """
    entry, place = plan.framework_entry, find(plan)
    if place is None or place.whole_machine:
        return place
    by_slurm = SLURM.place(os.environ)
    if place != by_slurm:
        if machines.several and not reporter.watched and by_slurm is None:
            raise UsageError(
                f"a launcher has started {counted(place.world_size, 'process')}, and knows the "
                "machines: leave out --nnodes, --node-rank and --rdzv; or run the command itself, "
                "without a launcher"
            )
        return place
    from runner.distributed.meeting import network
    from runner.distributed.slurm import environment

    environment.check_tasks(os.environ, plan.recipe.device.count)
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
    address = network.address_towards(place.host)
    place = replace(place, interface=network.interface_of(address))
    meeting = Machines(
        count=place.nodes or 1, host=place.host, address=address, interface=place.interface
    )
    found = {
        **environment.threads(os.environ),
        **network.environment(plan.device_entry, meeting, os.environ),
        **entry.rank_environment(place),
    }
    os.environ.update(found)
    return place


def others_left_out(place: Place | None, machines: Machines, reporter: Reporter) -> str:
    """Say that this machine works alone where its environment names others; "" if it does not.

    Operators of Kubernetes tell every pod of a job its place, whatever runs in it.
    """
    if place is None or not place.whole_machine or machines.several or reporter.watched:
        return ""
    if (place.nodes or 1) < 2 or not place.host:
        return ""
    return (
        f"the environment names this machine as number {place.node_rank} of {place.nodes} of a "
        f"job, and the run is on this machine alone; for one run on all of them add --nnodes "
        f"{place.nodes} --node-rank {place.node_rank} --rdzv {endpoint(place.host, place.port)}, "
        "with --devices for all together"
    )


def _launchers(plan: Plan) -> Iterator[LauncherEntry]:
    """Yield the launchers of a plan's framework, those that know their own variables first."""
    yield from (entry for entry in plan.launchers if not entry.shared_variables)
    yield from (entry for entry in plan.launchers if entry.shared_variables)
    yield SLURM

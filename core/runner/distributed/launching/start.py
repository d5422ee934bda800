"""From a plan for several devices to the result of the processes that carry it out."""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any

from runner.distributed.launching import cards
from runner.distributed.launching.command import commands, line
from runner.distributed.launching.request import Launch
from runner.distributed.machines import Machines
from runner.distributed.supervising.attempts import Attempts
from runner.distributed.supervising.stop import Stop
from runner.errors import DeviceError, StorageError
from runner.planning.plan import check_runnable, missing_device, without_effect
from runner.plugins.probe import probe
from runner.terminal.display import counted

if TYPE_CHECKING:
    import signal
    from collections.abc import Collection
    from pathlib import Path

    from runner.contracts import Availability
    from runner.distributed.launching.task import Task
    from runner.planning.plan import Plan
    from runner.storage.events import EventLog

__all__ = ["carry_out", "commands", "line"]


def carry_out(
    plan: Plan,
    task: Task,
    folder: Path,
    events: EventLog,
    *,
    hears: Collection[signal.Signals],
    machines: Machines | None = None,
) -> dict[str, Any] | None:
    """Start the processes of this machine, wait for them, and return the result of the run.

    Args:
        plan: The recipe, which asks for several devices.
        task: What the processes are to do with it.
        folder: Where run folders are made.
        events: Receives the commands, and why they are started again.
        hears: Signals that ask to stop.
        machines: The machines that the run is spread over; this one alone if left out.

    Returns:
        ``None`` on a machine that does not have rank 0.

    Raises:
        RunnerError: Something is not installed, a device or a value is missing, the machines do
            not meet, or the user has to start the processes; or the run has failed.
    """
    if not hasattr(os, "pidfd_open"):
        raise DeviceError(
            "several processes are supervised on Linux only; use --devices 1, or start the "
            "processes with a launcher of the framework"
        )
    machines = machines or Machines()
    check_runnable(plan, training=plan.recipe.train is not None, exporting=task.export)
    launch = Launch(plan=plan, task=task, folder=folder, machines=machines)
    cards.check_count(plan.recipe.device.cards, launch.local_count)
    _check_one_command(launch, events)
    idle = without_effect(plan, elastic=machines.elastic)
    if idle:
        events.emit("warning", message=idle)
    found = probe(plan.framework_entry.name, plan.device_entry.name)
    if not found.available:
        raise missing_device(plan, found.reason)
    _check_count(plan, found, launch.local_count)
    plan.check_complete()
    stamp = _claim_logs(launch)
    try:
        with Stop(hears) as stop:
            return Attempts(launch, stamp, events, stop).carry_out()
    finally:
        logs = launch.logs(stamp, machines.rank)
        with suppress(OSError):  # no process was started where all of them are empty
            for empty in (logs, *logs.parents[:2]):
                empty.rmdir()


def _claim_logs(launch: Launch) -> str:
    """Return the time, and a number if need be, as a name for logs that no other run has.

    Raises:
        StorageError: The folder cannot be written.
    """
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    if launch.machines.rank:  # it takes the name that machine 0 has
        return stamp
    for number in range(100):
        name = f"{stamp}-{number}" if number else stamp
        folder = launch.logs(name, launch.machines.rank)
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise StorageError(
                f"cannot create {folder}: {error.strerror}; choose another place with --runs-dir"
            ) from error
        return name
    raise StorageError(f"cannot create logs in {launch.folder}: 100 names of {stamp} are taken")


def _check_one_command(launch: Launch, events: EventLog) -> None:
    """Leave processes to the user for which there is one command each, on whatever machine."""
    words = launch.task.command  # a user types these, and has no file
    prepared = commands(launch.plan, words, launch.folder, launch.machines)
    if len(prepared) > 1:
        launch.plan.check_complete()
        events.emit("run.launched", commands=[line(command) for command in prepared])
        raise DeviceError(
            f"the {len(prepared)} commands above start the processes, one for each device; "
            "start them all at the same time, each in a shell of its own"
        )


def _check_count(plan: Plan, found: Availability, asked: int) -> None:
    """Refuse more processes than there are devices, before each of them would."""
    entry, total = plan.device_entry, plan.recipe.device.count
    if found.count is None or found.count >= asked:
        return
    chosen = f" ({entry.visible_devices} chooses which)" if entry.visible_devices else ""
    if asked < total:
        raise DeviceError(
            f"the recipe asks for {total} {entry.name} devices, {asked} on each machine, and "
            f"{found.count} are visible on this one{chosen}; add --devices "
            f"{found.count * (total // asked)}, which keeps the global batch, or use more machines"
        )
    raise DeviceError(
        f"the recipe asks for {counted(asked, f'{entry.name} device')}, and {found.count} are "
        f"visible{chosen}; add --devices {found.count}, which keeps the global batch, or start the "
        "processes on several machines"
    )

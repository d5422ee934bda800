"""What is started on this machine for a run, as far as it is the same in every attempt."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from runner.distributed.launching import command
from runner.distributed.launching.task import COMMAND
from runner.distributed.supervising import elastic
from runner.errors import DeviceError
from runner.recipe import dump

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Any

    from runner.distributed.launching.task import Task
    from runner.distributed.machines import Machines
    from runner.distributed.supervising.elastic import Choice
    from runner.entries import Command
    from runner.planning.plan import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What is to be started."""

    plan: Plan
    """For all devices."""
    task: Task
    """What the processes are to do with it."""
    folder: Path
    """Where run folders are made, which all machines see."""
    machines: Machines
    """All machines, as the command line names them."""

    @property
    def local_count(self) -> int:
        """Devices of each machine.

        Raises:
            UsageError: They are not the same number on each.
        """
        return self.machines.share(self.plan.recipe.device.count)

    @property
    def asks(self) -> Mapping[str, str]:
        """Options that all machines must have in common."""
        machines = self.machines
        least = f"{machines.least}:" if machines.least is not None else ""
        return {
            "--devices": str(self.plan.recipe.device.count),
            "--nnodes": f"{least}{machines.count}",
        }

    def choose(self, told: Mapping[int, Mapping[str, Any]]) -> Choice:
        """Choose which of the machines that have come take part.

        Raises:
            DeviceError: They were started for other numbers of devices or machines, too few devices
                are left, or these cannot share the batch.
        """
        for rank, news in told.items():
            for option, asked in self.asks.items():
                if news["asks"][option] != asked:
                    raise DeviceError(
                        f"machine {self.machines.rank} was started with {option} {asked}, and "
                        f"machine {rank} with {option} {news['asks'][option]}; give all the same"
                    )
        return elastic.choose(self.plan, self.machines, told)

    def plan_with(self, devices: int) -> Plan:
        """Return the plan for the devices that were chosen, of all machines together.

        Raises:
            UsageError: They cannot share the batch.
        """
        same = devices == self.plan.recipe.device.count
        return self.plan if same else self.plan.with_devices(devices)

    def commands(
        self, plan: Plan, logs: Path, machines: Machines, environment: Mapping[str, str]
    ) -> Sequence[Command]:
        """Return what starts the processes of this machine.

        Args:
            plan: For the devices that are left.
            logs: Where the processes print to, and read what is asked.
            machines: The machines that have come.
            environment: Further variables.

        Raises:
            RunnerError: The framework cannot start them.
            OSError: The request cannot be written.
        """
        asked = logs / "request.json"
        replace(self.task, recipe=dump(plan.recipe)).write(asked)
        prepared = command.commands(plan, [COMMAND, str(asked)], logs, machines)
        return [replace(item, environment={**item.environment, **environment}) for item in prepared]

    def logs(self, stamp: str, machine: int) -> Path:
        """Return where what the processes of a machine print is kept, which all machines see."""
        node = f"-node{machine}" if self.machines.several else ""
        return self.folder / f"{stamp}{node}.launch"

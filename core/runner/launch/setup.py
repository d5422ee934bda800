"""What is started on this machine for a run, as far as it is the same in every attempt."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from runner.launch import command, fewer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from runner.entries import Command
    from runner.machines import Machines
    from runner.plan import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What is to be started."""

    plan: Plan
    """For all devices."""
    arguments: Sequence[str]
    """Arguments of ``runner`` in each process."""
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

    def plan_with(self, devices: int, machines: Machines, run: Path | None) -> Plan:
        """Return the plan for what is left.

        Args:
            devices: Devices that every machine has at least.
            machines: The machines that have come.
            run: The run folder; ``None`` before there is one.

        Raises:
            DeviceError: Too few are left.
        """
        least = self.plan.recipe.distributed.min_devices
        if least is None:
            least = (self.machines.least or self.machines.count) * self.local_count
        return fewer.with_at_most(self.plan, devices, machines.count, least=least, folder=run)

    def commands(
        self, plan: Plan, logs: Path, machines: Machines, environment: Mapping[str, str]
    ) -> Sequence[Command]:
        """Return what starts the processes of this machine.

        Args:
            plan: For the devices that are left.
            logs: Where the processes print to.
            machines: The machines that have come.
            environment: Further variables.

        Raises:
            RunnerError: The framework cannot start them.
        """
        arguments = [*self.arguments]
        if plan is not self.plan:
            arguments += ["--set", f"device.count={plan.recipe.device.count}"]
        prepared = command.commands(plan, arguments, logs, machines)
        return [replace(item, environment={**item.environment, **environment}) for item in prepared]

    def logs(self, stamp: str, machine: int) -> Path:
        """Return where what the processes of a machine print is kept, which all machines see."""
        node = f"-node{machine}" if self.machines.several else ""
        return self.folder / f"{stamp}{node}.launch"

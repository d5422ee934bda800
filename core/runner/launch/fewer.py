"""Going on with fewer devices: without machines that have not come, or lost processes' devices."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from runner.errors import DeviceError, RunnerError
from runner.rundir import RunDir

if TYPE_CHECKING:
    from pathlib import Path

    from runner.plan import Plan


def with_at_most(plan: Plan, local: int, machines: int, *, least: int, folder: Path | None) -> Plan:
    """Return the plan for as many devices as are left and can share the batch.

    Each machine works with the same number.

    Args:
        plan: The plan for all devices.
        local: Devices that every machine has at least.
        machines: Machines that have come.
        least: Devices to go on with, of all machines together.
        folder: The run folder, which knows how many images there are; ``None`` before there is one.

    Raises:
        DeviceError: Fewer are left, or no number of them can share the batch.
    """
    found = f"{local * machines} of {plan.recipe.device.count} devices are left"
    if local * machines < least:
        raise DeviceError(f"{found}, and the run may go on with {least} (distributed.min_devices)")
    images = _train_images(folder)
    for number in range(local, 0, -1):
        total = number * machines
        if total == plan.recipe.device.count:
            return plan
        if total >= least:
            with suppress(RunnerError):
                fewer = plan.with_devices(total)
                if images is not None:
                    fewer.check_shares(images)
                return fewer
    raise DeviceError(
        f"{found}, and neither these nor fewer, down to {least} (distributed.min_devices), can "
        "share a batch evenly"
    )


def _train_images(folder: Path | None) -> int | None:
    """Return how many images the run trains on; ``None`` if it does not, or is not known yet."""
    if folder is not None:
        with suppress(RunnerError, KeyError):
            images: int = RunDir(folder).read_manifest()["data"]["train"]["images"]
            return images
    return None

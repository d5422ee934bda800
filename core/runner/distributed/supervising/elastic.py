"""Going on with fewer devices: without machines that have not come, or lost processes' devices."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from runner.errors import DeviceError, RunnerError
from runner.storage.rundir import RunDir
from runner.terminal.display import counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from runner.distributed.machines import Machines
    from runner.planning.plan import Plan


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which of the machines that have come take part."""

    ranks: tuple[int, ...]
    """Their numbers, the lowest first."""
    devices: int
    """Devices that each of them works with."""
    why: str
    """What the other ones are told."""


def choose(plan: Plan, machines: Machines, told: Mapping[int, Mapping[str, Any]]) -> Choice:
    """Choose the most devices that can share the batch, the same number on each machine.

    Machine 0 always takes part, where the others meet it. Among choices with as many devices, the
    one with the most machines is taken.

    Args:
        plan: The plan for all devices.
        machines: All machines, as the command line names them.
        told: What each of those that have come has told: the ``devices`` that it has left, and
            how many ``images`` the run trains on, if it knows.

    Raises:
        DeviceError: Fewer are left than the run may go on with, or no number of them can share the
            batch.
    """
    least, name = _least(plan, machines)
    left = {rank: news["devices"] for rank, news in told.items()}
    found = f"{sum(left.values())} of {plan.recipe.device.count} devices are left"
    if sum(left.values()) < least:
        raise DeviceError(f"{found}, and the run may go on with {least} ({name})")
    images = next((n for news in told.values() if (n := news.get("images")) is not None), None)
    order = sorted(left, key=lambda rank: (rank != 0, -left[rank], rank))
    best: tuple[int, ...] = ()
    each = 0
    for count in range(len(order), min(machines.least or machines.count, len(order)) - 1, -1):
        ranks = order[:count]
        for devices in range(min(left[rank] for rank in ranks), 0, -1):
            total = devices * count
            if total < least or total <= each * len(best):
                break
            if _can_share(plan, total, images):
                best, each = tuple(sorted(ranks)), devices
                break
    if not best:
        raise DeviceError(
            f"{found}, and no number of them from {least} ({name}) on, the same on each machine, "
            f"can share {_batch(plan)} evenly"
        )
    total = each * len(best)
    why = (
        f"{sum(left.values())} devices are left on {len(left)} machines, of which {total} can "
        f"share {_batch(plan)} evenly; {_names(best)} {'go' if len(best) > 1 else 'goes'} on "
        "with these"
    )
    return Choice(ranks=best, devices=each, why=why)


def train_images(folder: Path | None) -> int | None:
    """Return how many images a run trains on; ``None`` if it does not, or is not known yet.

    Args:
        folder: The run folder; ``None`` before there is one.
    """
    if folder is not None:
        with suppress(RunnerError, KeyError):
            images: int = RunDir(folder).read_manifest()["data"]["train"]["images"]
            return images
    return None


def _least(plan: Plan, machines: Machines) -> tuple[int, str]:
    """Return how many devices the run may go on with, and what says so."""
    count = plan.recipe.device.count
    if plan.recipe.distributed.min_devices is not None:
        return plan.recipe.distributed.min_devices, "distributed.min_devices"
    if machines.least is not None and machines.elastic:
        least = machines.least * machines.share(count)
        return least, f"--nnodes {machines.least}:{machines.count}"
    return count, "device.count"


def _can_share(plan: Plan, devices: int, images: int | None) -> bool:
    if devices == plan.recipe.device.count:
        return True
    try:
        fewer = plan.with_devices(devices)
        if images is not None:
            fewer.check_shares(images)
    except RunnerError:
        return False
    return True


def _batch(plan: Plan) -> str:
    return (
        f"a batch of {counted(plan.recipe.train.batch_size, 'image')}"
        if plan.recipe.train
        else "the work"
    )


def _names(ranks: Sequence[int]) -> str:
    if len(ranks) == 1:
        return f"machine {ranks[0]}"
    *first, last = (str(rank) for rank in ranks)
    return f"machines {', '.join(first)} and {last}"

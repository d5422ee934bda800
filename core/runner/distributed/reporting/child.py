"""What a process does first when it is one of several."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from runner.errors import DeviceError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runner.distributed.reporting.reporter import Reporter
    from runner.entries import Place
    from runner.planning.plan import Plan


def begin(plan: Plan, place: Place | None, reporter: Reporter) -> None:
    """Report which process of its machine this is, and bind it to its cores if the recipe says so.

    Cores are chosen before the framework is imported, which counts them; threads that exist already
    are bound to the same ones.

    Raises:
        DeviceError: Cores are to be bound, and it is not known which process this is, or of how
            many.
    """
    recipe = plan.recipe
    if place is None or place.rank is place.local_rank is None:  # alone, or helps others to meet
        return
    local_rank = place.local_rank
    if local_rank is None:
        if recipe.distributed.bind_cores:
            raise DeviceError(
                "distributed.bind_cores: what has started this process does not tell which of the "
                "machine's processes it is; remove it, and let the launcher bind them"
            )
        return
    reporter.started(local_rank)
    reporter.follow_parent(recipe.distributed.timeout_s)
    if recipe.distributed.bind_cores:
        if not hasattr(os, "sched_setaffinity"):
            raise DeviceError("distributed.bind_cores works on Linux only; remove it")
        processes = reporter.local_count
        if processes is None:  # srun may have bound this one already, and a table may name any card
            raise DeviceError(
                "distributed.bind_cores is the work of runner as the parent of the processes "
                f"of a machine, and something else has started process {local_rank} of this one; "
                "remove it, and bind with an option of what starts them: srun --cpu-bind=cores, "
                "msrun --bind_core=True, or numactl --physcpubind before each command"
            )
        _bind(share(sorted(os.sched_getaffinity(0)), local_rank, processes))


def _bind(cores: Sequence[int]) -> None:
    """Keep this process to some cores."""
    for thread in Path("/proc/self/task").iterdir():
        os.sched_setaffinity(int(thread.name), cores)


def share(cores: Sequence[int], local_rank: int, processes: int) -> Sequence[int]:
    """Return the cores of one of the processes that share them, at least one and neighbours.

    Where there are more processes than cores, some have the same.
    """
    first = len(cores) * local_rank // processes
    end = len(cores) * (local_rank + 1) // processes
    return cores[first : max(end, first + 1)]

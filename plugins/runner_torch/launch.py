"""Starting several processes that train together, and recognising to be one of them.

Nothing here imports torch, so that a plan can show its command line where it is not installed.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from runner.entries import Command
from runner.errors import UsageError
from runner_torch.traits import available_cores

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from runner.entries import LaunchRequest


def launch(request: LaunchRequest) -> Sequence[Command]:
    """Return what starts the processes; an implementation of ``FrameworkEntry.launch``.

    Raises:
        UsageError: The recipe chooses one card for all of them.
    """
    check_index(getattr(request.device_options, "index", 0), request.count)
    # torchrun by its module name: its script may be that of another environment
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    processes = ["--nproc-per-node", str(request.count)]
    # It sets one thread for each process otherwise, and warns.
    threads = {"OMP_NUM_THREADS": str(max(1, available_cores() // request.count))}
    return [
        Command(
            arguments=[*launcher, *processes, "-m", "runner", *request.arguments],
            environment=unless_set(threads),
        )
    ]


def check_index(index: int, processes: int) -> None:
    """Refuse one card for several processes.

    Raises:
        UsageError: An index is asked for.
    """
    if index and processes > 1:
        raise UsageError(
            f"device.index is {index}, and {processes} processes take a card each; remove it "
            "(the variable of visible devices chooses among the cards), or add --devices 1"
        )


def unless_set(defaults: Mapping[str, str]) -> Mapping[str, str]:
    """Return the environment variables that the user has not set."""
    return {name: value for name, value in defaults.items() if name not in os.environ}


def launched_world_size() -> int | None:
    """Return how many processes torchrun has started, this one among them, on all machines."""
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        return int(os.environ["WORLD_SIZE"])
    return None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LocalPlace:
    """The place of this process among those of its machine."""

    rank: int
    processes: int


def local_place() -> LocalPlace | None:
    """Return the place that torchrun has given this process; ``None`` if it was started alone."""
    if "LOCAL_RANK" in os.environ and "LOCAL_WORLD_SIZE" in os.environ:
        rank, processes = os.environ["LOCAL_RANK"], os.environ["LOCAL_WORLD_SIZE"]
        return LocalPlace(rank=int(rank), processes=int(processes))
    return None

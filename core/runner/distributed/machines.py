"""The machines that a run is spread over, as the command line or a batch system tells."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runner.errors import UsageError
from runner.terminal.display import counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PORTS = range(1, 2**16)
MEETING_POINT = re.compile(
    r"""(\[(?P<bracketed>[0-9A-Fa-f:.]+)\]  # [fd00::1], which has colons of its own
       |(?P<plain>[^\s:\[\]/]+))             # node-7 or 10.0.0.7
       :(?P<port>\d+)""",
    re.VERBOSE,
)
NNODES = re.compile(r"(?:(?P<least>\d+):)?(?P<count>\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machines:
    """How many machines work together, which one this is, and where they meet.

    Every machine runs the same command, each with its own number; the processes on it are started
    there.
    """

    count: int = 1
    least: int | None = None
    """Machines that the run may go on with when others are lost; ``None`` if it needs all."""
    rank: int = 0
    """Number of this machine, from 0. The first one's processes have the first ranks."""
    host: str = "127.0.0.1"
    """Name or address of machine 0, where all meet."""
    port: int | None = None
    """Port there; a free one where the run has one machine."""
    address: str = "127.0.0.1"
    """Address of this machine towards the others."""
    interface: str = ""
    """Network interface that has this address; "" if it is not known."""

    @property
    def several(self) -> bool:
        """Whether there are others."""
        return self.count > 1

    @property
    def elastic(self) -> bool:
        """Whether the run goes on when machines are lost."""
        return self.least is not None and self.least < self.count

    @property
    def endpoint(self) -> str:
        """Where all meet, as ``host:port``."""
        return endpoint(self.host, self.port)

    def share(self, devices: int) -> int:
        """Return how many of a run's devices are on each machine.

        Raises:
            UsageError: They are not the same number on each.
        """
        if devices % self.count:
            below = devices // self.count * self.count
            choices = [str(n) for n in (below, below + self.count) if n]
            raise UsageError(
                f"{counted(devices, 'device')} on {self.count} machines are not the same number "
                "on each; --devices counts those of all machines together: use "
                f"{' or '.join(choices)}"
            )
        return devices // self.count


def endpoint(host: str, port: int | None) -> str:
    """Write a meeting point as ``host:port``, with brackets around an address with colons."""
    name = f"[{host}]" if ":" in host else host
    return f"{name}:{port or 0}"


def as_machine(arguments: Sequence[str], rank: int) -> list[str]:
    """Return the arguments of ``runner`` with the number of another machine."""
    kept, words = [], iter(arguments)
    for word in words:
        if word == "--node-rank":
            next(words, None)
        elif not word.startswith("--node-rank="):
            kept.append(word)
    return [*kept, "--node-rank", str(rank)]


def from_options(
    nnodes: str, node_rank: int | None, rdzv: str, environ: Mapping[str, str]
) -> Machines:
    """Return the machines that a command is for.

    What an option does not say comes from SLURM, in a step with one task on each machine.

    Args:
        nnodes: Number of machines, such as ``4``, or ``2:4`` to go on with as few as 2; "" if it
            was not given.
        node_rank: Number of this machine; ``None`` if it was not given.
        rdzv: Where they meet, such as ``node-0:29500`` or ``[fd00::1]:29500``; "" if not given.
        environ: Environment variables.

    Raises:
        UsageError: A value is wrong, or missing beside the others.
    """
    from runner.distributed.slurm import environment

    step = environment.step(environ)
    if step is not None and step.one_task_each and step.nodes > 1:
        nnodes = nnodes or str(step.nodes)
        if _parse_nnodes(nnodes)[1] > 1:
            node_rank = step.node_rank if node_rank is None else node_rank
            rdzv = rdzv or environment.meeting_point(environ)
    if not nnodes:
        _refuse_without_nnodes(node_rank, rdzv)
        return Machines()
    least, count = _parse_nnodes(nnodes)
    rank = _check_rank(node_rank, count)
    if not rdzv:
        if count == 1:
            return Machines()
        raise UsageError(
            f"--nnodes {nnodes} needs the place where the machines meet: add --rdzv HOST:PORT, an "
            "address of machine 0 that the others reach and a free port there, the same on all"
        )
    host, port = _parse_meeting_point(rdzv)
    # the address is found when they meet
    return Machines(count=count, least=least, rank=rank, host=host, port=port, address="")


def _refuse_without_nnodes(node_rank: int | None, rdzv: str) -> None:
    given = ["--node-rank"] * (node_rank is not None) + ["--rdzv"] * bool(rdzv)
    if given:
        raise UsageError(
            f"{' and '.join(given)} without --nnodes: add --nnodes N, the number of machines, "
            "or leave it out to use this machine alone"
        )


def _parse_nnodes(text: str) -> tuple[int | None, int]:
    """Return the least number of machines, where one is given, and the number of all."""
    match = NNODES.fullmatch(text)
    if match is None:
        raise UsageError(
            f"--nnodes {text}: expected a number of machines such as 4, or 2:4 for at least 2 of 4"
        )
    count = int(match["count"])
    least = None if match["least"] is None else int(match["least"])
    if not 1 <= (count if least is None else least) <= count:
        raise UsageError(
            f"--nnodes {text}: expected at least 1 machine, and the smaller number first, as in 2:4"
        )
    return least, count


def _check_rank(rank: int | None, count: int) -> int:
    if rank is None:
        if count == 1:
            return 0
        raise UsageError(
            f"--nnodes {count} needs the number of this machine: add --node-rank, "
            f"0 on the machine that --rdzv names and another one from 1 to {count - 1} on each "
            "other"
        )
    if not 0 <= rank < count:
        raise UsageError(
            f"--node-rank {rank} is none of {counted(count, 'machine')}: "
            f"they are numbered from 0 to {count - 1}"
        )
    return rank


def _parse_meeting_point(text: str) -> tuple[str, int]:
    match = MEETING_POINT.fullmatch(text)
    if match is None:
        raise UsageError(
            f"--rdzv {text}: expected HOST:PORT, such as node-0:29500, 10.0.0.7:29500, or "
            "[fd00::7]:29500 for an address with colons"
        )
    port = int(match["port"])
    if port not in PORTS:
        raise UsageError(f"--rdzv {text}: expected a port from {PORTS[0]} to {PORTS[-1]}")
    return match["bracketed"] or match["plain"], port

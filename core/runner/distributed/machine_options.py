"""The machines of a run, as options of the command line or a batch system name them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from runner.distributed.machines import Machines
from runner.errors import UsageError
from runner.terminal.display import counted

if TYPE_CHECKING:
    from collections.abc import Mapping

PORTS = range(1, 2**16)
MEETING_POINT = re.compile(
    r"""(\[(?P<bracketed>[0-9A-Fa-f:.]+)\]  # [fd00::1], which has colons of its own
       |(?P<plain>[^\s:\[\]/]+))             # node-7 or 10.0.0.7
       :(?P<port>\d+)""",
    re.VERBOSE,
)
NNODES = re.compile(r"(?:(?P<least>\d+):)?(?P<count>\d+)")


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
    if "SLURM_STEP_NUM_TASKS" in environ:
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

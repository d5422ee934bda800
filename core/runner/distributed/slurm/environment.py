"""What SLURM tells a process that ``srun`` started.

``srun`` describes the step that a process belongs to in its environment; the variables are those of
its manual page. A batch script itself is not part of a step.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from runner.entries import Attempt, Place
from runner.errors import UsageError
from runner.terminal.display import counted

if TYPE_CHECKING:
    from collections.abc import Mapping

PORTS = range(20000, 30000)
"""Where the processes of a job meet: below the ports that Linux gives to outgoing connections."""
SCONTROL_S = 60.0
"""Time for an answer of ``scontrol``, which may ask the controller."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The tasks that one ``srun`` has started, and which one this process is."""

    nodes: int
    tasks: int
    node_rank: int
    rank: int
    local_rank: int
    tasks_per_node: tuple[int, ...]
    """Tasks on each node; empty where SLURM does not tell."""

    @property
    def one_task_each(self) -> bool:
        """Whether there is one task on each node."""
        return self.tasks == self.nodes


def step(environ: Mapping[str, str]) -> Step | None:
    """Return the step that this process is a task of; ``None`` if it is not."""
    if "SLURM_STEP_NUM_TASKS" not in environ or "SLURM_PROCID" not in environ:
        return None
    return Step(
        nodes=int(environ["SLURM_STEP_NUM_NODES"]),
        tasks=int(environ["SLURM_STEP_NUM_TASKS"]),
        node_rank=int(environ["SLURM_NODEID"]),
        rank=int(environ["SLURM_PROCID"]),
        local_rank=int(environ["SLURM_LOCALID"]),
        tasks_per_node=_counts(environ.get("SLURM_STEP_TASKS_PER_NODE", "")),
    )


def place(environ: Mapping[str, str]) -> Place | None:
    """Return the rank of this process where SLURM started one task for each device.

    Args:
        environ: Environment variables.

    Returns:
        A whole machine where there is one task on each; ``None`` outside of a step.

    Raises:
        UsageError: There are not as many tasks on each machine.
    """
    found = step(environ)
    if found is None:
        return None
    if found.one_task_each:
        return Place(whole_machine=True, node_rank=found.node_rank, nodes=found.nodes)
    local, rest = divmod(found.tasks, found.nodes)
    if rest or any(count != local for count in found.tasks_per_node):
        spread = ", ".join(str(count) for count in found.tasks_per_node) or "not told"
        raise UsageError(
            f"srun has started {found.tasks} tasks on {found.nodes} nodes, of which one has more "
            f"than another ({spread}): use srun --ntasks-per-node, with as many on each"
        )
    if found.rank != found.node_rank * local + found.local_rank:
        raise UsageError(
            f"task {found.rank} of srun is number {found.local_rank} on node {found.node_rank}: "
            "expected the first tasks on the first node; use srun --distribution=block"
        )
    return Place(
        rank=found.rank,
        world_size=found.tasks,
        local_rank=found.local_rank,
        local_world_size=local,
        node_rank=found.node_rank,
        nodes=found.nodes,
        host=_first_host(environ),
        port=port(environ),
    )


def check_tasks(environ: Mapping[str, str], devices: int) -> None:
    """Refuse another number of tasks than a recipe asks for devices.

    Raises:
        UsageError: They differ.
    """
    found = step(environ)
    if found is not None and found.tasks != devices:
        raise UsageError(
            f"srun has started {counted(found.tasks, 'task')} on {counted(found.nodes, 'node')}, "
            f"and the recipe asks for {counted(devices, 'device')}: "
            f"expected one task on each node (srun --ntasks-per-node=1), or one for each device "
            f"(srun --ntasks={devices}, or --devices {found.tasks})"
        )


def attempt(environ: Mapping[str, str]) -> Attempt | None:
    """Return the job of a step, which has the same number when its job is queued again."""
    names = ("SLURM_JOB_ID", "SLURM_STEP_ID")
    if not all(name in environ for name in names):
        return None
    return Attempt(
        job="slurm {}.{}".format(*(environ[name] for name in names)),
        number=int(environ.get("SLURM_RESTART_COUNT", "0")),
        # a shell in a step starts one run after another
        known_by="count",
    )


def meeting_point(environ: Mapping[str, str]) -> str:
    """Return ``host:port`` where the tasks of a step meet: its first node, and a port by its job.

    Raises:
        UsageError: SLURM does not tell which nodes it has.
    """
    return f"{_first_host(environ)}:{port(environ)}"


def port(environ: Mapping[str, str]) -> int:
    """Return a port that all tasks of a step know, and that other steps on a node hardly use."""
    job, number = (int(environ.get(name, "0")) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    return PORTS[(job + 1009 * number) % len(PORTS)]


def _first_host(environ: Mapping[str, str]) -> str:
    nodes = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST")
    if not nodes:
        raise UsageError(
            "srun has started this process, and neither SLURM_STEP_NODELIST nor "
            "SLURM_JOB_NODELIST names its nodes; add --rdzv HOST:PORT"
        )
    if not re.search(r"[\[,]", nodes):
        return nodes
    command = ["scontrol", "show", "hostnames", nodes]
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=SCONTROL_S
        )
        return answer.stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError) as error:
        said = getattr(error, "stderr", None) or str(error)
        raise UsageError(
            f"{' '.join(command)} does not tell the first node of the job: {said.strip()}; "
            "add --rdzv HOST:PORT"
        ) from error


def _counts(text: str) -> tuple[int, ...]:
    """Read counts for each node as SLURM writes them, such as ``2(x3),1``."""
    counts: list[int] = []
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", text):
        counts += [int(count)] * int(times or 1)
    return tuple(counts)


def threads(environ: Mapping[str, str]) -> Mapping[str, str]:
    """Return the variable of the threads that a task may use, unless the user has set it.

    The cores that a process may use do not tell: where SLURM binds no tasks, they are all.
    """
    count = environ.get("SLURM_CPUS_PER_TASK")
    return {"OMP_NUM_THREADS": count} if count and "OMP_NUM_THREADS" not in environ else {}

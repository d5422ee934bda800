"""Batch scripts for SLURM."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runner.distributed.slurm.environment import PORTS
from runner.errors import UsageError
from runner.system.interpreter import BOOT
from runner.terminal import display

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

WARNING_S = 120
"""Seconds before the end of its time in which a job is asked to save and leave."""
SCRIPT = """\
#!/bin/bash
{directives}

# {title}
# On each node, one task starts the processes for its devices and watches them. When the time of
# the job ends, or it gives way to another one, the run saves a checkpoint and leaves with status
# 143; the job is then queued again under the same number, finds its run, and continues it.

set -u
python={python}
runs={runs}/slurm-$SLURM_JOB_ID
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$(({first} + SLURM_JOB_ID % {ports}))

latest() {{
  local manifest
  manifest=$(ls -d "$runs"/*/*/manifest.json 2>/dev/null | sort | tail -n 1)
  echo "${{manifest%/manifest.json}}"
}}

run=$(latest)
if [ -z "$run" ]; then
  command=({command} --runs-dir "$runs")
elif [ -e "$run/result.json" ]; then
  echo "$run is finished"
  exit 0
else
  command=(resume "$run" --devices {all_devices})
fi

srun --nodes={nodes} --ntasks-per-node=1 \\
  --cpus-per-task="${{SLURM_CPUS_PER_TASK:-$SLURM_CPUS_ON_NODE}}" \\
  --kill-on-bad-exit=0 --wait=0{no_kill} \\
  "$python" {boot} runner "${{command[@]}}" --nnodes {nnodes} --rdzv "$head:$port"
status=$?
{forgive}case "$status" in
  138 | 140 | 143 | 152) scontrol requeue "$SLURM_JOB_ID" ;;  # SIGUSR1, SIGUSR2, SIGTERM, SIGXCPU
esac
exit "$status"
"""
FORGIVE = """\
# Nodes that were lost, or were not needed, leave other statuses than the run.
if [ -e "$(latest)/result.json" ]; then
  status=0
fi
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a batch script is for."""

    name: str
    """Name of the recipe, and of the job."""
    arguments: Sequence[str]
    """Arguments of ``runner`` that start it, without machines and run folders."""
    nodes: int
    least: int | None
    """Nodes that are enough to go on; ``None`` if all are needed."""
    devices: int
    """Devices of all nodes."""
    cards: str = ""
    """Cards of each node, as ``--devices`` takes them; any if left out."""
    runs_dir: Path
    options: Sequence[str] = ()
    """Options of ``sbatch``, such as ``--partition=gpu``."""


def script(job: Job) -> str:
    """Return the batch script of a job.

    Raises:
        UsageError: An option of ``sbatch`` is none, or one that the script decides.
    """
    if letter := display.first_control(job.name):
        raise UsageError(
            f"the recipe's name holds {letter}, which would end the line of a batch script; "
            "rename its file"
        )
    elastic = job.least is not None and job.least < job.nodes
    own = {
        "--job-name": job.name,
        "--nodes": str(job.nodes),
        "--ntasks-per-node": "1",
        "--signal": f"TERM@{WARNING_S}",
        "--requeue": "",
        "--open-mode": "append",
    }
    if elastic:  # Slurm would end the job, and the step, with the first node that is lost
        own["--no-kill"] = ""
    fixed = ("--nodes", "--ntasks-per-node", "--ntasks", "--array")
    for option in job.options:
        name = option.partition("=")[0]
        if (
            not option.startswith("--")
            or any(map(str.isspace, option))
            or display.first_control(option)
        ):
            raise UsageError(
                f"--sbatch {option!r}: expected one long option of sbatch with its value behind "
                "'=', such as --sbatch=--partition=gpu"
            )
        if name in fixed:
            raise UsageError(
                f"--sbatch {option}: the script decides {name}, which follows from --nnodes; "
                "leave it out"
            )
        if name == "--no-requeue":
            own.pop("--requeue", None)
        own.pop(name, None)
    lines = [
        *(f"{name}={display.quote(value)}" if value else name for name, value in own.items()),
        *job.options,
    ]
    where = f"{display.counted(job.devices, 'device')} of {display.counted(job.nodes, 'node')}"
    return SCRIPT.format(
        directives="\n".join(f"#SBATCH {line}" for line in lines),
        title=f"{display.line(job.name)} on {where}.",
        python=display.quote(sys.executable),
        boot=display.quote(BOOT),
        runs=display.quote(str(job.runs_dir)),
        first=PORTS[0],
        ports=len(PORTS),
        command=display.command(job.arguments),
        # not those that the run has lost meanwhile
        all_devices=job.cards or job.devices,
        nodes=job.nodes,
        no_kill=" --no-kill" if elastic else "",
        forgive=FORGIVE if elastic else "",
        nnodes=job.nodes if job.least is None else f"{job.least}:{job.nodes}",
    )

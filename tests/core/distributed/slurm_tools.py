"""Programs that stand in for those of SLURM on this machine: its nodes are all this one.

    srun [OPTIONS] COMMAND...       starts the tasks, and ends with the highest of their statuses
    scontrol show hostnames NODES   prints an address of this machine once for each node
    scontrol requeue JOB            notes it in the file that SIM_REQUEUED names

Processes of a step have SIM_STEP in their environment.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def srun(words: list[str]) -> int:
    options = {}
    while words[0].startswith("--"):
        name, _, value = words.pop(0).partition("=")
        options[name] = value
    nodes, each = int(options["--nodes"]), int(options["--ntasks-per-node"])
    tasks = [
        subprocess.Popen(words, env={**os.environ, **task(node, local, nodes, each)})
        for node in range(nodes)
        for local in range(each)
    ]
    return max(abs(process.wait()) for process in tasks)


def task(node: int, local: int, nodes: int, each: int) -> dict[str, str]:
    return {
        "SIM_STEP": "1",
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NODELIST": os.environ["SLURM_JOB_NODELIST"],
        "SLURM_STEP_NUM_NODES": str(nodes),
        "SLURM_STEP_NUM_TASKS": str(nodes * each),
        "SLURM_STEP_TASKS_PER_NODE": f"{each}(x{nodes})" if nodes > 1 else str(each),
        "SLURM_NODEID": str(node),
        "SLURM_PROCID": str(node * each + local),
        "SLURM_LOCALID": str(local),
    }


def scontrol(words: list[str]) -> int:
    if words[:2] == ["show", "hostnames"]:
        print("127.0.0.1\n127.0.0.1")
    elif words[0] == "requeue":
        with Path(os.environ["SIM_REQUEUED"]).open("a") as file:
            file.write(f"{words[1]}\n")
    else:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit({"srun": srun, "scontrol": scontrol}[sys.argv[1]](sys.argv[2:]))

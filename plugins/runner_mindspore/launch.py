"""Starting several processes that train together, and recognising to be one of them.

Nothing here imports MindSpore, so that a plan can show its command line where it is not installed.
"""

from __future__ import annotations

import math
import os
import shutil
import socket
import sys
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from runner.entries import Command, Place
from runner.errors import DeviceError, PluginError, UsageError
from runner.framework.cores import available_cores
from runner.system import interpreter
from runner.terminal.display import counted
from runner_mindspore import rank_table
from runner_mindspore.traits import KINDS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from runner.entries import LaunchRequest
    from runner_mindspore.options import MindSporeOptions

PORTS = range(20000, 30000)
"""Where the scheduler listens: below the ports that Linux gives to outgoing connections."""
QUIET_START = {"MS_SUBMODULE_LOG_v": "{DISTRIBUTED:3}"}
"""Environment without which every attempt to reach the scheduler while it starts is a warning."""
POD = (
    "MS_ROLE",
    "MS_WORKER_NUM",
    "MS_LOCAL_WORKER",
    "MS_NODE_RANK",
    "MS_SCHED_HOST",
    "MS_SCHED_PORT",
)
"""What an operator of Kubernetes tells the pods of a job; msrun tells its processes the same."""
RANK_TABLE_ENVIRONMENT = {
    "DEPLOY_MODE": "0",
    "GE_USE_STATIC_MEMORY": "1",
}
"""Environment of processes with a rank table (MindSpore models, resnext152_64x4d)."""


def launch(request: LaunchRequest) -> Sequence[Command]:
    """Return what starts the processes; an implementation of ``FrameworkEntry.launch``.

    Raises:
        UsageError: The rank table is missing, wrong, or of another number of processes.
    """
    options: MindSporeOptions = request.framework_options  # type: ignore[assignment]  # our config
    if options.rank_table is None:
        return [_msrun(request)]
    return _with_rank_table(request, Path(options.rank_table).expanduser().absolute())


def _msrun(request: LaunchRequest) -> Command:
    python = _interpreter()
    traits = KINDS.get(request.device)
    own = traits.group_environment if traits else {}
    machines = request.machines
    return Command(
        arguments=[
            "msrun",
            f"--worker_num={request.count}",
            f"--local_worker_num={request.local_count}",
            f"--master_addr={machines.host}",
            f"--master_port={machines.port or _free_port(request.log_folder)}",
            # it gives ranks in the order of arrival otherwise
            *([f"--node_rank={machines.rank}"] if machines.several else []),
            f"--cluster_time_out={math.ceil(request.rendezvous_s)}",
            f"--log_dir={request.log_folder}",
            "--join=True",
            *(["--bind_core=True"] if traits and traits.bind_cores else []),
            *(python.name, interpreter.BOOT, "runner", *request.arguments),
        ],
        environment={**_path(python), **_unless_set({**QUIET_START, **own, **_threads(request)})},
        unset=[name for name in POD if name in os.environ],
        interrupted=False,  # it kills its processes then, before they have saved
    )


def _threads(request: LaunchRequest) -> Mapping[str, str]:
    """Return the share of this machine's cores that each process computes with."""
    traits = KINDS.get(request.device)
    if traits is None or not traits.is_host:
        return {}
    return {"OMP_NUM_THREADS": str(max(1, available_cores() // request.local_count))}


def _interpreter() -> Path:
    """Return this interpreter under a name that msrun leaves alone and looks up in ``PATH``."""
    folder = Path(sys.executable).parent
    for path in (folder / "python", folder / "python3"):
        if path.exists() and path.samefile(sys.executable):
            return path
    raise PluginError(
        f"msrun starts 'python' or 'python3' only, and neither in {folder} is {sys.executable}; "
        "use an environment made with: python -m venv"
    )


def _path(python: Path) -> Mapping[str, str]:
    """Return the change to ``PATH`` that makes msrun find this environment's programs."""
    found = shutil.which(python.name)
    if found is not None and Path(found).parent == python.parent:
        return {}
    return {"PATH": os.pathsep.join([str(python.parent), os.environ.get("PATH", os.defpath)])}


def _unless_set(defaults: Mapping[str, str]) -> Mapping[str, str]:
    return {name: value for name, value in defaults.items() if name not in os.environ}


def _free_port(folder: Path) -> int:
    """Return the first free port, counted from one that the log folder chooses.

    Jobs that start at the same time have other folders, and so do not wait at the same port; one
    job shows the same command as often as it is asked for.
    """
    start = zlib.crc32(os.fsencode(folder)) % len(PORTS)
    for offset in range(len(PORTS)):
        port = PORTS[(start + offset) % len(PORTS)]
        with socket.socket() as candidate:
            try:
                candidate.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise UsageError(f"no port from {PORTS[0]} to {PORTS[-1]} is free for the scheduler of msrun")


def _with_rank_table(request: LaunchRequest, path: Path) -> Sequence[Command]:
    if request.machines.several:
        raise UsageError(
            f"{path} says which machines there are and what each does: leave out --nnodes, "
            "--node-rank and --rdzv"
        )
    traits = KINDS.get(request.device)
    if traits is None or traits.distributed_backend != "hccl":
        raise UsageError(
            f"rank tables are for the cards of device ascend, found device {request.device}; "
            "remove framework.launcher, which means msrun"
        )
    if request.cards:
        numbers = ",".join(map(str, request.cards))
        raise UsageError(
            f"device.cards names {numbers}, and {path} says which card each process takes; use "
            f"--devices {request.count}, and if the table names other cards, a new one: "
            f"python -m runner_mindspore.rank_table make --server ADDRESS --devices {numbers}"
        )
    ranks = rank_table.read(path).ranks
    if len(ranks) != request.count:
        raise UsageError(
            f"{path} has {counted(len(ranks), 'device')}, the recipe asks for {request.count}; "
            f"use --devices {len(ranks)} or another table"
        )
    return [
        Command(
            arguments=["runner", *request.arguments],
            environment={
                "RANK_TABLE_FILE": str(path),
                "RANK_SIZE": str(len(ranks)),
                "RANK_ID": card.rank_id,
                "DEVICE_ID": card.device_id,
                **RANK_TABLE_ENVIRONMENT,
                "HCCL_CONNECT_TIMEOUT": str(math.ceil(request.rendezvous_s)),
            },
            host=server,
        )
        for server, card in ranks
    ]


def place(environ: Mapping[str, str]) -> Place | None:
    """Return the place that msrun has given this process; its scheduler counts as launched."""
    if "MS_ROLE" not in environ or _in_pod(environ):
        return None
    world_size = _number(environ, "MS_WORKER_NUM")
    meeting: dict[str, Any] = {
        "host": environ.get("MS_SCHED_HOST", ""),
        "port": _decimal(environ.get("MS_SCHED_PORT", "")),
    }
    if environ["MS_ROLE"] == "MS_SCHED":  # msrun numbers it as well
        return Place(world_size=world_size, **meeting)
    return Place(world_size=world_size, **_numbers(environ), **meeting)


def rank_table_place(environ: Mapping[str, str]) -> Place | None:
    """Return the place of a process that has a rank table."""
    if "RANK_TABLE_FILE" not in environ or "RANK_ID" not in environ:
        return None
    return Place(world_size=_number(environ, "RANK_SIZE"), **_numbers(environ))


def _numbers(environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the rank of a process, and its number on its machine, which that of its card is."""
    local_rank = _number(environ, "DEVICE_ID") if "DEVICE_ID" in environ else None
    return {"rank": _decimal(environ.get("RANK_ID", "")), "local_rank": local_rank}


def _in_pod(environ: Mapping[str, str]) -> bool:
    """Return whether ``MS_ROLE`` is that of a pod: msrun numbers its processes."""
    return "MS_LOCAL_WORKER" in environ and "RANK_ID" not in environ


def pod_place(environ: Mapping[str, str]) -> Place | None:
    """Return the place of a pod of an AscendJob with MindSpore."""
    if not _in_pod(environ):
        return None
    values = {name: environ.get(f"MS_{name}", "") for name in ("WORKER_NUM", "LOCAL_WORKER")}
    rank, host, port = (environ.get(name, "") for name in POD[-3:])
    if not all(text.isdecimal() for text in (*values.values(), rank, port)) or not host:
        return None
    nodes = int(values["WORKER_NUM"]) // max(1, int(values["LOCAL_WORKER"]))
    return Place(whole_machine=True, node_rank=int(rank), nodes=nodes, host=host, port=int(port))


def _decimal(text: str) -> int | None:
    return int(text) if text.isdecimal() else None


def _number(environ: Mapping[str, str], name: str) -> int:
    text = environ.get(name, "")
    if not text.isdecimal():
        raise DeviceError(
            f"{name} is {text!r}, expected a number: a launcher sets it beside MS_ROLE or RANK_ID; "
            "start this with msrun or as runner explain says, or unset those"
        )
    return int(text)

"""Starting several processes that train together, and recognising to be one of them.

Nothing here imports torch, so that a plan can show its command line where it is not installed.
"""

from __future__ import annotations

import math
import os
from dataclasses import replace
from typing import TYPE_CHECKING

from runner.entries import Attempt, Place
from runner.errors import DeviceError, UsageError
from runner.framework.cores import available_cores
from runner.system import interpreter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from runner.entries import Command, LaunchRequest

AUTOLOAD = {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}
"""As in ``runner_torch.autoload``: the launcher, which computes nothing, imports torch as well."""
OPTIONS = "PET_"
"""What torchrun reads its options from: those of a pod are not those of this command."""
TOLD = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
"""Environment in which a launcher tells a process its place."""


def launch(request: LaunchRequest) -> Sequence[Command]:
    """Return what starts the processes; an implementation of ``FrameworkEntry.launch``.

    Raises:
        UsageError: The recipe chooses one card for all of them.
    """
    refuse_one_card(getattr(request.device_options, "index", 0), request.count)
    # torchrun by its module name: its script may be that of another environment
    machines, launcher = request.machines, interpreter.module("torch.distributed.run")
    processes = ["--nproc-per-node", str(request.local_count)]
    # each process prints to files of its own, and core restarts them
    watched = ["--max-restarts", "0", "--redirects", "3", "--log-dir", str(request.log_folder)]
    # It sets one thread for each process otherwise, and warns.
    threads = {"OMP_NUM_THREADS": str(max(1, available_cores() // request.local_count))}
    # after "--", or torchrun would look for abbreviations of its own options in ours
    program = ["--", interpreter.BOOT, "runner", *request.arguments]
    return [
        replace(
            launcher,
            arguments=[*launcher.arguments, *_meeting(request), *processes, *watched, *program],
            environment=unless_set(
                {**AUTOLOAD, **threads, **_network(machines.count, machines.interface)}
            ),
            unset=[name for name in os.environ if name.startswith(OPTIONS)],
        )
    ]


def _meeting(request: LaunchRequest) -> list[str]:
    """Return the options that say which machines meet, where, and for how long they wait."""
    machines, seconds = request.machines, math.ceil(request.rendezvous_s)
    if machines.port is None:
        # or the processes look the name of this machine up, which not every network knows
        return ["--standalone", "--local-addr", "127.0.0.1"]
    return [
        *("--nnodes", str(machines.count), "--node-rank", str(machines.rank)),
        *("--master-addr", machines.host, "--master-port", str(machines.port)),
        *("--rdzv-conf", f"timeout={seconds}"),
    ]


def _network(nodes: int, interface: str) -> Mapping[str, str]:
    """Return how the processes of several machines reach each other."""
    # gloo looks its own host name up otherwise, which may be an address of this machine alone
    return {"GLOO_SOCKET_IFNAME": interface} if nodes > 1 and interface else {}


def rank_environment(place: Place) -> Mapping[str, str]:
    """Return what torch reads; an implementation of ``FrameworkEntry.rank_environment``."""
    return {
        "RANK": str(place.rank),
        "WORLD_SIZE": str(place.world_size),
        "LOCAL_RANK": str(place.local_rank),
        "LOCAL_WORLD_SIZE": str(place.local_world_size),
        "MASTER_ADDR": place.host,
        "MASTER_PORT": str(place.port),
        **unless_set(_network(place.nodes or 1, place.interface)),
    }


def refuse_one_card(index: int, processes: int) -> None:
    """Refuse one card for several processes.

    Raises:
        UsageError: An index is asked for.
    """
    if index and processes > 1:
        raise UsageError(
            f"device.index is {index}, and {processes} processes take a card each; remove it "
            "(--devices 0,2,4,6 chooses the cards), or add --devices 1"
        )


def unless_set(defaults: Mapping[str, str]) -> Mapping[str, str]:
    """Return the environment variables that the user has not set."""
    return {name: value for name, value in defaults.items() if name not in os.environ}


def place(environ: Mapping[str, str]) -> Place | None:
    """Return the place that torchrun has given this process."""
    return _env_place(environ) if "TORCHELASTIC_RUN_ID" in environ else None


def env_place(environ: Mapping[str, str]) -> Place | None:
    """Return the place in the variables of ``env://``, which scripts set for each process, too.

    A PyTorchJob with a Master numbers its pods with ``RANK``, and tells nothing of the processes on
    each. Operators of other clusters list them: ``LOCAL_RANK=0,1`` and so on.
    """
    return None if "," in environ.get("LOCAL_RANK", "") else _env_place(environ)


def _env_place(environ: Mapping[str, str]) -> Place | None:
    if not all(name in environ for name in TOLD):
        return None
    rank, world_size, local_rank, local_world_size = (_number(environ, name) for name in TOLD)
    return Place(
        rank=rank,
        world_size=world_size,
        local_rank=local_rank,
        local_world_size=local_world_size,
        node_rank=rank // max(1, local_world_size),
        nodes=world_size // max(1, local_world_size),
        host=environ.get("MASTER_ADDR", ""),
        port=_port(environ.get("MASTER_PORT", "")),
    )


def attempt(environ: Mapping[str, str]) -> Attempt | None:
    """Return the job of torchrun, whose agent may start its processes again."""
    if place(environ) is None:
        return None
    name = environ["TORCHELASTIC_RUN_ID"]
    number = int(environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    if name == "none":  # it was given no number
        name = f"{name} at {environ.get('MASTER_ADDR')}:{environ.get('MASTER_PORT')}"
        return Attempt(job=name, number=number, known_by="launcher")
    return Attempt(job=name, number=number)


def pod_place(environ: Mapping[str, str]) -> Place | None:
    """Return the place of a pod of Kubeflow, of a TrainJob or a PyTorchJob with a Master."""
    if all(name in environ for name in TOLD):
        return None
    if OPTIONS + "NNODES" in environ:
        nodes, rank = environ["PET_NNODES"], environ.get("PET_NODE_RANK", "")
        return machine_place(environ, nodes, rank, prefix=OPTIONS)
    return machine_place(environ, environ.get("WORLD_SIZE", ""), environ.get("RANK", ""))


def machine_place(
    environ: Mapping[str, str], nodes: str, rank: str, prefix: str = ""
) -> Place | None:
    """Return the place of a machine whose processes are not started yet; ``None`` if not whole."""
    host, port = (environ.get(f"{prefix}MASTER_{name}", "") for name in ("ADDR", "PORT"))
    if not (nodes.isdecimal() and rank.isdecimal() and port.isdecimal() and host):
        return None
    return Place(
        whole_machine=True, node_rank=int(rank), nodes=int(nodes), host=host, port=int(port)
    )


def kubeflow_attempt(environ: Mapping[str, str]) -> Attempt | None:
    """Return the job of an elastic PyTorchJob, whose pods are started again."""
    job = environ.get("PET_RDZV_ID")
    return Attempt(job=f"PyTorchJob {job}") if job else None


def _port(text: str) -> int | None:
    return int(text) if text.isdecimal() else None


def _number(environ: Mapping[str, str], name: str) -> int:
    text = environ[name]
    if not text.isdecimal():
        raise DeviceError(
            f"{name} is {text!r}, expected the number that a launcher sets for each process; "
            "start this with torchrun, or unset it"
        )
    return int(text)

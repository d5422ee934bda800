"""Starting several processes that train together, and recognising to be one of them.

Nothing here imports torch, so that a plan can show its command line where it is not installed.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, final

from runner.distributed.machines import Machines
from runner.entries import Job
from runner.errors import DeviceError, UsageError
from runner.framework.cores import available_cores
from runner.system import interpreter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from runner.entries import Command, LaunchRequest, RankPlace


AUTOLOAD = {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}
"""As in ``runner_torch.autoload``: the launcher, which computes nothing, imports torch as well."""
OPTIONS = "PET_"
"""What torchrun reads its options from: those of a pod are not those of this command."""
POD_VARIABLES: set[str] = set()
"""``DeviceTraits.pod_variable`` of the kinds of device that are registered."""
TOLD = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
"""Environment in which a launcher tells a process its place."""


def launch(request: LaunchRequest) -> Sequence[Command]:
    """Return what starts the processes; an implementation of ``FrameworkEntry.launch``.

    Raises:
        UsageError: The recipe chooses one card for all of them.
    """
    refuse_one_card(getattr(request.device_options, "index", 0), request.count)
    # torchrun by its module name: its script may be that of another environment
    launcher = interpreter.module("torch.distributed.run")
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
            environment=unless_set({**AUTOLOAD, **threads, **_network(request.machines)}),
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


def _network(machines: Machines) -> Mapping[str, str]:
    """Return how the processes of several machines reach each other."""
    if not (machines.several and machines.interface):
        return {}
    # gloo looks its own host name up otherwise, which may be an address of this machine alone
    return {"GLOO_SOCKET_IFNAME": machines.interface}


def rank_environment(place: RankPlace) -> Mapping[str, str]:
    """Return what torch reads; an implementation of ``FrameworkEntry.rank_environment``."""
    machines = place.machines
    return {
        "RANK": str(place.rank),
        "WORLD_SIZE": str(place.world_size),
        "LOCAL_RANK": str(place.local_rank),
        "LOCAL_WORLD_SIZE": str(place.local_world_size),
        "MASTER_ADDR": machines.host,
        "MASTER_PORT": str(machines.port),
        **unless_set(_network(machines)),
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


def launched_world_size() -> int | None:
    """Return how many processes torchrun has started, this one among them, on all machines."""
    return _number("WORLD_SIZE") if _is_launched() else None


def _is_launched() -> bool:
    """Return whether the place that the environment tells is that of a process, not of a pod.

    A PyTorchJob with a Master numbers its pods with ``RANK``, and tells nothing of the processes on
    each. Operators of other clusters list them: ``LOCAL_RANK=0,1`` and so on.
    """
    environ = os.environ
    if not all(name in environ for name in TOLD):
        return False
    if "TORCHELASTIC_RUN_ID" in environ:
        return True
    one_card = not POD_VARIABLES.isdisjoint(environ) and environ["LOCAL_WORLD_SIZE"] == "1"
    return "," not in environ["LOCAL_RANK"] and not one_card


def pod() -> Machines | None:
    """Return the place of this pod among others; an implementation of ``FrameworkEntry.pod``."""
    environ = os.environ
    if _is_launched():
        return None
    prefix = OPTIONS if OPTIONS + "NNODES" in environ else ""
    host, port = (environ.get(f"{prefix}MASTER_{name}", "") for name in ("ADDR", "PORT"))
    if prefix:
        count, rank = environ["PET_NNODES"], environ.get("PET_NODE_RANK", "")
    else:
        count, rank = environ.get("WORLD_SIZE", ""), environ.get("RANK", "")
        local = environ.get("LOCAL_WORLD_SIZE", "1")
        if local.isdecimal() and count.isdecimal():  # such an operator counts cards
            count = str(int(count) // max(1, int(local)))
    if not (count.isdecimal() and rank.isdecimal() and port.isdecimal() and host):
        return None
    return Machines(count=int(count), rank=int(rank), host=host, port=int(port))


def job() -> Job | None:
    """Return the job of torchrun; an implementation of ``FrameworkEntry.job``."""
    environ = os.environ
    if not _is_launched() or "TORCHELASTIC_RUN_ID" not in environ:
        return None
    name = environ["TORCHELASTIC_RUN_ID"]
    if name == "none":  # it was given no number
        name = f"{name} at {environ.get('MASTER_ADDR')}:{environ.get('MASTER_PORT')}"
    return Job(id=name, restarted=environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0")


def launched_local_rank() -> int | None:
    """Return the number of this process among those that torchrun has started on its machine."""
    place = local_place()
    return None if place is None else place.rank


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LocalPlace:
    """The place of this process among those of its machine."""

    rank: int
    processes: int


def local_place() -> LocalPlace | None:
    """Return the place that torchrun has given this process; ``None`` if it was started alone."""
    if _is_launched():
        return LocalPlace(rank=_number("LOCAL_RANK"), processes=_number("LOCAL_WORLD_SIZE"))
    return None


def _number(name: str) -> int:
    text = os.environ[name]
    if not text.isdecimal():
        raise DeviceError(
            f"{name} is {text!r}, expected the number that a launcher sets for each process; "
            "start this with torchrun, or unset it"
        )
    return int(text)

"""The processes that train together, over ``torch.distributed``.

Numbers and states travel as tensors on the host, with gloo; gradients with the device's back-end.
"""

from __future__ import annotations

import contextlib
import gc
import inspect
import os
import secrets
import threading
import time
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, final

from runner.errors import DeviceError, OtherRankError, PluginError
from runner_torch.autoload import torch
from runner_torch.device import TorchDevice
from runner_torch.launch import unless_set
from runner_torch.messages import reason

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager
    from typing import Any

    from torch.distributed.distributed_c10d import Store

    from runner.contracts import Device

HOST_BACKEND = "gloo"
PLACE = ("MASTER_ADDR", "MASTER_PORT")
"""Variables that say where the processes meet."""
RANKS = ("RANK", "WORLD_SIZE")
HELLO_S = 0.05
"""How often rank 0 looks for those that have come."""
TIMED_OUT = ("Timed out", "timed out", "timeout")
"""How back-ends say that an exchange took too long."""
GRACE_S = 2.0
"""Time in which those that wait in vain, too, say so."""


def join(device: Device, timeout_s: float) -> TorchGroup:
    """Meet the other processes, on the device that has just been opened.

    Raises:
        DeviceError: They did not meet.
    """
    if not isinstance(device, TorchDevice):
        raise TypeError(f"expected a device of framework torch, found {device!r}")
    # Imported later, as data parallelism does, its functions keep the group as a default argument.
    import torch.distributed.nn.functional

    traits = device.traits
    _check_environment()
    os.environ.update(unless_set(traits.group_environment))
    own = "" if traits.is_host else f",{traits.kind}:{traits.distributed_backend}"
    backend = f"cpu:{HOST_BACKEND}{own}"
    timeout = timedelta(seconds=timeout_s)
    try:
        store = _new_store(timeout)
        rank, world_size = (int(os.environ[name]) if store else -1 for name in RANKS)
        torch.distributed.init_process_group(
            backend, timeout=timeout, store=store, rank=rank, world_size=world_size
        )
    except (RuntimeError, ValueError) as error:
        place = ":".join(os.environ[name] for name in PLACE)
        raise DeviceError(
            f"rank {os.environ['RANK']} of {os.environ['WORLD_SIZE']} has not met the others at "
            f"{place} with back-end {backend}, or one has ended meanwhile: {reason(error)}; the "
            "output of each process says what happened to it"
        ) from error
    return TorchGroup(
        rank=torch.distributed.get_rank(),
        world_size=torch.distributed.get_world_size(),
        backend=backend,
        timeout_s=timeout_s,
    )


def _new_store(timeout: timedelta) -> Store | None:
    """Return a store without what an earlier attempt has left; ``None`` if torch makes a new one.

    torchrun's agent lends its own store to its processes, in every attempt the same one: those that
    it starts again would find the addresses of the dead there (pytorch issue 135712). Neither a
    count of attempts nor a round of meetings is told alike on all machines. So rank 0 chooses a
    name, which it tells everybody who says hello with a word that nobody has said before.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]  # it has both

    host, port = (os.environ[name] for name in PLACE)
    rank, world_size = (int(os.environ[name]) for name in RANKS)
    agents = TCPStore(host, int(port), world_size, timeout=timeout)
    if rank:
        word = secrets.token_hex(8)
        agents.set(f"runner/hello/{rank}", word)
        name = agents.get(f"runner/name/{word}").decode()  # waits for it
        agents.add(f"{name}/met", 1)
        return PrefixStore(name, agents)
    name = f"runner/{secrets.token_hex(8)}"
    deadline = time.monotonic() + timeout.total_seconds()
    while agents.add(f"{name}/met", 0) < world_size - 1:
        if time.monotonic() > deadline:
            raise RuntimeError("timed out before every rank had come")
        for hello in (f"runner/hello/{other}" for other in range(1, world_size)):
            if agents.check([hello]):
                agents.set(f"runner/name/{agents.get(hello).decode()}", name)
        time.sleep(HELLO_S)
    return PrefixStore(name, agents)


def _check_environment() -> None:
    """Refuse an environment that names some of what a launcher sets, and not all.

    Raises:
        DeviceError: A variable is missing, so no launcher has set the others for this process.
    """
    missing = [name for name in PLACE if name not in os.environ]
    if missing:
        raise DeviceError(
            f"RANK and WORLD_SIZE are set, as a launcher does for each process, and "
            f"{' and '.join(missing)} {'are' if len(missing) > 1 else 'is'} not, so this process "
            "cannot find the others; start it with torchrun, which sets all of them, or remove "
            "RANK and WORLD_SIZE from the environment"
        )


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TorchGroup:
    """Processes with one device each; every method is called by all of them together."""

    rank: int
    world_size: int
    backend: str
    timeout_s: float
    """Seconds after which an exchange fails that another process takes no part in."""
    _networks: list[DataParallel] = field(default_factory=list)

    def describe(self) -> dict[str, Any]:
        """Return what is in effect (JSON)."""
        return {"world_size": self.world_size, "backend": self.backend}

    def sum(self, values: Sequence[float]) -> list[float]:
        """Add numbers over all processes, in ``float64`` and in the order of the ranks.

        Raises:
            OtherRankError: A process is gone.
        """
        gathered = self.gather(torch.tensor(values, dtype=torch.float64))
        total: list[float] = gathered.numpy().sum(axis=0).tolist()
        return total

    def gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the tensors of all processes, ``[world_size, ...]``; all are on the host.

        Raises:
            OtherRankError: A process is gone.
        """
        gathered = [torch.empty_like(tensor) for _ in range(self.world_size)]
        with self.exchanging():
            torch.distributed.all_gather(gathered, tensor)
        return torch.stack(gathered)

    def gather_on_first(self, tensor: torch.Tensor) -> torch.Tensor | None:
        """Return the tensors of all processes, ``[world_size, ...]``, on rank 0 alone.

        Raises:
            OtherRankError: A process is gone.
        """
        rows = [torch.empty_like(tensor) for _ in range(self.world_size)] if not self.rank else None
        with self.exchanging():
            torch.distributed.gather(tensor, rows)
        return None if rows is None else torch.stack(rows)

    @contextlib.contextmanager
    def exchanging(self) -> Iterator[None]:
        """Explain what fails because of another process.

        Raises:
            OtherRankError: A process is gone, or has not taken part in time.
        """
        try:
            yield
        except RuntimeError as error:
            if not is_exchange(error):
                raise
            raise failed_exchange(error, self) from error

    def data_parallel(self, network: torch.nn.Module) -> DataParallel:
        """Wrap a network so that its gradients are averaged, while the backward pass goes on.

        Its parameters must be equal on all processes, and each must take part in every pass.
        """
        with self.exchanging():
            parallel = DataParallel(network)
        self._networks.append(parallel)
        return parallel

    def broadcast_in_place(self, module: torch.nn.Module) -> None:
        """Give all processes the weights and buffers of rank 0."""
        with torch.no_grad(), self.exchanging():
            for tensor in (*module.parameters(), *module.buffers()):
                torch.distributed.broadcast(tensor, 0)

    def mean_in_place(self, tensors: Sequence[torch.Tensor]) -> None:
        """Give all processes the mean of their values.

        In ``float64``, in which the sum of as many equal ``float32`` numbers as there are
        processes is exact: what is equal on all stays as it is. And on the host, because not
        every device has that type. Every rank gets the same bits, in every run: gloo adds each
        number in one place, in the order of its ring, and hands the sum on.
        """
        if not tensors:  # a network without batch normalisation
            return
        # One exchange of everything: each takes its time, however little it carries. What is
        # gathered would grow with the number of processes; this does not.
        flat = torch.cat([tensor.detach().reshape(-1).cpu().double() for tensor in tensors])
        with self.exchanging():
            torch.distributed.all_reduce(flat)
        parts = torch.split(flat / self.world_size, [tensor.numel() for tensor in tensors])
        with torch.no_grad():
            for tensor, part in zip(tensors, parts, strict=True):
                tensor.copy_(part.view(tensor.shape))

    def close(self) -> None:
        """Wait until every process has come here, and leave.

        One that ends earlier makes the last sum of the others fail. And gloo's threads must have
        ended before the interpreter does: it aborts the process when one of them, having done its
        work, lets go of a tensor later than that. They end with the last reference to the group.
        """
        self.sum([0.0])
        last = torch.distributed.group.WORLD
        for network in self._networks:
            network.release()
        gc.collect()
        torch.distributed.destroy_process_group()
        del last  # after the others, because this one lets the threads run while it waits for them


@final
class DataParallel:
    """A network whose gradients are averaged over the processes."""

    def __init__(self, network: torch.nn.Module) -> None:
        parallel = torch.nn.parallel.DistributedDataParallel
        # Statistics stay apart until `agree`. Torch 2.15 has another name for it, and warns.
        known = inspect.signature(parallel).parameters
        word = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        keep: dict[str, Any] = {word: False}
        self._wrapped: torch.nn.parallel.DistributedDataParallel | None = parallel(
            network, init_sync=False, gradient_as_bucket_view=True, **keep
        )

    def __call__(self, images: torch.Tensor) -> Any:
        """Return what the network returns."""
        assert self._wrapped is not None, "the group is not closed"
        return self._wrapped(images)

    def exchange(self, *, last: bool) -> AbstractContextManager[object]:
        """Return a context for a pass, after the last of which the gradients are averaged."""
        assert self._wrapped is not None, "the group is not closed"
        return contextlib.nullcontext() if last else self._wrapped.no_sync()

    def release(self) -> None:
        """Let go of the group."""
        self._wrapped = None


def check_all_used(module: torch.nn.Module, model: str) -> None:
    """Look for parameters that the first step of several processes has left without a gradient.

    The exchange of gradients waits for all of them, so that the next step would fail.

    Raises:
        PluginError: There are some.
    """
    named = module.named_parameters()
    unused = [name for name, p in named if p.requires_grad and p.grad is None]
    if unused:
        raise PluginError(
            f"model {model} does not use {', '.join(unused[:4])} in training ({len(unused)} "
            "parameters in all), and several devices wait for the gradients of each; set "
            "requires_grad of these to False in the entry's build, or use --devices 1"
        )


def is_exchange(error: RuntimeError) -> bool:
    """Return whether an error comes from an exchange between processes; gloo's have no class."""
    return isinstance(error, torch.distributed.DistError) or "gloo" in str(error).lower()


def failed_exchange(error: RuntimeError, group: TorchGroup) -> OtherRankError:
    """Explain an error of an exchange: another process is gone, or takes no part."""
    late = any(word in str(error) for word in TIMED_OUT)
    absent = _absent(group) if late else []
    if not late:
        found = "a process of the group is gone, or the connection to it"
        fix = "its own output says why, and runner resume continues the run"
    else:
        ranks = " and ".join(f"rank {rank}" for rank in absent) or "the other processes"
        found = f"waited {group.timeout_s:g} s for {ranks} in vain"
        fix = (
            "look whether it hangs or cannot be reached, raise distributed.timeout_s if it needs "
            "longer, and continue the run with runner resume"
        )
    return OtherRankError(f"{found} ({reason(error)}); {fix}")


def _absent(group: TorchGroup) -> list[int]:
    """Return the ranks that do not wait as this one does, as far as it can be found out.

    Each that has waited in vain says so in the store where all have met. The store may be out of
    reach as well, and its calls have no limit of time: so a thread looks, and is left to itself.
    """
    found: list[int] = []

    def look() -> None:
        store = torch.distributed.distributed_c10d._get_default_store()
        keys = {rank: f"waits/{rank}" for rank in range(group.world_size)}
        with contextlib.suppress(RuntimeError):  # who kept the store is gone
            store.set(keys[group.rank], "")
            time.sleep(GRACE_S)
            found.extend(rank for rank, key in keys.items() if not store.check([key]))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(2 * GRACE_S)
    return found

"""The processes that train together, over ``torch.distributed``.

Numbers and states travel as tensors on the host, with gloo; gradients with the device's back-end.
"""

from __future__ import annotations

import contextlib
import gc
import inspect
import os
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, final

from runner.errors import DeviceError, OtherRankError, PluginError
from runner_torch.autoload import torch
from runner_torch.device import TorchDevice
from runner_torch.launch import unless_set
from runner_torch.messages import reason

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager
    from typing import Any

    from runner.contracts import Device

HOST_BACKEND = "gloo"


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
    os.environ.update(unless_set(traits.group_environment))
    own = "" if traits.is_host else f",{traits.kind}:{traits.distributed_backend}"
    backend = f"cpu:{HOST_BACKEND}{own}"
    try:
        torch.distributed.init_process_group(backend, timeout=timedelta(seconds=timeout_s))
    except (RuntimeError, ValueError) as error:
        raise DeviceError(
            f"the processes have not met with back-end {backend}, or one has ended without the "
            f"others: {reason(error)}; the output of each process says what happened to it"
        ) from error
    return TorchGroup(
        rank=torch.distributed.get_rank(),
        world_size=torch.distributed.get_world_size(),
        backend=backend,
    )


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TorchGroup:
    """Processes with one device each; every method is called by all of them together."""

    rank: int
    world_size: int
    backend: str
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
        try:
            torch.distributed.all_gather(gathered, tensor)
        except RuntimeError as error:
            raise gone(error) from error
        return torch.stack(gathered)

    def data_parallel(self, network: torch.nn.Module) -> DataParallel:
        """Wrap a network so that its gradients are averaged, while the backward pass goes on.

        Its parameters must be equal on all processes, and each must take part in every pass.
        """
        parallel = DataParallel(network)
        self._networks.append(parallel)
        return parallel

    def broadcast_in_place(self, module: torch.nn.Module) -> None:
        """Give all processes the weights and buffers of rank 0."""
        with torch.no_grad():
            for tensor in (*module.parameters(), *module.buffers()):
                torch.distributed.broadcast(tensor, 0)

    def mean_in_place(self, tensors: Sequence[torch.Tensor]) -> None:
        """Give all processes the mean of their values.

        In ``float64``, which leaves what is equal on all as it is, and on the host, because not
        every device has it.
        """
        if not tensors:  # a network without batch normalisation
            return
        flat = torch.cat([tensor.detach().reshape(-1).cpu().double() for tensor in tensors])
        # One exchange of everything: each takes its time, however little it carries.
        mean = self.gather(flat).sum(dim=0) / self.world_size
        parts = torch.split(mean, [tensor.numel() for tensor in tensors])
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
    """Say whether an error comes from an exchange between processes; gloo's have no class."""
    return isinstance(error, torch.distributed.DistError) or "gloo" in str(error).lower()


def gone(error: RuntimeError) -> OtherRankError:
    """Say that a process is gone, which is how an exchange fails."""
    return OtherRankError(
        f"a process of the group is gone, or the connection to it ({reason(error)}); its own "
        "output says why, and runner resume continues the run"
    )

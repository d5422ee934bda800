"""The processes that train together, over MindSpore's collective operations.

Only what MindSpore has on every device is used: on the CPU, sums are of ``float32`` alone, and
there are no barriers.
"""

from __future__ import annotations

import atexit
import contextlib
import math
import os
import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast, final

import numpy as np

from runner.errors import DeviceError, OtherRankError
from runner_mindspore.autoload import Tensor, ms, nn, ops
from runner_mindspore.messages import reason

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from numpy.typing import NDArray

    from runner.contracts import Device
    from runner.errors import RunnerError
    from runner_mindspore.device import MindSporeDevice

OPERATIONS = ("AllReduce", "AllGather", "Broadcast")
"""Names of what is exchanged, as errors have them."""
LOST = re.compile(r"worker (\d+) is the first one timed out")
"""What the scheduler says when a process no longer answers; the number is its rank."""


def join(device: Device, timeout_s: float) -> MindSporeGroup:
    """Meet the other processes, on the device that has just been opened.

    msrun's scheduler stays in here: MindSpore ends that process when the others are done.

    Args:
        device: What this process computes on.
        timeout_s: Seconds after which an exchange fails that another process takes no part in,
            unless an environment variable of MindSpore's says so.

    Raises:
        DeviceError: They did not meet.
        OtherRankError: The scheduler has lost one.
    """
    traits = cast("MindSporeDevice", device).traits
    if traits.exchange_timeout:  # in whole seconds
        os.environ.setdefault(traits.exchange_timeout, str(math.ceil(timeout_s)))
    try:
        ms.communication.init()
    except RuntimeError as error:
        raise _not_met(error) from error
    atexit.register(_fall_silent)
    return MindSporeGroup(
        rank=ms.communication.get_rank(),
        world_size=ms.communication.get_group_size(),
        backend=traits.distributed_backend,
        timeout_variable=traits.exchange_timeout,
    )


def _fall_silent() -> None:
    """Print nothing more: what this process has to say stands last.

    Whatever its log level, MindSpore tells on the way out how its connections end.
    """
    sys.stderr.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _not_met(error: RuntimeError) -> RunnerError:
    """Explain why the processes have not met, or no longer are together."""
    if lost := LOST.search(str(error)):
        return OtherRankError(
            f"rank {lost[1]} no longer answers: its process or its machine is gone, or the "
            "connection to it; its own output may say why, and runner resume continues the run"
        )
    environ = os.environ
    scheduler = environ.get("MS_ROLE") == "MS_SCHED"
    who = "the scheduler" if scheduler else f"rank {environ.get('RANK_ID', '?')}"
    where = ""
    if "MS_SCHED_HOST" in environ:
        seconds = environ.get("MS_TOPO_TIMEOUT", "?")
        where = f" at {environ['MS_SCHED_HOST']}:{environ.get('MS_SCHED_PORT')} within {seconds} s"
    return DeviceError(
        f"{who} has not met the others{where}, or one has ended meanwhile: {reason(error)}; look "
        "whether every machine was started with the same address and port, whether it reaches "
        "them and no other program uses the port; the output of each process says more"
    )


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class MindSporeGroup:
    """Processes with one device each; every method is called by all of them together."""

    rank: int
    world_size: int
    backend: str
    """MindSpore's library of collective operations."""
    timeout_variable: str
    """Environment variable that limits how long an exchange may take; "" if there is none."""

    def describe(self) -> dict[str, Any]:
        """Return what is in effect (JSON)."""
        return {"world_size": self.world_size, "backend": self.backend}

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
            seconds = os.environ.get(self.timeout_variable)
            waited = f" for {seconds} s" if seconds else ""
            raise OtherRankError(
                f"an exchange failed: another process is gone, or took no part in it{waited} "
                f"({reason(error)}); look whether it was killed, hangs or cannot be reached, raise "
                "distributed.timeout_s if it needs longer, and continue the run with runner resume"
            ) from error

    def sum(self, values: Sequence[float]) -> list[float]:
        """Add numbers over all processes, in ``float64`` and in the order of the ranks.

        Each ``float64`` travels as two ``int32``, so that all of its bits arrive.

        Raises:
            OtherRankError: A process is gone.
        """
        halves = np.asarray(values, np.float64).view(np.int32)
        total: list[float] = self._gather(halves).view(np.float64).sum(axis=0).tolist()
        return total

    def gather(self, array: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the ``float32`` arrays of all processes, ``[world_size, N]``, with all their bits.

        Raises:
            OtherRankError: A process is gone.
        """
        return self._gather(array.view(np.int32)).view(np.float32)

    def _gather(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return the arrays of all processes, ``[world_size, N]``."""
        with self.exchanging():
            gathered: NDArray[Any] = ops.AllGather()(Tensor(array[np.newaxis])).asnumpy()
        return gathered

    def gradient_reducer(self, parameters: Sequence[ms.Parameter]) -> nn.Cell:
        """Return a cell that averages a tuple of gradients over the processes.

        Args:
            parameters: What the gradients are of, in their order.
        """
        return nn.DistributedGradReducer(parameters, mean=True, degree=self.world_size)

    def broadcast_in_place(self, parameters: Sequence[ms.Parameter]) -> None:
        """Give all processes the values of rank 0."""
        broadcast = ops.Broadcast(0)
        with self.exchanging():
            for parameter in parameters:
                ops.assign(parameter, broadcast((parameter.value(),))[0])
            parameters[-1].asnumpy()  # waits

    def mean_in_place(self, parameters: Sequence[ms.Parameter]) -> None:
        """Give all processes the mean of their values, which are ``float32``.

        The memory that this takes does not depend on the number of processes. All get the same
        bits. What is equal on all stays as it is: the halves of a number have 12 bits each, so
        that ``float32``, the one type that the CPU adds in, holds the sum of up to 4096 equal ones
        below 8e34.
        """
        if not parameters:  # a net without batch normalisation
            return
        arrays = [parameter.asnumpy() for parameter in parameters]
        # One exchange of everything: each takes milliseconds, however little it carries.
        flat = np.concatenate([array.ravel() for array in arrays])
        halves = np.stack(_halves(flat))
        with self.exchanging():
            high, low = ops.AllReduce()(Tensor(halves)).asnumpy().astype(np.float64)
        mean = ((high + low) / self.world_size).astype(np.float32)
        parts = np.split(mean, np.cumsum([array.size for array in arrays])[:-1])
        for parameter, array, part in zip(parameters, arrays, parts, strict=True):
            ops.assign(parameter, Tensor(part.reshape(array.shape)))

    def close(self) -> None:
        """Wait until every process has come here.

        One that ends earlier makes the last sum of the others fail. There is nothing else to do:
        MindSpore leaves when the process ends, and cannot compute any more once told to leave.
        """
        self.sum([0.0])


def _halves(values: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Split numbers into two of 12 significant bits each, of which they are the exact sum."""
    finite = np.isfinite(values)
    high = (values.view(np.uint32) & np.uint32(0xFFFFF000)).view(np.float32)
    high = np.where(finite, high, values)
    low = np.subtract(values, high, where=finite, out=np.zeros_like(values))
    return high, low


def is_exchange(error: Exception) -> bool:
    """Say whether an error comes from an exchange between processes; it has no class of its own."""
    return any(name in str(error) for name in OPERATIONS)

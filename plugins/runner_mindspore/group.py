"""The processes that train together, over MindSpore's collective operations.

Only what MindSpore has on every device is used: on the CPU, sums are of ``float32`` alone, and
there are no barriers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np

from runner.errors import DeviceError
from runner_mindspore.autoload import Tensor, ms, nn, ops
from runner_mindspore.messages import reason

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runner.contracts import Device


def join(_device: Device, timeout_s: float) -> MindSporeGroup:  # noqa: ARG001
    """Meet the other processes, on the device that has just been opened.

    msrun's scheduler stays in here: MindSpore ends that process when the others are done.

    Raises:
        DeviceError: They did not meet, or the scheduler has lost one.
    """
    try:
        ms.communication.init()
    except RuntimeError as error:
        raise DeviceError(
            f"the processes have not met, or one has ended without the others: {reason(error)}; "
            "the output of each process says what happened to it"
        ) from error
    return MindSporeGroup(
        rank=ms.communication.get_rank(), world_size=ms.communication.get_group_size()
    )


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class MindSporeGroup:
    """Processes with one device each; every method is called by all of them together."""

    rank: int
    world_size: int

    def sum(self, values: Sequence[float]) -> list[float]:
        """Add numbers over all processes, in ``float64`` and in the order of the ranks.

        Each ``float64`` travels as two ``int32``, so that all of its bits arrive.
        """
        halves = np.asarray(values, np.float64).view(np.int32)
        gathered = ops.AllGather()(Tensor(halves[np.newaxis])).asnumpy()
        total: list[float] = gathered.view(np.float64).sum(axis=0).tolist()
        return total

    def gradient_reducer(self, parameters: Sequence[ms.Parameter]) -> nn.Cell:
        """Return a cell that averages a tuple of gradients over the processes.

        Args:
            parameters: What the gradients are of, in their order.
        """
        return nn.DistributedGradReducer(parameters, mean=True, degree=self.world_size)

    def broadcast_in_place(self, parameters: Sequence[ms.Parameter]) -> None:
        """Give all processes the values of rank 0."""
        broadcast = ops.Broadcast(0)
        for parameter in parameters:
            ops.assign(parameter, broadcast((parameter.value(),))[0])

    def mean_in_place(self, parameters: Sequence[ms.Parameter]) -> None:
        """Give all processes the mean of their values, which are ``float32``."""
        if not parameters:  # a net without batch normalisation
            return
        arrays = [parameter.asnumpy() for parameter in parameters]
        # One sum of everything: a sum takes milliseconds, however little it adds.
        flat = np.concatenate([array.ravel() for array in arrays])
        mean = ops.AllReduce()(Tensor(flat)).asnumpy() / np.float32(self.world_size)
        parts = np.split(mean, np.cumsum([array.size for array in arrays])[:-1])
        for parameter, array, part in zip(parameters, arrays, parts, strict=True):
            ops.assign(parameter, Tensor(part.reshape(array.shape)))

    def close(self) -> None:
        """Wait until every process has come here.

        One that ends earlier makes the last sum of the others fail. There is nothing else to do:
        MindSpore leaves when the process ends, and cannot compute any more once told to leave.
        """
        self.sum([0.0])

"""An exponential moving average of a model's weights."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, final

from runner_mindspore.autoload import Tensor, ms, nn, ops

if TYPE_CHECKING:
    from collections.abc import Sequence

_average = ops.MultitypeFuncGraph("average")


@_average.register("Tensor", "Tensor", "Tensor")
def _average_one(share: Tensor, average: Tensor, weight: Tensor) -> Tensor:
    return ops.assign(average, average + (weight - average) * share)


_copy = ops.MultitypeFuncGraph("copy")


@_copy.register("Tensor", "Tensor")
def _copy_one(average: Tensor, buffer: Tensor) -> Tensor:
    return ops.assign(average, buffer)


@final
class WeightAverage:
    """A second net with a = decay * a + (1 - decay) * w for every trainable parameter.

    Parameters that are not trained (the running statistics of batch normalisation) are copied, not
    averaged: they are running averages already. The average begins with the weights it was made
    from. A step that loss scaling skips counts like any other.
    """

    def __init__(self, net: nn.Cell, decay: float) -> None:
        self.model: nn.Cell = copy.deepcopy(net)
        pairs = list(zip(self.model.get_parameters(), net.get_parameters(), strict=True))
        trained = [pair for pair in pairs if pair[1].requires_grad]
        buffers = [pair for pair in pairs if not pair[1].requires_grad]
        for average, parameter in pairs:
            average.name = f"average.{parameter.name}"  # a graph tells parameters apart by name
            average.requires_grad = False
        self.update = AverageUpdate(trained, buffers, 1 - decay)


@final
class AverageUpdate(nn.Cell):
    """Moves the averages towards the weights; to be called after each step."""

    def __init__(
        self,
        trained: Sequence[tuple[ms.Parameter, ms.Parameter]],
        buffers: Sequence[tuple[ms.Parameter, ms.Parameter]],
        share: float,
    ) -> None:
        super().__init__(auto_prefix=False)
        self.averages = ms.ParameterTuple([average for average, _ in trained])
        self.weights = ms.ParameterTuple([weight for _, weight in trained])
        self.copies = ms.ParameterTuple([average for average, _ in buffers])
        self.buffers = ms.ParameterTuple([buffer for _, buffer in buffers])
        self.share = Tensor(share, ms.float32)
        self.hyper_map = ops.HyperMap()

    def construct(self, done: Tensor) -> Tensor:
        """Update, and return ``done``, which the weights must have been updated before."""
        average = ops.partial(_average, self.share)
        moved = self.hyper_map(average, self.averages, self.weights)
        done = ops.depend(done, moved)
        if self.buffers:
            done = ops.depend(done, self.hyper_map(_copy, self.copies, self.buffers))
        return done

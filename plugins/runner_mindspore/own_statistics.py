"""What each process of a group has of its own: running statistics of batch normalisation."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import numpy as np

from runner.framework.own_statistics import OwnStatistics
from runner_mindspore.autoload import Tensor, nn, ops
from runner_mindspore.nets import running_statistics
from runner_mindspore.weights import array_of, canonical_names

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from numpy.typing import NDArray

    from runner_mindspore.group import MindSporeGroup


@final
class MindSporeStatistics(OwnStatistics):
    """The running statistics of a net, ``float32``, which those of its average are copies of."""

    def __init__(self, nets: Sequence[nn.Cell], group: MindSporeGroup) -> None:
        """Take a net, and the average of its weights if there is one."""
        super().__init__(group)
        self._mindspore_group = group
        net, *averages = nets
        names = {id(parameter): name for name, parameter in canonical_names(net).items()}
        self._parameters = {names[id(p)]: p for p in running_statistics(net)}
        self._copies = [running_statistics(average) for average in averages]

    def _read(self) -> dict[str, NDArray[Any]]:
        return {name: array_of(parameter) for name, parameter in self._parameters.items()}

    def _write(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        for name, array in arrays.items():
            ops.assign(self._parameters[name], Tensor(array))

    def _gather(self, flat: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
        return self._mindspore_group.gather(flat.view(np.float32)).view(np.uint8)

    def _average(self) -> None:
        parameters = list(self._parameters.values())
        self._mindspore_group.mean_in_place(parameters)
        for copies in self._copies:
            for copy, parameter in zip(copies, parameters, strict=True):
                ops.assign(copy, Tensor(parameter.asnumpy()))

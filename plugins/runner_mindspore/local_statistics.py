"""What each process of a group has of its own: running statistics of batch normalisation."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import numpy as np

from runner_mindspore.autoload import Tensor, nn, ops
from runner_mindspore.nets import running_statistics
from runner_mindspore.weights import canonical_names

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from numpy.typing import NDArray

    from runner_mindspore.autoload import ms
    from runner_mindspore.group import MindSporeGroup


@final
class OwnStatistics:
    """The running statistics of a net, ``float32``, which differ between the processes of a group.

    Evaluation and checkpoints have their mean over the processes; training goes on with each
    process's own, so that neither evaluating nor saving changes anything.
    """

    def __init__(self, net: nn.Cell, average: nn.Cell | None, group: MindSporeGroup) -> None:
        """Take a net, and the average of its weights, whose statistics are copies of its own."""
        self._group = group
        self._parameters = running_statistics(net)
        names = {id(parameter): name for name, parameter in canonical_names(net).items()}
        self._names = [names[id(parameter)] for parameter in self._parameters]
        self._copies = [] if average is None else running_statistics(average)
        self._own: list[NDArray[Any]] | None = None
        self._rows: NDArray[Any] | None = None

    @property
    def are_shared(self) -> bool:
        """Whether the net has the mean of all processes."""
        return self._own is not None

    def share(self) -> None:
        """Give the net the mean of all processes, and each process what all have."""
        self._own = [parameter.asnumpy().copy() for parameter in self._parameters]
        if not self._own:
            return
        flat = np.concatenate([array.ravel() for array in self._own])
        self._rows = self._group.gather(flat)
        self._group.mean_in_place(self._parameters)
        if self._copies:
            _assign(self._copies, [parameter.asnumpy() for parameter in self._parameters])

    def take_own(self) -> None:
        """Give the net what this process had before ``share``."""
        own, self._own = self._own, None
        if own is not None:
            _assign(self._parameters, own)

    def forget(self) -> None:
        """Stay with what the net has by now, because it was replaced."""
        self._own = None

    def state(self) -> dict[str, NDArray[Any]]:
        """Return the statistics of all processes by name, ``[world_size, ...]``.

        Nothing where they are equal, as their mean then is what each has.
        """
        rows = self._rows
        if rows is None or (rows.view(np.int32) == rows[:1].view(np.int32)).all():
            return {}
        ends = np.cumsum([parameter.size for parameter in self._parameters])
        parts = np.split(rows, ends[:-1], axis=1)
        return {
            name: part.reshape(len(rows), *parameter.shape).copy()
            for name, part, parameter in zip(self._names, parts, self._parameters, strict=True)
        }

    def load_state(self, rows: Mapping[str, NDArray[Any]]) -> None:
        """Put back this process's statistics, where the run had as many processes as now."""
        self._own = None
        group = self._group
        if self._names and all(len(rows.get(n, ())) == group.world_size for n in self._names):
            _assign(self._parameters, [rows[name][group.rank] for name in self._names])


def _assign(parameters: Sequence[ms.Parameter], arrays: Sequence[NDArray[Any]]) -> None:
    for parameter, array in zip(parameters, arrays, strict=True):
        ops.assign(parameter, Tensor(array))

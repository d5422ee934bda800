"""What each process of a group has of its own: floating-point buffers."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from runner.framework.own_statistics import OwnStatistics
from runner_torch.autoload import torch
from runner_torch.weights import array_of, tensor_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    import numpy as np
    from numpy.typing import NDArray

    from runner_torch.group import TorchGroup


@final
class TorchStatistics(OwnStatistics):
    """The floating-point buffers of a module, which those of its average are copies of."""

    def __init__(self, modules: Sequence[torch.nn.Module], group: TorchGroup) -> None:
        """Take a module, and the average of its weights if there is one."""
        super().__init__(group)
        self._torch_group = group
        self._buffers, *self._copies = (
            {n: b for n, b in module.named_buffers() if b.is_floating_point()} for module in modules
        )

    def _read(self) -> dict[str, NDArray[Any]]:
        return {name: array_of(buffer) for name, buffer in self._buffers.items()}

    def _write(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        with torch.no_grad():
            for name, array in arrays.items():
                self._buffers[name].copy_(tensor_of(array))

    def _gather(self, flat: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
        rows = self._torch_group.gather_on_first(tensor_of(flat))
        return None if rows is None else rows.numpy()

    def _average(self) -> None:
        self._torch_group.mean_in_place(list(self._buffers.values()))
        with torch.no_grad():
            for copies in self._copies:
                for name, buffer in copies.items():
                    buffer.copy_(self._buffers[name])

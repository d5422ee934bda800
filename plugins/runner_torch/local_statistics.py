"""What each process of a group has of its own: running statistics of batch normalisation."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from runner_torch.autoload import torch
from runner_torch.weights import array_of, tensor_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from numpy.typing import NDArray

    from runner_torch.group import TorchGroup


@final
class OwnStatistics:
    """The floating-point buffers of a module, which differ between the processes of a group.

    Evaluation and checkpoints have their mean over the processes; training goes on with each
    process's own, so that neither evaluating nor saving changes anything.
    """

    def __init__(
        self, module: torch.nn.Module, average: torch.nn.Module | None, group: TorchGroup
    ) -> None:
        """Take a module, and the average of its weights, whose buffers are copies of its own."""
        self._group = group
        self._buffers = {n: b for n, b in module.named_buffers() if b.is_floating_point()}
        copies = {} if average is None else dict(average.named_buffers())
        self._copies = [copies[name] for name in self._buffers if name in copies]
        self._own: list[torch.Tensor] | None = None
        self._rows: torch.Tensor | None = None

    @property
    def are_shared(self) -> bool:
        """Whether the module has the mean of all processes."""
        return self._own is not None

    def share(self) -> None:
        """Give the module the mean of all processes, and rank 0 what each has."""
        if not self._buffers:
            self._own = []
            return
        buffers = list(self._buffers.values())
        self._own = [buffer.clone() for buffer in buffers]
        self._rows = self._group.gather_on_first(_bytes(buffers))
        self._group.mean_in_place(buffers)
        with torch.no_grad():
            for copy, buffer in zip(self._copies, buffers, strict=False):
                copy.copy_(buffer)

    def take_own(self) -> None:
        """Give the module what this process had before ``share``."""
        own, self._own = self._own, None
        with torch.no_grad():
            for buffer, kept in zip(self._buffers.values(), own or (), strict=False):
                buffer.copy_(kept)

    def forget(self) -> None:
        """Stay with what the module has by now, because it was replaced."""
        self._own = None

    def state(self) -> dict[str, NDArray[Any]]:
        """Return the statistics of all processes by name, ``[world_size, ...]``.

        Nothing where they are equal, as their mean then is what each has; on rank 0 alone.
        """
        rows = self._rows
        if rows is None or bool((rows == rows[:1]).all()):
            return {}
        found, start = {}, 0
        for name, buffer in self._buffers.items():
            end = start + buffer.numel() * buffer.element_size()
            part = rows[:, start:end].contiguous().view(buffer.dtype)
            found[name] = array_of(part.reshape(len(rows), *buffer.shape))
            start = end
        return found

    def load_state(self, rows: Mapping[str, NDArray[Any]]) -> None:
        """Put back this process's statistics, where the run had as many processes as now."""
        self._own = None
        with torch.no_grad():
            for name, buffer in self._buffers.items():
                if name in rows and len(rows[name]) == self._group.world_size:
                    buffer.copy_(tensor_of(rows[name][self._group.rank]))


def _bytes(tensors: list[torch.Tensor]) -> torch.Tensor:
    """Lay tensors of any type out one after the other, on the host."""
    flat = [t.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for t in tensors]
    return torch.cat(flat)

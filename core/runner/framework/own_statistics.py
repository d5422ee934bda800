"""What each process of a group has of its own: running statistics of batch normalisation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from numpy.typing import NDArray

    from runner.contracts import Group


class OwnStatistics(ABC):
    """The running statistics of a model, which differ between the processes of a group.

    Evaluation and checkpoints have their mean over the processes; training continues with each
    process's own, so that neither evaluating nor saving changes anything.
    """

    def __init__(self, group: Group) -> None:
        self._group = group
        self._own: dict[str, NDArray[Any]] | None = None
        self._rows: dict[str, NDArray[Any]] = {}

    @abstractmethod
    def _read(self) -> dict[str, NDArray[Any]]:
        """Copy the model's statistics to the host, by canonical name."""

    @abstractmethod
    def _write(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Replace the model's statistics by those that ``_read`` returned, of this or another."""

    @abstractmethod
    def _gather(self, flat: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
        """Return the bytes of all processes, ``[world_size, N]``; rank 0 needs them alone."""

    @abstractmethod
    def _average(self) -> None:
        """Give the model, and that of averaged weights, the mean of all processes."""

    @property
    def are_shared(self) -> bool:
        """Whether the model has the mean of all processes."""
        return self._own is not None

    def share(self) -> None:
        """Give the model the mean of all processes, and rank 0 what each has."""
        self._own = own = self._read()
        if not own:
            return
        arrays = own.values()
        rows = self._gather(np.concatenate([array.ravel().view(np.uint8) for array in arrays]))
        self._average()
        self._rows = {}
        if rows is None or (rows == rows[:1]).all():
            return
        parts = np.split(rows, np.cumsum([array.nbytes for array in arrays])[:-1], axis=1)
        for (name, array), part in zip(own.items(), parts, strict=True):
            self._rows[name] = part.copy().view(array.dtype).reshape(len(rows), *array.shape)

    def take_own(self) -> None:
        """Give the model what this process had before ``share``."""
        own, self._own = self._own, None
        if own:
            self._write(own)

    def forget(self) -> None:
        """Stay with what the model has by now, because it was replaced."""
        self._own = None

    def state(self) -> dict[str, NDArray[Any]]:
        """Return the statistics of all processes by name, ``[world_size, ...]``.

        Nothing where they are equal, as their mean then is what each has; on rank 0 at least.
        """
        return dict(self._rows)

    def load_state(self, rows: Mapping[str, NDArray[Any]]) -> None:
        """Put back this process's statistics, where the run had as many processes as now."""
        self._own = None
        group = self._group
        if rows and all(len(row) == group.world_size for row in rows.values()):
            self._write({name: row[group.rank] for name, row in rows.items()})

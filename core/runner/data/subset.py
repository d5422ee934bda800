"""A few images of a split, for a smoke test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from runner.contracts import Dataset


@final
class Few:
    """Some images of a dataset, evenly spread, so that they are of many classes."""

    def __init__(self, whole: Dataset, count: int) -> None:
        """Choose ``count`` images; some more than once where there are fewer."""
        self.whole = whole
        self._chosen = np.linspace(0, len(whole.labels) - 1, count).astype(np.int64)

    @property
    def classes(self) -> Sequence[str]:
        """All classes of the dataset."""
        return self.whole.classes

    @property
    def labels(self) -> NDArray[np.integer[Any]]:
        """Labels of the images ``[count]``."""
        chosen: NDArray[np.integer[Any]] = np.asarray(self.whole.labels)[self._chosen]
        return chosen

    def read(self, index: int) -> bytes | NDArray[np.uint8]:
        """Return an image as the dataset does."""
        return self.whole.read(int(self._chosen[index]))

    def describe(self, index: int) -> str:
        """Name an image as the dataset does."""
        return self.whole.describe(int(self._chosen[index]))

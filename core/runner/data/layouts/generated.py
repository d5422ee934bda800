"""Datasets that need no files: generated images, and the digits of scikit-learn."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, final

import numpy as np
from PIL import Image

from runner.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from runner.data.layouts.options import DigitsOptions, SyntheticOptions

_SPLITS = ("train", "val")
_GRID = 8
"""Cells of the noise along each side of a synthetic image."""


def open_synthetic(config: SyntheticOptions, split: str) -> Synthetic:
    """Open a split of generated images.

    Raises:
        DataError: The split is neither ``train`` nor ``val``.
    """
    _check(split)
    length = config.train_count if split == "train" else config.val_count
    return Synthetic(config, split, length)


def open_digits(config: DigitsOptions, split: str) -> Digits:
    """Open a split of the digits; it is the same every time, with equal shares of each class.

    Raises:
        DataError: The split is neither ``train`` nor ``val``, or has no image of some class, or
            scikit-learn has lost its file.
    """
    _check(split)
    rows = _digits_file()
    scans, labels = rows[:, :-1], rows[:, -1].astype(np.int64)
    in_val = _evenly_spaced(labels, config.val_fraction)
    chosen = np.flatnonzero(in_val if split == "val" else ~in_val)
    if len(np.unique(labels[chosen])) < 10:
        raise DataError(
            f"dataset.val_fraction is {config.val_fraction}, which leaves no image of some digit "
            f"for {split}; expected a value around 0.2"
        )
    # 17 grey levels, 0 to 16.
    grey = np.rint(scans.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    return Digits(grey[chosen], labels[chosen], chosen)


def _digits_file() -> NDArray[np.float64]:
    """Read what ``sklearn.datasets.load_digits`` reads, rows ``[1797, 64 + 1]``.

    Importing scikit-learn takes a second, most of it for SciPy; its file can be read without.
    """
    found = find_spec("sklearn")  # finds its folder without importing it
    for folder in (found and found.submodule_search_locations) or ():
        try:
            return np.loadtxt(Path(folder, "datasets", "data", "digits.csv.gz"), delimiter=",")
        except OSError as error:
            raise DataError(f"cannot read the digits of scikit-learn: {error}") from error
    raise DataError("scikit-learn, which has the digits, is not installed")


def _check(split: str) -> None:
    if split not in _SPLITS:
        raise DataError(f"unknown split {split!r}, expected {' or '.join(_SPLITS)}")


def _evenly_spaced(labels: NDArray[np.int64], fraction: float) -> NDArray[np.bool_]:
    """Mark ``fraction`` of each class, spread evenly over the class."""
    marked = np.zeros(len(labels), np.bool_)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = round(len(members) * fraction)
        marked[members[((np.arange(count) + 0.5) * len(members) / max(count, 1)).astype(int)]] = 1
    return marked


@final
class Synthetic:
    """Images of coarse noise, tinted by class, each a pure function of seed, split and index."""

    def __init__(self, config: SyntheticOptions, split: str, length: int) -> None:
        self._config = config
        self._split = split
        self._stream = [config.seed, _SPLITS.index(split)]
        self._labels = np.arange(length, dtype=np.int64) % config.class_count
        tints = np.random.Generator(np.random.PCG64([config.seed]))
        self._tints = tints.integers(0, 128, (config.class_count, 3), np.uint8)

    @property
    def classes(self) -> Sequence[str]:
        """Names ``class_0`` to ``class_<K-1>``."""
        return tuple(f"class_{label}" for label in range(self._config.class_count))

    @property
    def labels(self) -> NDArray[np.int64]:
        """Labels ``[N]``: 0, 1, ... K-1, 0, 1, ..."""
        return self._labels

    def read(self, index: int) -> NDArray[np.uint8]:
        """Return pixels ``[H, W, C]``."""
        random = np.random.Generator(np.random.Philox([*self._stream, index]))
        noise = random.integers(0, 128, (_GRID, _GRID, 3), np.uint8)
        height, width = self._config.size
        cells = noise + self._tints[self._labels[index]]
        image = Image.fromarray(cells).resize((width, height), Image.Resampling.NEAREST)
        return np.asarray(image)

    def describe(self, index: int) -> str:
        """Name an image."""
        return f"synthetic {self._split} image {index}"


@final
class Digits:
    """Scanned digits in memory."""

    def __init__(
        self, grey: NDArray[np.uint8], labels: NDArray[np.int64], positions: NDArray[np.int64]
    ) -> None:
        self._pixels = np.repeat(grey[..., None], 3, axis=-1)
        self._labels = labels
        self._positions = positions

    @property
    def classes(self) -> Sequence[str]:
        """Names ``0`` to ``9``."""
        return tuple(str(digit) for digit in range(10))

    @property
    def labels(self) -> NDArray[np.int64]:
        """Labels ``[N]``."""
        return self._labels

    def read(self, index: int) -> NDArray[np.uint8]:
        """Return pixels ``[8, 8, 3]``."""
        pixels: NDArray[np.uint8] = self._pixels[index]
        return pixels

    def describe(self, index: int) -> str:
        """Name a digit by its position in ``sklearn.datasets.load_digits``."""
        return f"digit {self._positions[index]} of scikit-learn"

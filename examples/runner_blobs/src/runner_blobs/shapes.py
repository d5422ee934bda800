"""The dataset."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .options import BlobsOptions

SPLITS = {"train": 1, "val": 2}


def open_blobs(config: BlobsOptions, split: str) -> Blobs:
    """Open a split."""
    return Blobs(config.count if split == "train" else config.count // 4, config.size, split)


class Blobs:
    """One shape of random colour, place and size in every image."""

    classes = ("circle", "square", "cross", "ring")

    def __init__(self, count: int, size: int, split: str) -> None:
        """Take the number of images and their height and width."""
        self.labels: NDArray[np.int64] = np.arange(count, dtype=np.int64) % len(self.classes)
        self._size = size
        self._split = split

    def read(self, index: int) -> NDArray[np.uint8]:
        """Draw an image ``[size, size, 3]``, the same one every time."""
        random = np.random.default_rng((SPLITS[self._split], index))
        radius = random.uniform(0.15, 0.3) * self._size
        centre = random.uniform(0.35, 0.65, (2, 1, 1)) * self._size
        y, x = np.abs(np.indices((self._size, self._size)) - centre) / radius
        shape = {
            "circle": np.hypot(x, y) < 1,
            "square": np.maximum(x, y) < 0.9,
            "cross": (np.minimum(x, y) < 0.3) & (np.maximum(x, y) < 1),
            "ring": np.abs(np.hypot(x, y) - 0.8) < 0.25,
        }[self.classes[self.labels[index]]]
        background, colour = random.integers(0, 100, 3), random.integers(150, 256, 3)
        image = np.where(shape[..., None], colour, background)
        noisy = image + random.integers(-20, 20, image.shape)
        return np.asarray(noisy.clip(0, 255), dtype=np.uint8)

    def describe(self, index: int) -> str:
        """Name an image in messages."""
        return f"blobs {self._split} #{index}"

"""Decoded images in memory."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, final

import numpy as np

from runner.data.decode import to_array

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from runner.data.transforms.apply import Decoded


@final
class PixelCache:
    """Keeps the first images that are put in, up to a number of bytes; safe for threads.

    Images are kept whole, before any transform, so that what is read from the cache is what
    would have been decoded.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._hits = 0
        self._pixels: dict[int, NDArray[np.uint8]] = {}
        self._lock = threading.Lock()

    @property
    def images(self) -> int:
        """Number of images that are kept."""
        return len(self._pixels)

    @property
    def bytes(self) -> int:
        """Memory that their pixels take."""
        return self._bytes

    @property
    def hits(self) -> int:
        """Number of images that were found."""
        return self._hits

    def get(self, index: int) -> NDArray[np.uint8] | None:
        """Return the pixels ``[H, W, C]`` of an image, if they are kept."""
        if not self._max_bytes:
            return None
        with self._lock:
            pixels = self._pixels.get(index)
            if pixels is not None:
                self._hits += 1
            return pixels

    def put(self, index: int, image: Decoded) -> Decoded:
        """Keep an image if it fits, and return it."""
        width, height = image.shape[1::-1] if isinstance(image, np.ndarray) else image.size
        size = height * width * 3
        with self._lock:
            if self._bytes + size > self._max_bytes or index in self._pixels:
                return image
            self._bytes += size
            # Reserves the place; the copy is made outside of the lock.
        pixels = image if isinstance(image, np.ndarray) else to_array(image)
        with self._lock:
            self._pixels[index] = pixels
        return image

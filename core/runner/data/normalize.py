"""Normalisation on the host, for exported models; engines normalise on the device instead."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


def normalize(
    images: NDArray[np.uint8], mean: Sequence[float], std: Sequence[float]
) -> NDArray[np.float32]:
    """Compute ``(images / 255 - mean) / std``, every operation in float32.

    Args:
        images: Pixels ``[B, H, W, C]``.
        mean: Mean of each channel, on pixels scaled to [0, 1].
        std: Standard deviation of each channel, on the same scale.

    Returns:
        Inputs ``[B, C, H, W]``, contiguous.
    """
    if images.dtype != np.uint8 or images.ndim != 4:
        raise ValueError(f"found {images.dtype} {list(images.shape)}, expected uint8 [B, H, W, C]")
    scaled = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).astype(np.float32)
    scaled /= np.float32(255)
    scaled -= np.asarray(mean, np.float32).reshape(1, -1, 1, 1)
    scaled /= np.asarray(std, np.float32).reshape(1, -1, 1, 1)
    return scaled

"""From the pixels of a batch to the input of a net: (pixel - 255 mean) / (255 std).

MindSpore's kernels for the processor take 4 to 40 times as long over this as NumPy, so there NumPy
does it. Other devices do it themselves, after a quarter of the bytes has moved. The numbers are the
same to the bit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import numpy as np

from runner_mindspore.autoload import Tensor, ms, nn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


def scaled(values: Sequence[float]) -> NDArray[np.float32]:
    """Return means or deviations of pixels on [0, 1] for pixels on [0, 255]."""
    return np.asarray(values, np.float32) * np.float32(255)


@final
class HostPixels:
    """Normalises with NumPy."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self._mean, self._std = scaled(mean), scaled(std)
        self.cell = nn.Identity()
        """What remains to be done on the device."""

    def tensor(self, images: NDArray[np.uint8]) -> Tensor:
        """Return normalised images ``[B, C, H, W]`` for pixels ``[B, H, W, C]``."""
        count, height, width, channels = images.shape
        planes = np.empty((count, channels, height, width), np.float32)
        for channel in range(channels):
            plane = planes[:, channel]
            np.subtract(images[..., channel], self._mean[channel], out=plane)
            plane /= self._std[channel]
        return Tensor.from_numpy(planes)


@final
class DevicePixels:
    """Leaves normalisation to a cell."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.cell = Normalize(mean, std)
        """What remains to be done on the device."""

    def tensor(self, images: NDArray[np.uint8]) -> Tensor:
        """Copy pixels ``[B, H, W, C]`` to the device."""
        return Tensor(images)


@final
class Normalize(nn.Cell):
    """From pixels ``[B, H, W, C]`` to normalised images ``[B, C, H, W]``."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.mean, self.std = Tensor(scaled(mean)), Tensor(scaled(std))

    def construct(self, images: Tensor) -> Tensor:
        """Return normalised images."""
        return ((images.astype(ms.float32) - self.mean) / self.std).transpose(0, 3, 1, 2)

"""Pixels become the network's input on the device.

Shapes: B images, H height, W width, C channels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from runner_torch.autoload import torch
from runner_torch.weights import tensor_of

if TYPE_CHECKING:
    from typing import Any

    import numpy as np
    from numpy.typing import NDArray

    from runner.entries import EngineSpec
    from runner_torch.device import TorchDevice


@final
class Pixels:
    """Moves arrays to the device, and normalises images there."""

    def __init__(
        self, spec: EngineSpec, device: TorchDevice, memory_format: torch.memory_format
    ) -> None:
        self._mean = torch.tensor(spec.mean, device=device.torch_device) * 255
        self._std = torch.tensor(spec.std, device=device.torch_device) * 255
        self._device = device
        self._memory_format = memory_format
        self._repeated: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def to_device(self, array: NDArray[Any]) -> torch.Tensor:
        """Return the array on the device; does not wait where the device need not."""
        tensor = tensor_of(array)
        if self._device.traits.pinned_memory:
            tensor = tensor.pin_memory()
        return tensor.to(self._device.torch_device, non_blocking=True)

    def images(self, pixels: NDArray[np.uint8]) -> torch.Tensor:
        """Return normalised images ``[B, C, H, W]``: (pixel - 255 mean) / (255 std).

        Computed over rows of W * C values, in which mean and std repeat: an inner loop over the
        three channels would be several times slower. Channels-last images are a view of it.
        """
        count, height, width, channels = pixels.shape
        if width not in self._repeated:
            self._repeated[width] = (self._mean.repeat(width), self._std.repeat(width))
        mean, std = self._repeated[width]
        values = self.to_device(pixels).view(count, height, width * channels)
        rows = torch.sub(values, mean).div_(std)
        normalised = rows.view(count, height, width, channels).permute(0, 3, 1, 2)
        return normalised.contiguous(memory_format=self._memory_format)

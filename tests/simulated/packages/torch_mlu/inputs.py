"""How a compiled model is told what it will be given."""

from __future__ import annotations

import torch


class Input:
    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        dtype: torch.dtype = torch.float32,
        format: torch.memory_format = torch.contiguous_format,  # noqa: A002  the vendor's name
    ) -> None:
        if not all(isinstance(size, int) and size > 0 for size in shape):
            raise ValueError(f"a fixed shape is expected, found {shape}")
        self.shape, self.dtype, self.format = tuple(shape), dtype, format

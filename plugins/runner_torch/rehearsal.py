"""What lets a pass be taken that leaves nothing behind."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from runner.contracts import Batch
from runner_torch.autoload import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runner_torch.device import TorchDevice


@contextlib.contextmanager
def unchanged(module: torch.nn.Module, device: TorchDevice) -> Iterator[None]:
    """Put buffers and random states back, and remove the gradients."""
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    states = device.random_states()
    try:
        yield
    finally:
        module.zero_grad(set_to_none=True)
        device.set_random_states(states)
        with torch.no_grad():
            for buffer, kept in buffers:
                buffer.copy_(kept)


def head(batch: Batch, images: int) -> Batch:
    """Return the first images of a batch."""
    part = slice(images)
    return Batch(images=batch.images[part], labels=batch.labels[part], indices=batch.indices[part])

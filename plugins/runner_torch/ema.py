"""An exponential moving average of a model's weights."""

from __future__ import annotations

import copy
from typing import final

from runner_torch.autoload import torch


@final
class WeightAverage:
    """A second module with a = decay * a + (1 - decay) * w for every parameter.

    Buffers (the running statistics of batch normalisation) are copied, not averaged: they are
    running averages already. The average begins with the weights it was made from. A step that
    loss scaling skips counts like any other.

    torch's ``AveragedModel`` does the same arithmetic, but reads a counter from the device in
    every step.
    """

    def __init__(self, module: torch.nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(module).eval().requires_grad_(requires_grad=False)
        make = torch.optim.swa_utils.get_ema_multi_avg_fn
        self._average = make(decay)  # type: ignore[no-untyped-call]  # torch
        self._averages = list(self.model.parameters())
        self._weights = list(module.parameters())
        self._buffers = list(zip(self.model.buffers(), module.buffers(), strict=True))

    def update(self) -> None:
        """Move the average towards the weights."""
        self._average(self._averages, self._weights, 0)
        with torch.no_grad():
            for average, buffer in self._buffers:
                average.copy_(buffer)

"""Nets as engines need them: fresh from a seed, and what in them needs attention in training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from runner.errors import PluginError
from runner.framework.engine import build_model
from runner_mindspore.autoload import ms, nn
from runner_mindspore.models import SeededDropout

if TYPE_CHECKING:
    from runner.entries import EngineSpec

STATISTICS = ("moving_mean", "moving_variance")
"""How the names of batch normalisation's running statistics end."""
UNSEEDED = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


def fresh_net(spec: EngineSpec) -> nn.Cell:
    """Build the model of a spec with weights that are a function of its seed.

    MindSpore initialises from NumPy's random state, which it seeds with 32 bits; the state is left
    as it was.
    """
    state = np.random.get_state()
    ms.set_seed(int(np.random.SeedSequence(spec.seed).generate_state(1)[0]))
    try:
        net: nn.Cell = build_model(spec, nn.Cell)
    finally:
        np.random.set_state(state)
    return net


def seeded_dropouts(spec: EngineSpec, net: nn.Cell) -> list[SeededDropout]:
    """Return the layers that drop values.

    Raises:
        PluginError: The net is to be trained, and has one whose random state cannot be saved.
    """
    cells = [cell for _, cell in net.cells_and_names()]
    if spec.optimizer is not None and any(isinstance(cell, UNSEEDED) for cell in cells):
        raise PluginError(
            f"model {spec.model.name} has dropout of MindSpore's own, whose random state can be "
            "neither saved nor restored, so that a run could not be resumed exactly; use "
            "runner_mindspore.models.SeededDropout"
        )
    return [cell for cell in cells if isinstance(cell, SeededDropout)]


def running_statistics(net: nn.Cell) -> list[ms.Parameter]:
    """Return the running statistics of batch normalisation."""
    return [p for p in net.get_parameters() if p.name.endswith(STATISTICS)]

"""Weights between modules, NumPy arrays and files, under canonical (torchvision) names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from runner.framework.engine import build_model
from runner.framework.weights import check_fit
from runner_torch.autoload import torch

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from numpy.typing import NDArray

    from runner.entries import EngineSpec


def array_of(tensor: torch.Tensor) -> NDArray[Any]:
    """Copy a tensor into a contiguous array of its own."""
    array: NDArray[Any] = np.array(tensor.detach().cpu().numpy(), order="C", copy=True)
    return array


def tensor_of(array: NDArray[Any]) -> torch.Tensor:
    """View an array as a tensor; one that is read-only or not contiguous is copied first."""
    return torch.from_numpy(np.require(array, requirements=("C", "W")))


def copy_weights(module: torch.nn.Module) -> dict[str, NDArray[Any]]:
    """Copy all parameters and buffers to the host."""
    return {name: array_of(tensor) for name, tensor in module.state_dict().items()}


def load_weights(module: torch.nn.Module, weights: Mapping[str, NDArray[Any]]) -> None:
    """Copy arrays into all parameters and buffers; memory layout and device stay as they are.

    Raises:
        CheckpointError: A name is missing or unexpected, or a shape differs.
    """
    targets = module.state_dict()
    check_fit({name: tuple(t.shape) for name, t in targets.items()}, weights)
    with torch.no_grad():
        for name, tensor in targets.items():
            tensor.copy_(tensor_of(weights[name]))


def evaluation_model(spec: EngineSpec, weights: Mapping[str, NDArray[Any]]) -> torch.nn.Module:
    """Build the model once more, in fp32 on the CPU and in evaluation mode.

    Torch's random state is left as it was, so a training run can go on afterwards.
    """
    with torch.random.fork_rng(devices=[]):
        module = build_model(spec, torch.nn.Module)
    load_weights(module, weights)
    return module.eval()

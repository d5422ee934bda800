"""The kit's network in each framework, and what the fake framework's model computes.

Each function returns the arguments of ``check_step``; processes that train together import this
file, and so nothing of pytest.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import numpy as np

from runner import ModelEntry
from runner.entries import DeviceEntry, FrameworkEntry, OptimizerEntry
from runner.plugins.loading import load
from runner.testing import fake

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from runner.plugins.registry import Registry
    from runner.testing.reference import Arrays


def registry_of(module: str) -> Registry:
    plugin = importlib.import_module(module)
    return load(extra=[("own", plugin)], environ={"RUNNER_PLUGINS": ""})


def entries(module: str, framework: str, device: str, optimizer: str) -> dict[str, Any]:
    registry = registry_of(module)
    return {
        "framework": registry.find(FrameworkEntry, framework).entry,
        "device": registry.find(DeviceEntry, device, framework).entry,
        "optimizer": registry.find(OptimizerEntry, optimizer, framework).entry,
    }


def linear(
    weights: Arrays, images: NDArray[np.float64], training: bool
) -> tuple[NDArray[np.float64], Arrays]:
    """What the fake framework's model computes with a grid of 2."""
    height, width = (size // 2 for size in images.shape[2:])
    cells = [images[:, :, y : y + height, x : x + width] for y in (0, height) for x in (0, width)]
    features = np.concatenate([cell.mean(axis=(2, 3)) for cell in cells], axis=1)
    buffers: dict[str, Any] = {}
    if training:
        moved = 0.9 * weights["colour_mean"] + 0.1 * images.mean(axis=(0, 2, 3))
        buffers = {"batches_seen": weights["batches_seen"] + 1, "colour_mean": moved}
    return features @ weights["head.weight"].T + weights["head.bias"], buffers


def in_fake() -> dict[str, Any]:
    found = entries("runner.testing.fake", "fake", "fake_cpu", "fake_sgd")
    network = registry_of("runner.testing.fake").find(ModelEntry, "linear", "fake").entry
    options = fake.LinearOptions(grid=2)
    return {**found, "network": network, "model_options": options, "function": linear}


def in_torch() -> dict[str, Any]:
    from runner_torch.autoload import torch

    class SmallNetwork(torch.nn.Module):
        def __init__(self, classes: int) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 2, kernel_size=3, stride=4, padding=1, bias=False)
            self.bn = torch.nn.BatchNorm2d(2)
            self.fc = torch.nn.Linear(2, classes)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.fc(self.bn(self.conv(images)).mean(dim=(2, 3)))
            return logits

    network = ModelEntry(
        name="small",
        framework="torch",
        summary="The network of the kit",
        build=lambda options, classes: SmallNetwork(classes),
    )
    return {**entries("runner_torch.plugin", "torch", "cpu", "sgd"), "network": network}


def in_mindspore() -> dict[str, Any]:
    from runner_mindspore.autoload import Tensor, nn

    class SmallNetwork(nn.Cell):
        def __init__(self, classes: int) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 3, stride=4, pad_mode="pad", padding=1)
            self.bn = nn.BatchNorm2d(2)
            self.fc = nn.Dense(2, classes)

        def construct(self, images: Tensor) -> Tensor:
            return self.fc(self.bn(self.conv(images)).mean((2, 3)))

    network = ModelEntry(
        name="small",
        framework="mindspore",
        summary="The network of the kit",
        build=lambda options, classes: SmallNetwork(classes),
    )
    return {**entries("runner_mindspore.plugin", "mindspore", "cpu", "sgd"), "network": network}

"""The model."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from .options import TinyCnnOptions


def tiny_cnn(config: TinyCnnOptions, num_classes: int) -> nn.Module:
    """Build three convolutions with stride 2, global pooling and a linear classifier."""
    layers: list[nn.Module] = []
    width = config.width
    channels = [3, width, 2 * width, 4 * width]
    for before, after in pairwise(channels):
        layers += [
            nn.Conv2d(before, after, kernel_size=3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
        ]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels[-1], num_classes)]
    return nn.Sequential(*layers, *head)

"""A tiny model, batches and engines, shared by the tests of the PyTorch plugin."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pytest

from runner import Batch, ModelEntry
from runner.entries import EngineSpec
from runner.framework.options import AdamWOptions, SgdOptions
from runner.recipe.schema import LossSection, PrecisionSection
from runner_torch.autoload import torch
from runner_torch.device import configure_cpu, open_device
from runner_torch.engine import TorchEngine
from runner_torch.options import CpuOptions, TorchOptions
from runner_torch.plugin import runner_register_models, runner_register_optimizers
from runner_torch.traits import CPU

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runner_torch.device import TorchDevice


class TinyNet(torch.nn.Module):
    """A convolution and a classifier, with or without batch norm and dropout."""

    def __init__(self, num_classes: int, *, norm: bool, dropout: float) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 8, kernel_size=3, padding=1, stride=2)
        self.bn = torch.nn.BatchNorm2d(8) if norm else torch.nn.Identity()
        self.drop = torch.nn.Dropout(dropout)
        self.fc = torch.nn.Linear(8, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = torch.relu(self.bn(self.conv(images))).mean(dim=(2, 3))
        logits: torch.Tensor = self.fc(self.drop(features))
        return logits


def tiny_entry(*, norm: bool = True, dropout: float = 0.0) -> ModelEntry:
    def build(options: object, num_classes: int) -> torch.nn.Module:
        return TinyNet(num_classes, norm=norm, dropout=dropout)

    return ModelEntry(name="tiny", summary="A tiny network", framework="torch", build=build)


class MakeSpec(Protocol):
    def __call__(
        self, *, model: str | ModelEntry = ..., optimizer: str | None = ..., **changes: Any
    ) -> EngineSpec: ...


class MakeEngine(Protocol):
    def __call__(
        self, *, model: str | ModelEntry = ..., optimizer: str | None = ..., **changes: Any
    ) -> TorchEngine: ...


class MakeEntry(Protocol):
    def __call__(self, *, norm: bool = ..., dropout: float = ...) -> ModelEntry: ...


class MakeBatches(Protocol):
    def __call__(
        self, count: int, *, images: int = ..., size: int = ..., classes: int = ..., seed: int = ...
    ) -> Sequence[Batch]: ...


def _make_batches(
    count: int, *, images: int = 4, size: int = 32, classes: int = 10, seed: int = 0
) -> Sequence[Batch]:
    random = np.random.default_rng(seed)
    return [
        Batch(
            images=random.integers(0, 256, (images, size, size, 3), dtype=np.uint8),
            labels=random.integers(0, classes, images),
            indices=np.arange(images),
        )
        for _ in range(count)
    ]


def _make_spec(
    *, model: str | ModelEntry = "tiny", optimizer: str | None = "sgd", **changes: Any
) -> EngineSpec:
    models = {entry.name: entry for entry in runner_register_models()}
    optimizers = {entry.name: entry for entry in runner_register_optimizers()}
    entry = model if isinstance(model, ModelEntry) else models.get(model, tiny_entry())
    default_options = {"sgd": SgdOptions(), "adamw": AdamWOptions(), None: None}
    spec = EngineSpec(
        model=entry,
        model_options=entry.config(),
        num_classes=10,
        image_size=(32, 32),
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        precision=PrecisionSection(),
        framework_options=TorchOptions(),
        seed=1,
        loss=LossSection(),
        optimizer=None if optimizer is None else optimizers[optimizer],
        optimizer_options=default_options[optimizer],
        weight_decay=1e-4,
        no_weight_decay=(),
        micro_batch_size=64,
        clip_grad_norm=None,
        ema_decay=None,
    )
    return replace(spec, **changes)


@pytest.fixture(scope="session")
def device() -> TorchDevice:
    """The processor, with one thread."""
    return open_device(CPU, configure=lambda: configure_cpu(CpuOptions(threads=1)))


@pytest.fixture
def make_batches() -> MakeBatches:
    return _make_batches


@pytest.fixture
def make_spec() -> MakeSpec:
    return _make_spec


@pytest.fixture
def make_engine(device: TorchDevice) -> MakeEngine:
    def make(
        *, model: str | ModelEntry = "tiny", optimizer: str | None = "sgd", **changes: Any
    ) -> TorchEngine:
        return TorchEngine(_make_spec(model=model, optimizer=optimizer, **changes), device)

    return make


@pytest.fixture
def tiny() -> type[TinyNet]:
    return TinyNet


@pytest.fixture
def make_tiny() -> MakeEntry:
    """Make a model entry for the tiny network."""
    return tiny_entry

"""A tiny model, batches and engines, shared by the tests of the MindSpore plugin.

MindSpore is imported inside functions, so that the tests can be collected where it is missing.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import pytest

from runner import Batch, ModelEntry
from runner.entries import EngineSpec
from runner.framework.options import AdamWOptions, SgdOptions
from runner.recipe.schema import LossSection, PrecisionSection
from runner_mindspore.options import CpuOptions, MindSporeOptions
from runner_mindspore.plugin import runner_register_models, runner_register_optimizers

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from runner_mindspore.device import MindSporeDevice
    from runner_mindspore.engine import MindSporeEngine

Mode = Literal["graph", "pynative"]


@functools.cache
def tiny_net() -> Any:
    """Make the class of the tiny network."""
    from runner_mindspore.autoload import Tensor, nn, ops
    from runner_mindspore.models import SeededDropout

    class TinyNet(nn.Cell):
        """A convolution and a classifier, with or without batch norm and dropout."""

        def __init__(self, num_classes: int, *, norm: bool, dropout: float) -> None:
            super().__init__()
            self.conv = nn.Conv2d(
                3, 8, kernel_size=3, stride=2, pad_mode="pad", padding=1, has_bias=True
            )
            self.bn = nn.BatchNorm2d(8) if norm else nn.Identity()
            self.drop = SeededDropout(8, dropout) if dropout else nn.Identity()
            self.fc = nn.Dense(8, num_classes)

        def construct(self, images: Tensor) -> Tensor:
            features = ops.relu(self.bn(self.conv(images))).mean((2, 3))
            return self.fc(self.drop(features))

    return TinyNet


def tiny_entry(*, norm: bool = True, dropout: float = 0.0) -> ModelEntry:
    def build(options: object, num_classes: int) -> Any:
        return tiny_net()(num_classes, norm=norm, dropout=dropout)

    return ModelEntry(name="tiny", summary="A tiny network", framework="mindspore", build=build)


class MakeSpec(Protocol):
    def __call__(
        self, *, model: str | ModelEntry = ..., optimizer: str | None = ..., **changes: Any
    ) -> EngineSpec: ...


class MakeEngine(Protocol):
    def __call__(
        self,
        *,
        model: str | ModelEntry = ...,
        optimizer: str | None = ...,
        mode: Mode = ...,
        **changes: Any,
    ) -> MindSporeEngine: ...


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
        framework_options=MindSporeOptions(mode="pynative"),
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


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MindSpore leaves files in the working directory when something fails."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(params=["pynative", "graph"])
def mode(request: pytest.FixtureRequest) -> Mode:
    """Both modes, for what differs between them inside MindSpore; the others run in PyNative."""
    found: Mode = request.param
    return found


@pytest.fixture(scope="session")
def device() -> MindSporeDevice:
    from runner_mindspore.device import configure_cpu, open_device
    from runner_mindspore.traits import CPU

    # with several, MindSpore tries numbers of threads in its first steps, which moves a last bit
    return open_device(CPU, configure=lambda: configure_cpu(CpuOptions(threads=1)))


@pytest.fixture(scope="session")
def make_batches() -> MakeBatches:
    return _make_batches


@pytest.fixture(scope="session")
def make_spec() -> MakeSpec:
    return _make_spec


@pytest.fixture
def make_engine(device: MindSporeDevice) -> MakeEngine:
    from runner_mindspore.engine import MindSporeEngine

    def make(
        *,
        model: str | ModelEntry = "tiny",
        optimizer: str | None = "sgd",
        mode: Mode = "pynative",
        **changes: Any,
    ) -> MindSporeEngine:
        options = {"framework_options": MindSporeOptions(mode=mode), **changes}
        return MindSporeEngine(_make_spec(model=model, optimizer=optimizer, **options), device)

    return make


@pytest.fixture
def tiny() -> Any:
    """The class of the tiny network."""
    return tiny_net()


@pytest.fixture(scope="session")
def make_tiny() -> MakeEntry:
    """Make a model entry for the tiny network."""
    return tiny_entry

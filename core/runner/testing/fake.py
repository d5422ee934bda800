"""A complete framework in a few hundred lines, for tests of core and as an example for authors.

It trains a linear softmax classifier on average-pooled pixels with NumPy, gives the same bits on
every run, and can be told to fail. The module is a plugin: give it to
``runner.plugins.loading.load`` as ``extra=[("fake", fake.plugin())]``, or name
``runner.testing.fake`` in an entry point. Installing Vision Runner does not register it.

Environment variables:
    RUNNER_FAKE_CARDS: Number of cards that the device ``fake_card`` finds; none when unset.
    RUNNER_FAKE_SIGNALS: ``1`` makes every step install signal handlers of the framework's own.
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Annotated, final

from annotated_types import Ge, Gt, Lt

from runner.contracts import Availability
from runner.entries import (
    ConverterEntry,
    DatasetEntry,
    DeviceEntry,
    ExporterEntry,
    FrameworkEntry,
    LauncherEntry,
    ModelEntry,
    OptimizerEntry,
    PredictorEntry,
)
from runner.errors import DeviceError
from runner.hooks import hookimpl
from runner.options import NoOptions, options
from runner.testing import fake_group
from runner.testing.fake_device import FakeDevice
from runner.testing.fake_exports import (
    NpzOptions,
    RoundedOptions,
    convert_npz,
    export_npz,
    load_npz,
    read_npz,
    source_options,
)
from runner.testing.fake_options import FakeOptions, Step

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType
    from typing import Any

    import numpy as np
    from numpy.typing import NDArray

    from runner.contracts import Device, Engine
    from runner.entries import EngineSpec
    from runner.testing.fake_engine import Linear, Sgd


REFUSED = dict.fromkeys(("bf16", "fp16"), "the fake framework computes in fp64")
"""Formats of its devices that a recipe may name and that it does not have."""


@options
class LinearOptions:
    """The linear classifier."""

    grid: Annotated[int, Gt(0)] = 4
    """The image is averaged over grid x grid cells."""
    noise: Annotated[float, Ge(0)] = 0.0
    """Standard deviation of noise on the features of training images."""


@options
class SgdOptions:
    """Gradient descent with momentum."""

    momentum: Annotated[float, Ge(0), Lt(1)] = 0.9
    """Share of the previous update that is kept."""
    nesterov: bool = False
    """Take the gradient where the momentum leads."""


@options
class ColoursOptions:
    """Noisy images of one colour per class."""

    images: Annotated[int, Gt(0)] = 96
    """Images of the training split; the validation split has a third of them."""
    classes: Annotated[int, Gt(1)] = 3
    """Number of classes."""
    size: Annotated[int, Gt(0)] = 8
    """Height and width in pixels."""
    hang_at_image: Step = None
    """Training image whose reading takes an hour, and says so on standard error."""


@final
class Colours:
    """Images ``[size, size, 3]`` that are computed when they are read."""

    def __init__(self, config: ColoursOptions, split: str) -> None:
        import numpy as np

        self._size = config.size
        self._hangs_at = config.hang_at_image if split == "train" else None
        self._stream = {"train": 1, "val": 2}[split]
        count = config.images if split == "train" else max(config.images // 3, 1)
        self.classes: Sequence[str] = tuple(f"colour_{k}" for k in range(config.classes))
        self.labels: NDArray[np.int64] = np.arange(count, dtype=np.int64) % config.classes

    def read(self, index: int) -> NDArray[np.uint8]:
        """Draw an image: its class's colour and noise that depends on the index alone."""
        import numpy as np

        if index == self._hangs_at:
            sys.stderr.write("the fake dataset hangs\n")
            sys.stderr.flush()
            time.sleep(3600)
        colour = np.random.default_rng(int(self.labels[index])).integers(32, 224, 3)
        noise = np.random.default_rng((self._stream, index)).normal(
            0, 24, (self._size, self._size, 3)
        )
        return np.clip(colour + noise, 0, 255).astype(np.uint8)

    def describe(self, index: int) -> str:
        """Name an image."""
        return f"fake_colours #{index}"


def plugin() -> ModuleType:
    """Return the plugin."""
    return sys.modules[__name__]


def open_engine(spec: EngineSpec, device: Device) -> Engine:
    """Build the engine."""
    from runner.testing.fake_engine import FakeEngine

    return FakeEngine(spec, device)


def probe() -> Availability:
    """Say that the processor is there."""
    return Availability(available=True)


def open_device(config: NoOptions) -> Device:  # noqa: ARG001  has no options
    """Open the processor."""
    return FakeDevice("fake_cpu")


def probe_card() -> Availability:
    """Look for a card."""
    count = os.environ.get("RUNNER_FAKE_CARDS")
    reason = "" if count else "RUNNER_FAKE_CARDS is not set"
    return Availability(available=bool(count), reason=reason, count=int(count or 0))


def open_card(config: NoOptions) -> Device:  # noqa: ARG001  has no options
    """Open a card."""
    found = probe_card()
    if not found.available:
        raise DeviceError(f"no card: {found.reason}")
    return FakeDevice("fake_card")


def build_linear(config: LinearOptions, num_classes: int) -> Linear:
    """Build the classifier."""
    from runner.testing.fake_engine import Linear

    return Linear(num_classes=num_classes, grid=config.grid, noise=config.noise)


def build_sgd(groups: Sequence[Any], config: SgdOptions, learning_rate: float) -> Sgd:  # noqa: ARG001  every step brings its own rate
    """Build the update rule."""
    from runner.testing.fake_engine import Sgd

    return Sgd(groups=groups, momentum=config.momentum, nesterov=config.nesterov)


@hookimpl
def runner_register_frameworks() -> Sequence[FrameworkEntry]:
    """Offer the fake framework."""
    return [
        FrameworkEntry(
            name="fake",
            summary="Linear classifier in NumPy, for tests",
            config=FakeOptions,
            requires=("numpy",),
            open=open_engine,
            read_weights=read_npz,
            weight_suffixes=(".npz",),
            launch=fake_group.launch,
            join=fake_group.join,
            rank_environment=fake_group.rank_environment,
            takes_signals=os.environ.get("RUNNER_FAKE_SIGNALS") == "1",
        )
    ]


@hookimpl
def runner_register_launchers() -> Sequence[LauncherEntry]:
    """Read the places of its processes."""
    return [
        LauncherEntry(
            name="fake",
            framework="fake",
            summary="Launcher of the fake framework",
            place=fake_group.place,
            attempt=fake_group.attempt,
        )
    ]


@hookimpl
def runner_register_devices() -> Sequence[DeviceEntry]:
    """Offer its devices."""
    return [
        DeviceEntry(
            name="fake_cpu",
            framework="fake",
            summary="This processor",
            probe=probe,
            open=open_device,
            is_host=True,
            refused_formats=REFUSED,
        ),
        DeviceEntry(
            name="fake_card",
            framework="fake",
            summary="A card that most machines do not have",
            probe=probe_card,
            open=open_card,
            visible_devices="RUNNER_FAKE_CARDS",
            refused_formats=REFUSED,
        ),
    ]


@hookimpl
def runner_register_datasets() -> Sequence[DatasetEntry]:
    """Offer images that it can learn in a few steps."""
    return [
        DatasetEntry(
            name="fake_colours",
            summary="Noisy images of one colour per class",
            config=ColoursOptions,
            open=Colours,
        )
    ]


@hookimpl
def runner_register_models() -> Sequence[ModelEntry]:
    """Offer its model."""
    return [
        ModelEntry(
            name="linear",
            framework="fake",
            summary="Linear classifier on average-pooled pixels",
            config=LinearOptions,
            build=build_linear,
        )
    ]


@hookimpl
def runner_register_optimizers() -> Sequence[OptimizerEntry]:
    """Offer its update rule."""
    return [
        OptimizerEntry(
            name="fake_sgd",
            framework="fake",
            summary="Gradient descent with momentum",
            config=SgdOptions,
            build=build_sgd,
        )
    ]


@hookimpl
def runner_register_exporters() -> Sequence[ExporterEntry | ConverterEntry]:
    """Offer its file format, and one that is converted from it."""
    return [
        ExporterEntry(
            name="fake_npz",
            framework="fake",
            summary="NumPy archive",
            config=NpzOptions,
            export=export_npz,
        ),
        ConverterEntry(
            name="fake_rounded",
            framework="fake",
            summary="NumPy archive of rounded weights",
            config=RoundedOptions,
            source="fake_npz",
            source_options=source_options,
            convert=convert_npz,
            tolerance=0.1,
        ),
    ]


@hookimpl
def runner_register_predictors() -> Sequence[PredictorEntry]:
    """Offer what runs that format."""
    return [
        PredictorEntry(
            name="fake_npz",
            summary="Runs the NumPy archive",
            formats=("fake_npz",),
            load=load_npz,
        )
    ]

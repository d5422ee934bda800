"""What the checks of engines work on: a framework on an open device, and a spec to vary."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, final

from runner.contracts import Device, Engine
from runner.entries import EngineSpec
from runner.testing import returned

if TYPE_CHECKING:
    from runner.entries import DeviceEntry, FrameworkEntry, ModelEntry, OptimizerEntry

BATCH = 8
"""Images of a step."""


@final
@dataclass(frozen=True, slots=True)
class Subject:
    """What the checks share."""

    framework: FrameworkEntry
    device: Device
    spec: EngineSpec

    def engine(self, **changes: Any) -> Engine:
        """Open an engine for a spec that differs in some fields."""
        engine = self.framework.open(replace(self.spec, **changes), self.device)
        returned.methods(engine, Engine, f"framework {self.framework.name}, open()")
        return engine


def open_device(entry: DeviceEntry, options: object | None) -> Device:
    """Open a device and check it."""
    device = entry.open(chosen(entry.config, options))
    returned.methods(device, Device, f"device {entry.name}, open()")
    assert device.name == entry.name, (
        f"device {entry.name} calls itself {device.name} when it is opened"
    )
    returned.as_json(device.describe(), f"device {entry.name}: describe()")
    peak = device.peak_memory_bytes()
    assert peak is None or type(peak) is int, (
        f"device {entry.name}: peak_memory_bytes() returned {peak!r}, expected an int or None"
    )
    return device


def make_subject(
    framework: FrameworkEntry,
    device: Device,
    model: ModelEntry,
    optimizer: OptimizerEntry,
    *,
    num_classes: int,
    image_size: tuple[int, int],
    framework_options: object | None,
    model_options: object | None,
    optimizer_options: object | None,
    **changes: Any,
) -> Subject:
    """Put a spec together that asks for nothing special; options left out are the defaults."""
    from runner.recipe.schema import LossSection, PrecisionSection

    spec = EngineSpec(
        model=model,
        model_options=chosen(model.config, model_options),
        num_classes=num_classes,
        image_size=image_size,
        mean=(0.45, 0.5, 0.55),
        std=(0.2, 0.25, 0.3),
        precision=PrecisionSection(),
        framework_options=chosen(framework.config, framework_options),
        seed=1,
        loss=LossSection(),
        optimizer=optimizer,
        optimizer_options=chosen(optimizer.config, optimizer_options),
        weight_decay=0.0,
        no_weight_decay=(),
        micro_batch_size=BATCH,
        clip_grad_norm=None,
        ema_decay=None,
    )
    return Subject(framework, device, replace(spec, **changes))


def chosen(config: type, given: object | None) -> object:
    """Return the options that were given, or the defaults of an entry."""
    return config() if given is None else given

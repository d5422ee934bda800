"""What a valid recipe must fulfil beyond the types of its keys."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, final

from runner.data.transforms.options import off_scale, output_size, random_steps

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runner.data.transforms.options import Transform
    from runner.recipe.schema import (
        DeviceSection,
        DistributedSection,
        LoaderSection,
        LossSection,
        ModelSection,
        OptimizerSection,
        PrecisionSection,
        ScheduleSection,
        ThroughputSection,
        TrainSection,
        TransformsSection,
    )
    from runner.recipe.source import KeyPath


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """The sections that rules look at; ``None`` where a section is absent or itself wrong."""

    trains: bool
    """The recipe has a ``train`` section, be it right or wrong."""
    optimizes: bool
    """The recipe has an ``optimizer`` section, be it right or wrong."""
    precision: PrecisionSection | None
    transforms: TransformsSection | None
    loader: LoaderSection | None
    loss: LossSection | None
    optimizer: OptimizerSection | None
    schedule: ScheduleSection | None
    train: TrainSection | None
    throughput: list[ThroughputSection] | None
    model: ModelSection | None = None
    device: DeviceSection | None = None
    distributed: DistributedSection | None = None


def broken(draft: Draft) -> Iterator[tuple[KeyPath, str]]:
    """Yield the path and the message of each rule that is not fulfilled."""
    if draft.trains and not draft.optimizes:
        example = "optimizer: {name: sgd, learning_rate: 0.1}"
        yield ("train",), f"train needs a section `optimizer`, such as {example}"
    loader, train = draft.loader, draft.train
    if draft.precision:
        yield from _precision(draft.precision, trains=draft.trains)
    if loader and loader.damaged_images == "skip" and not loader.max_damaged:
        message = "skip needs max_damaged, the number of images that may be skipped"
        yield ("loader", "damaged_images"), f"loader.damaged_images: {message}"
    if train and train.micro_batch_size and train.micro_batch_size > train.batch_size:
        message = (
            f"train.micro_batch_size: expected at most batch_size, which is {train.batch_size}, "
            f"got {train.micro_batch_size}"
        )
        yield ("train", "micro_batch_size"), message
    if draft.schedule:
        yield from _schedule(draft.schedule)
    yield from _devices(draft.device, draft.distributed)
    yield from _throughput(draft.throughput or [])
    if draft.transforms:
        yield from _pixels(draft.transforms, trains=draft.trains)


def _pixels(transforms: TransformsSection, *, trains: bool) -> Iterator[tuple[KeyPath, str]]:
    if trains:
        yield from _transforms("train", transforms.train)
    yield from _transforms("eval", transforms.eval)
    for position, step in enumerate(transforms.eval):
        if random_steps([step]):
            message = f"{step.name} is random; evaluation must see the same pixels every time"
            yield ("transforms", "eval", position), f"transforms.eval.{position}: {message}"
    for key, message in off_scale(transforms.mean, transforms.std):
        yield ("transforms", key), f"transforms.{key}: {message}"


def _precision(precision: PrecisionSection, *, trains: bool) -> Iterator[tuple[KeyPath, str]]:
    scale = precision.effective_loss_scale
    if trains and precision.compute == "fp16" and scale == "none":
        message = "fp16 needs a loss scale to train; set loss_scale to auto, dynamic, or a number"
        yield ("precision", "loss_scale"), f"precision.loss_scale: {message} such as 128"
    if trains and scale == "dynamic" and not precision.skip_overflow:
        message = "a dynamic loss scale skips steps that overflow; leave skip_overflow out"
        yield ("precision", "skip_overflow"), f"precision.skip_overflow: {message}"
    if precision.level == "auto" and precision.batch_norm == "compute":
        message = "level: auto keeps batch normalisation in fp32; set level to O2 or O3"
        yield ("precision", "batch_norm"), f"precision.batch_norm: {message}"


def _devices(
    device: DeviceSection | None, distributed: DistributedSection | None
) -> Iterator[tuple[KeyPath, str]]:
    if device is None or distributed is None:
        return
    least, count = distributed.min_devices, device.count
    if least is not None and least > count:
        message = (
            f"expected at most device.count, which is {count}, got {least}; lower it, or set it to "
            "null, with which a run goes on with all devices or not at all"
        )
        yield ("distributed", "min_devices"), f"distributed.min_devices: {message}"


def _schedule(schedule: ScheduleSection) -> Iterator[tuple[KeyPath, str]]:
    milestones = schedule.milestones
    if schedule.name == "multistep" and not milestones:
        message = "multistep needs milestones, the epochs at which it decays, such as [30, 60, 80]"
        yield ("schedule", "name"), f"schedule.name: {message}"
    if any(after <= before for before, after in pairwise(milestones)):
        message = f"expected epochs in rising order, got {milestones}"
        yield ("schedule", "milestones"), f"schedule.milestones: {message}"


def _throughput(items: list[ThroughputSection]) -> Iterator[tuple[KeyPath, str]]:
    names = [item.name for item in items]
    for position, name in enumerate(names):
        if name in names[:position]:
            message = f"'{name}' is measured twice; give each item a name of its own"
            yield ("throughput", position, "name"), f"throughput.{position}.name: {message}"


def _transforms(split: str, transforms: list[Transform]) -> Iterator[tuple[KeyPath, str]]:
    if output_size(transforms) is None:
        crop = "random_resized_crop" if split == "train" else "center_crop"
        message = (
            f"transforms.{split}: images must leave with one fixed size to form a batch; "
            f"add {{name: {crop}, size: 224}}, another crop, or resize with exact"
        )
        yield ("transforms", split), message


def ineffective(draft: Draft) -> Iterator[tuple[KeyPath, str]]:
    """Yield the path of each key that has no effect, and the reason.

    A recipe that gives such a key is wrong; a resolved recipe does not show it.
    """
    yield from _ineffective_model(draft)
    if not draft.trains:
        reason = "without a section `train`"
        for section in ("optimizer", "schedule", "checkpoint", "throughput"):
            yield (section,), reason
        yield ("transforms", "train"), reason
        yield ("precision", "loss_scale"), reason
        yield ("precision", "skip_overflow"), reason
        yield ("loss",), reason
        yield ("eval", "every_epochs"), reason
        yield ("eval", "start_epoch"), reason
    elif draft.schedule:
        for key, reason in _ineffective_schedule(draft.schedule):
            yield ("schedule", key), reason
    if draft.precision and draft.precision.compute == "fp32":
        keys = ("level", "batch_norm", *(("loss_scale", "skip_overflow") if draft.trains else ()))
        for key in keys:
            yield ("precision", key), "with compute: fp32"
    elif draft.trains and draft.precision and draft.precision.effective_loss_scale == "none":
        yield ("precision", "skip_overflow"), "without a loss scale"
    if draft.loader and draft.loader.damaged_images == "stop":
        yield ("loader", "max_damaged"), "with damaged_images: stop"
    if draft.loss and not draft.loss.label_smoothing:
        yield ("loss", "smooth_over"), "with label_smoothing: 0"


def _ineffective_model(draft: Draft) -> Iterator[tuple[KeyPath, str]]:
    if draft.model and draft.model.weights is None:
        for key in ("weights_key", "fresh_classifier"):
            yield ("model", key), "without model.weights"
    elif not draft.trains:
        yield ("model", "fresh_classifier"), "without a section `train`"


def _ineffective_schedule(schedule: ScheduleSection) -> Iterator[tuple[str, str]]:
    belongs = {
        "update": ("step", "multistep", "cosine", "linear"),
        "gamma": ("step", "multistep"),
        "every_epochs": ("step",),
        "milestones": ("multistep",),
        "decay_from": ("cosine", "linear"),
        "decay_epochs": ("cosine", "linear"),
        "min_learning_rate": ("cosine",),
    }
    for key, names in belongs.items():
        if schedule.name not in names:
            yield key, f"with name: {schedule.name}"
    if not schedule.warmup_epochs:
        for key in ("warmup", "warmup_update", "warmup_factor"):
            yield key, "with warmup_epochs: 0"
        if schedule.name in belongs["decay_from"]:
            yield "decay_from", "with warmup_epochs: 0"
    elif schedule.warmup != "constant":
        yield "warmup_factor", f"with warmup: {schedule.warmup}"
    else:
        yield "warmup_update", "with warmup: constant"

"""The learning rate as a pure function of the step.

A schedule is a warm-up followed by a decay. Both count *units*: optimizer steps, or epochs when
the rule keeps one value over an epoch. The four systems that these rules come from differ in what
they count and from where; each of those choices is a key of the recipe:

    system                            decay      update  warm-up           progress counts
    vision_classification             step       epoch   -
        AlexNet                       step       epoch   -
        MobileNetV2                   cosine     step    from_zero, steps  from its end
        ShuffleNetV2                  linear     step    constant, steps   from its end, over all
    ResNet50_for_PyTorch              cosine     epoch   linear, epochs    from its end
    MobileNetV2_for_PyTorch           step       step    -
    MindSpore resnext152_64x4d        cosine     epoch   linear, steps     from the start
        its other rule                multistep  epoch   linear, steps     -
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runner.recipe.schema import ScheduleSection


def learning_rate(
    schedule: ScheduleSection, peak: float, step: int, *, epochs: int, steps_per_epoch: int
) -> float:
    """Return the learning rate of optimizer step ``step``.

    Args:
        schedule: The rule.
        peak: The learning rate that the rule scales.
        step: Steps taken before this one, from 0.
        epochs: Length of the run, in epochs.
        steps_per_epoch: Optimizer steps in an epoch.
    """
    epoch = step // steps_per_epoch
    if epoch < schedule.warmup_epochs:
        return peak * _warmup(schedule, step, epoch, steps_per_epoch)
    # Decay in steps or in epochs is one formula: an epoch-wise rule sees its epoch's first step.
    position = step if schedule.update == "step" else epoch * steps_per_epoch
    total = epochs * steps_per_epoch
    if schedule.name == "constant":
        return peak
    if schedule.name == "step":
        period = max(1, int(schedule.every_epochs * steps_per_epoch))
        return float(peak * schedule.gamma ** (position // period))
    if schedule.name == "multistep":
        passed = sum(position >= epoch * steps_per_epoch for epoch in schedule.milestones)
        return float(peak * schedule.gamma**passed)
    start = schedule.warmup_epochs * steps_per_epoch if schedule.decay_from == "warmup_end" else 0
    span = schedule.decay_epochs * steps_per_epoch if schedule.decay_epochs else total - start
    progress = min((position - start) / span, 1.0)
    if schedule.name == "linear":
        return peak * (1 - progress)
    low = schedule.min_learning_rate
    return low + (peak - low) * (1 + math.cos(math.pi * progress)) / 2


def _warmup(schedule: ScheduleSection, step: int, epoch: int, steps_per_epoch: int) -> float:
    """Return the factor on the peak during warm-up."""
    if schedule.warmup == "constant":
        return schedule.warmup_factor
    done, units = (
        (step, schedule.warmup_epochs * steps_per_epoch)
        if schedule.warmup_update == "step"
        else (epoch, schedule.warmup_epochs)
    )
    return done / units if schedule.warmup == "from_zero" else (done + 1) / units

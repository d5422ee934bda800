"""What a plan does that its author may not want: no error, but worth a line before it starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.recipe.source import DEFAULT
from runner.terminal.display import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from runner.planning.plan import Plan
    from runner.recipe import Document, Recipe

TELLING_RATIO = 2
"""Factor between batch sizes from which a learning rate is said to belong to another one."""


def notes(plan: Plan, train_images: int | None) -> list[str]:
    """Return what is worth knowing of a plan, one sentence each.

    Args:
        plan: The plan.
        train_images: Images of the training split; ``None`` where it is not known or not trained.
    """
    found = [*plan.remarks, *_precision(plan)]
    if plan.recipe.train is None or plan.smoke:
        return found
    found += [*_schedule(plan), *_evaluation(plan)]
    if train_images:
        found += _last_pass(plan, train_images)
    return found


def _precision(plan: Plan) -> Iterator[str]:
    compute, device = plan.recipe.precision.compute, plan.device_entry
    reason = device.slow_formats.get(compute)
    if reason:
        yield (
            f"precision.compute: {compute} may take many times as long as fp32 on device "
            f"{device.name}: {reason}"
        )


def _schedule(plan: Plan) -> Iterator[str]:
    schedule, epochs = plan.recipe.schedule, plan.train.epochs
    warm_up = schedule.warmup_epochs
    if warm_up > epochs:
        yield (
            f"the warm-up takes {counted(warm_up, 'epoch')} and the training {epochs}, so the "
            "learning rate never reaches its peak; lower schedule.warmup_epochs"
        )
    elif warm_up == epochs and schedule.name != "constant":
        yield (
            f"the warm-up takes the whole training ({counted(epochs, 'epoch')}), so "
            f"{schedule.name} never begins; lower schedule.warmup_epochs"
        )
    late = [epoch for epoch in schedule.milestones if epoch >= epochs]
    if schedule.name == "multistep" and late:
        left = "never falls" if late == schedule.milestones else "does not fall there"
        yield (
            f"schedule.milestones {', '.join(map(str, late))} come after the last of "
            f"{counted(epochs, 'epoch')}: the learning rate {left}"
        )
    if schedule.name == "step" and schedule.every_epochs >= epochs:
        yield (
            f"schedule.every_epochs is {schedule.every_epochs:g} and the training takes "
            f"{counted(epochs, 'epoch')}: the learning rate never falls"
        )
    if schedule.decay_epochs and schedule.decay_epochs > epochs:
        yield (
            f"schedule.decay_epochs is {schedule.decay_epochs} and the training takes "
            f"{counted(epochs, 'epoch')}: {schedule.name} does not come to its end"
        )


def _evaluation(plan: Plan) -> Iterator[str]:
    section, epochs = plan.recipe.eval, plan.train.epochs
    if section.start_epoch >= epochs > 1:
        yield (
            f"eval.start_epoch is {section.start_epoch} and the training takes {epochs} epochs: "
            "only the last one is evaluated"
        )


def _last_pass(plan: Plan, train_images: int) -> Iterator[str]:
    if plan.smallest_pass(train_images) == 1 and plan.train_batch and plan.train_batch.micro > 1:
        yield (
            f"the last pass of each epoch has one image ({counted(train_images, 'image')}, "
            f"train.last_batch: {plan.train.last_batch}), of which batch normalisation takes its "
            "statistics; set train.last_batch: drop, or another train.batch_size"
        )


def batch_of_another_size(
    document: Document, recipe: Recipe, read: Callable[[Path], Document]
) -> str | None:
    """Say that the learning rate was written for another batch size, where that can be seen.

    It can where one of both was changed, by an override or a recipe that extends another one.

    Args:
        document: The recipe with its origins.
        recipe: What it says.
        read: Reads one of its files alone.
    """
    if recipe.train is None or recipe.optimizer is None:
        return None
    rate = document.origin(("optimizer", "learning_rate"))
    batch = document.origin(("train", "batch_size"))
    file = next((path for path in document.files if _is_file(rate.source, path)), None)
    if file is None or batch == DEFAULT or batch.source == rate.source:
        return None
    written = read(file).root.find(("train", "batch_size"))
    before, now = written.value if written else None, recipe.train.batch_size
    if not isinstance(before, int) or before < 1:
        return None
    if max(before, now) < TELLING_RATIO * min(before, now):
        return None
    value = recipe.optimizer.learning_rate
    return (
        f"train.batch_size is {now} ({batch}), and optimizer.learning_rate {value:g} was written "
        f"for {before} ({rate}); in proportion it would be {value * now / before:.3g}: set "
        "optimizer.learning_rate, or keep the batch and set train.micro_batch_size"
    )


def _is_file(source: str, path: Path) -> bool:
    from runner.recipe.phrasing import shown_path

    return source in (str(path), shown_path(path))

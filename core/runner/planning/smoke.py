"""What ``--smoke`` makes of a recipe."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from runner.entries import DatasetEntry
from runner.errors import RunnerError
from runner.planning.plan import image_size, resolve
from runner.recipe.schema import DatasetSection, EvalSection

if TYPE_CHECKING:
    from runner.planning.plan import Plan
    from runner.plugins.registry import Registry
    from runner.recipe.schema import Recipe


BATCH, STEPS = 4, 3
IMAGES = {"train": BATCH * STEPS, "val": BATCH + 1}
"""Images of each split."""


def plan_of(name: str, recipe: Recipe, registry: Registry) -> Plan:
    """Plan a few steps on a few images, on one device.

    The images are the recipe's own if they are there, and synthetic ones otherwise.
    """
    short = shorten(recipe)
    own = resolve(name, short, registry, smoke=IMAGES)
    reason = _why_not(own)
    if not reason:
        return own
    height, width = image_size(recipe.transforms)
    options = registry.find(DatasetEntry, "synthetic").entry.config(
        train_count=IMAGES["train"],
        val_count=IMAGES["val"],
        size=(height, width),
        class_count=recipe.dataset.num_classes or 10,
    )
    other = replace(short, dataset=DatasetSection(name="synthetic", options=options))
    return resolve(name, other, registry, smoke=IMAGES, synthetic_because=reason)


def _why_not(plan: Plan) -> str:
    """Say why the recipe's own images cannot be used; "" if they can."""
    if plan.dataset_entry.open_loader is not None:
        return f"the dataset {plan.dataset_entry.name} reads whole splits in a way of its own"
    try:
        for split in ("train", "val") if plan.recipe.train else ("val",):
            objection = plan.objection(split, plan.look_at(split))
            if objection:
                return objection
    except RunnerError as error:
        return str(error)
    return ""


def shorten(recipe: Recipe) -> Recipe:
    """Return the recipe with a few steps of a small batch, on one device.

    Model, data, precision, optimizer, schedule, exports and logs stay as they are; the learning
    rate shrinks with the batch, because a few steps of its full size make the weights of some
    recipes overflow.
    """
    train = recipe.train and replace(
        recipe.train,
        epochs=1,
        batch_size=BATCH,
        micro_batch_size=2 if (recipe.train.micro_batch_size or 0) else None,
        max_steps_per_epoch=STEPS,
        log_every_steps=1,
        target_top1=None,
    )
    optimizer = recipe.optimizer
    if optimizer and recipe.train:
        share = min(1.0, BATCH / recipe.train.batch_size)
        optimizer = replace(optimizer, learning_rate=optimizer.learning_rate * share)
    return replace(
        recipe,
        device=replace(recipe.device, count=1, cards=recipe.device.cards[:1]),
        dataset=replace(recipe.dataset, train_images=None, val_images=None),
        # weights of another number of classes would not fit
        model=replace(recipe.model, weights=None, weights_key=None, fresh_classifier=False),
        optimizer=optimizer,
        train=train,
        eval=EvalSection(batch_size=BATCH),
        # what a few steps have learnt tells nothing about a loss of accuracy
        export=[
            replace(item, verify_images=2, max_top1_drop=None, min_agreement=0.0)
            for item in recipe.export
        ],
        throughput=[replace(x, skip_steps=min(x.skip_steps, 1)) for x in recipe.throughput],
        reference=[],  # published figures are of the real data
    )

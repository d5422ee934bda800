"""What ``--smoke`` makes of a recipe."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from runner.plan import image_size
from runner.recipe.schema import DatasetSection, EvalSection

if TYPE_CHECKING:
    from runner.recipe.schema import Recipe
    from runner.registry import Registry


def shorten(recipe: Recipe, registry: Registry) -> Recipe:
    """Return the recipe with a few steps on a few synthetic images, on one device.

    Model, precision, optimizer, schedule, exports and logs stay as they are; the learning rate
    shrinks with the batch, because a few steps of its full size make the weights of some recipes
    overflow.
    """
    height, width = image_size(recipe.transforms)
    batch, steps = 4, 3
    options = registry.find("dataset", "synthetic").entry.config(
        train_count=batch * steps,
        val_count=batch + 1,
        size=(height, width),
        class_count=recipe.dataset.num_classes or 10,
    )
    train = recipe.train and replace(
        recipe.train,
        epochs=1,
        batch_size=batch,
        micro_batch_size=2 if (recipe.train.micro_batch_size or 0) else None,
        max_steps_per_epoch=steps,
        log_every_steps=1,
        target_top1=None,
    )
    optimizer = recipe.optimizer
    if optimizer and recipe.train:
        share = min(1.0, batch / recipe.train.batch_size)
        optimizer = replace(optimizer, learning_rate=optimizer.learning_rate * share)
    return replace(
        recipe,
        device=replace(recipe.device, count=1, cards=recipe.device.cards[:1]),
        dataset=DatasetSection(name="synthetic", options=options),
        # weights of another number of classes would not fit
        model=replace(recipe.model, weights=None),
        optimizer=optimizer,
        train=train,
        eval=EvalSection(batch_size=batch),
        # what a few steps have learnt tells nothing about a loss of accuracy
        export=[
            replace(item, verify_images=2, max_top1_drop=None, min_agreement=0.0)
            for item in recipe.export
        ],
        throughput=[replace(x, skip_steps=min(x.skip_steps, 1)) for x in recipe.throughput],
        reference=[],  # published figures are of the real data
    )

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

    Model, precision, optimizer, schedule and exports stay as they are.
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
    return replace(
        recipe,
        device=replace(recipe.device, count=1),
        dataset=DatasetSection(name="synthetic", options=options),
        # weights of another number of classes would not fit
        model=replace(recipe.model, weights=None),
        train=train,
        eval=EvalSection(batch_size=batch),
        export=[replace(item, verify_images=2) for item in recipe.export],
        reference=[],  # published figures are of the real data
    )

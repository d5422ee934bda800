"""Evaluation over a whole split, with a live engine or an exported model."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from runner import metrics

if TYPE_CHECKING:
    from collections.abc import Callable

    from runner.contracts import Engine, Predictor
    from runner.data.loader import ImageLoader
    from runner.metrics import Evaluation


def evaluate(
    engine: Engine,
    loader: ImageLoader,
    batch_size: int,
    *,
    stopped: Callable[[], bool] = lambda: False,
) -> Evaluation | None:
    """Evaluate every image of the split exactly once; ``None`` when asked to stop on the way."""
    parts = []
    with closing(loader.eval_batches(batch_size)) as batches:
        for batch in batches:
            parts.append(engine.eval_step(batch))
            if stopped():
                return None
    # The device is waited for only here, after all work was handed to it.
    return metrics.total(part.read() for part in parts)


def evaluate_predictor(
    predictor: Predictor,
    loader: ImageLoader,
    batch_size: int,
    *,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
) -> Evaluation:
    """Evaluate an exported model over every image of the split exactly once."""
    from runner.data.normalize import normalize

    with closing(loader.eval_batches(batch_size)) as batches:
        return metrics.total(
            metrics.count_correct(
                predictor.predict(normalize(batch.images, mean, std)), batch.labels
            )
            for batch in batches
        )

"""Evaluation over a whole split, with a live engine or an exported model."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from runner import metrics
from runner.contracts import EvalCounts
from runner.errors import RunnerError
from runner.ranks import Ranks

if TYPE_CHECKING:
    from collections.abc import Callable

    from runner.artifacts import ArtifactModel
    from runner.contracts import Engine, Loader
    from runner.metrics import Evaluation


def evaluate(
    engine: Engine,
    loader: Loader,
    batch_size: int,
    *,
    ranks: Ranks | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Evaluation | None:
    """Evaluate every image of the split exactly once; ``None`` when asked to stop on the way.

    Of several ranks each evaluates a share, and all get the result of the whole; they are asked
    to stop before they begin only.
    """
    ranks = ranks or Ranks()
    if stopped():
        return None
    engine.agree()
    parts = []
    batches = loader.eval_batches(batch_size, rank=ranks.rank, world_size=ranks.world_size)
    with closing(batches):
        for batch in batches:
            parts.append(engine.eval_step(batch))
            if ranks.group is None and stopped():
                return None
    # The device is waited for only here, after all work was handed to it.
    own = metrics.add_up(part.read() for part in parts)
    top1, top5, count, loss_sum = ranks.sum([own.top1, own.top5, own.count, own.loss_sum])
    counts = EvalCounts(top1=int(top1), top5=int(top5), count=int(count), loss_sum=loss_sum)
    try:
        return metrics.total([counts])
    except RunnerError as error:
        raise ranks.together(error) from None


def evaluate_predictor(model: ArtifactModel, loader: Loader, batch_size: int) -> Evaluation:
    """Evaluate an exported model over every image of the split exactly once."""
    with closing(loader.eval_batches(batch_size)) as batches:
        return metrics.total(
            metrics.count_correct(model.logits(batch.images), batch.labels) for batch in batches
        )

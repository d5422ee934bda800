"""Evaluation over a whole split, with a live engine or an exported model."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runner.contracts import EvalCounts
from runner.distributed.ranks import Ranks
from runner.errors import RunnerError
from runner.session import metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from runner.artifacts.artifact import ArtifactModel
    from runner.contracts import Engine, Loader
    from runner.session.metrics import Evaluation


@dataclass(frozen=True, slots=True)
class Agreement:
    """How several ranks learn on the way whether they are asked to stop."""

    agree: Callable[[], None]
    """What every rank calls, equally often."""
    every_batches: int
    images: int
    """Images of the whole split."""

    def times(self, batch_size: int, world_size: int) -> int:
        """Return how often that is: as often as the rank with the largest share can."""
        share = -(-self.images // world_size)
        return -(-share // batch_size) // self.every_batches


def evaluate(
    engine: Engine,
    loader: Loader,
    batch_size: int,
    *,
    num_classes: int,
    ranks: Ranks | None = None,
    stopped: Callable[[], bool] = lambda: False,
    agreement: Agreement | None = None,
) -> Evaluation | None:
    """Evaluate every image of the split exactly once; ``None`` when asked to stop on the way.

    Of several ranks each evaluates a share, and all get the result of the whole.
    """
    ranks = ranks or Ranks()
    if stopped():
        return None
    ranks.progress.begin("evaluating")
    engine.agree()
    parts = []
    batches = loader.eval_batches(batch_size, rank=ranks.rank, world_size=ranks.world_size)
    asks = _asks(ranks, agreement, batch_size)
    with closing(batches):
        for batch in batches:
            parts.append(engine.eval_step(batch))
            ranks.progress.show()
            next(asks, None)
            if stopped():
                return None
    for _ in asks:  # a rank with fewer batches than the others
        if stopped():
            return None
    # The device is waited for only here, after all work was handed to it.
    own = metrics.add_up(part.read() for part in parts)
    ranks.progress.mark()
    top1, top5, count, loss_sum = ranks.sum([own.top1, own.top5, own.count, own.loss_sum])
    counts = EvalCounts(top1=int(top1), top5=int(top5), count=int(count), loss_sum=loss_sum)
    try:
        return metrics.total([counts], num_classes)
    except RunnerError as error:
        raise ranks.together(error) from None


def _asks(ranks: Ranks, agreement: Agreement | None, batch_size: int) -> Iterator[None]:
    """Yield once for each batch of the largest share, and agree in between."""
    if ranks.group is None or agreement is None:
        return
    for _ in range(agreement.times(batch_size, ranks.world_size)):
        for _ in range(agreement.every_batches - 1):
            yield
        agreement.agree()
        yield


def evaluate_predictor(model: ArtifactModel, loader: Loader, batch_size: int) -> Evaluation:
    """Evaluate an exported model over every image of the split exactly once."""
    with closing(loader.eval_batches(batch_size)) as batches:
        counts = (
            metrics.count_correct(model.logits(batch.images), batch.labels) for batch in batches
        )
        return metrics.total(counts, model.num_classes)

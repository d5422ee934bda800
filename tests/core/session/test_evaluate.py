"""How several ranks evaluate together and stop on the way."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import numpy as np
import pytest

from runner.contracts import Batch, EvalCounts
from runner.data.order import eval_indices
from runner.distributed.ranks import AgreedStop, Ranks
from runner.distributed.signals import StopRequest
from runner.session.evaluate import Agreement, evaluate
from runner.testing.fake_engine import Ready
from runner.testing.fake_group import FakeGroup

IMAGES, BATCH = 33, 3


class Engine:
    """Is always right, and is asked to stop in one of its batches."""

    def __init__(self, request, stops_at):
        self.request = request
        self.stops_at = stops_at
        self.batches = 0

    def agree(self):
        pass

    def eval_step(self, batch):
        if self.batches == self.stops_at:
            self.request.takes(15)
        self.batches += 1
        count = len(batch.indices)
        return Ready(EvalCounts(top1=count, top5=count, loss_sum=0.0, count=count))


class Loader:
    def eval_batches(self, batch_size, *, rank=0, world_size=1):
        images = np.zeros((batch_size, 2, 2, 3), np.uint8)
        for indices in eval_indices(IMAGES, batch_size, rank=rank, world_size=world_size):
            yield Batch(images=images[: len(indices)], labels=indices, indices=indices)


@pytest.fixture
def evaluated(tmp_path):
    """Provide a way to evaluate on ranks; it returns what each got, and its batches."""

    def run(count, stops_at=None, every=2):
        def work(rank):
            with Ranks(FakeGroup(rank, count, str(tmp_path / "socket"))) as ranks:
                request = StopRequest()
                engine = Engine(request, stops_at if rank == count - 1 else None)
                stop = AgreedStop(request, ranks)
                found = evaluate(
                    cast("Any", engine),
                    cast("Any", Loader()),
                    BATCH,
                    num_classes=2,
                    ranks=ranks,
                    stopped=lambda: stop.signal_number is not None,
                    agreement=Agreement(stop.agree, every, IMAGES),
                )
                return found, engine.batches

        with ThreadPoolExecutor(count) as pool:
            return list(pool.map(work, range(count)))

    return run


def test_ranks_with_unequal_shares_evaluate_every_image_once(evaluated):
    # Shares of 6, 7, 6, 7, 7 images: some ranks have 2 batches, others 3.
    results = evaluated(5, every=1)
    assert sorted({batches for _, batches in results}) == [2, 3]
    assert [(found.count, found.top1) for found, _ in results] == [(IMAGES, 1.0)] * 5


def test_a_request_in_an_evaluation_stops_all_ranks_at_the_same_batch(evaluated):
    assert evaluated(2, stops_at=2) == [(None, 4)] * 2


def test_a_request_in_the_last_batch_of_the_largest_share_stops_all(evaluated):
    results = evaluated(5, stops_at=2, every=3)
    assert [found for found, _ in results] == [None] * 5


def test_one_process_stops_after_the_batch_in_which_it_is_asked():
    request = StopRequest()
    engine = Engine(request, 2)
    found = evaluate(
        cast("Any", engine),
        cast("Any", Loader()),
        BATCH,
        num_classes=2,
        stopped=lambda: request.signal_number is not None,
    )
    assert (found, engine.batches) == (None, 3)

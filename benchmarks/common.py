"""What the throughput benchmarks share: Vision Runner's loop, and ratios of rates."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.distributed.ranks import AgreedStop, Ranks
from runner.distributed.signals import StopRequest
from runner.planning.loading import load
from runner.session.opening import Split, open_device, open_engine, open_split
from runner.storage.events import EventLog
from runner.training.checkpointer import Saver
from runner.training.loop import Trainer

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Sequence

    from runner.contracts import Batch

RECIPE = Path(__file__).with_name("throughput.yaml")
WARMUP = 3
CLASSES = 10


def recipe_settings(arguments: argparse.Namespace, *settings: str) -> list[str]:
    """Return the changes to the recipe for one measurement: an epoch of a few steps."""
    return [
        f"dataset.root={json.dumps(str(arguments.data.resolve()))}",
        f"model={arguments.model}",
        f"train.batch_size={arguments.batch}",
        f"train.max_steps_per_epoch={arguments.steps + WARMUP}",
        f"train.log_every_steps={WARMUP}",  # the rate of a run leaves out the first window
        *settings,
        *arguments.set,
    ]


class Ours:
    """Vision Runner's own loop, as `runner train` runs it."""

    def __init__(self, arguments: argparse.Namespace, *settings: str) -> None:
        self.plan = load(str(RECIPE), recipe_settings(arguments, *settings)).plan
        device = open_device(self.plan)
        self.train = open_split(self.plan, "train", EventLog())
        self.val = open_split(self.plan, "val", EventLog())
        self.engine = open_engine(self.plan, device, CLASSES, EventLog(), training=True)
        self.batch = next(self.train.loader.train_batches(0, batch_size=arguments.batch, steps=1))

    def fit(self, loader: Any) -> float:
        """Train one epoch from a loader and return the rate that the run reports."""
        rates = []

        def listen(event: str, fields: Any) -> None:
            if event == "epoch.finished":
                rates.append(fields["train.images_per_s"])

        events, ranks = EventLog(listen), Ranks()
        one: Any = FixedLoader(self.batch)
        with tempfile.TemporaryDirectory() as folder:
            Trainer(
                self.plan,
                self.engine,
                Split(name="train", dataset=self.train.dataset, loader=loader),
                Split(name="val", dataset=self.val.dataset, loader=one),
                ranks=ranks,
                saver=Saver(
                    self.engine,
                    ranks,
                    events,
                    section=self.plan.recipe.checkpoint,
                    folder=Path(folder),
                    classes=self.train.classes,
                    weights_kind="raw",
                    recipe_text="",
                ),
                events=events,
                finished_epoch=lambda _: None,
                stop=AgreedStop(StopRequest(), ranks),
            ).fit()
        return float(rates[0])


class FixedLoader:
    """Stands in for the loader: the same batch at every step, and something in between."""

    def __init__(self, batch: Batch, between: Callable[[], None] = lambda: None) -> None:
        self.batch = batch
        self.between = between
        self.loop_seconds: list[float] = []

    def train_batches(
        self, epoch: int, *, steps: int, first_step: int, **_: int
    ) -> Iterator[Batch]:
        for _step in range(first_step, steps):
            self.between()
            start = time.perf_counter()
            yield self.batch
            self.loop_seconds.append(time.perf_counter() - start)

    def eval_batches(self, batch_size: int, **_: int) -> Iterator[Batch]:
        yield self.batch


def loop_ratio(ours: Ours, bare_step: Callable[[], None]) -> float:
    """Return the rate of Vision Runner's loop relative to a bare one, step by step."""
    bare_seconds: list[float] = []

    def between() -> None:
        start = time.perf_counter()
        bare_step()
        bare_seconds.append(time.perf_counter() - start)

    loader = FixedLoader(ours.batch, between)
    ours.fit(loader)
    pairs = list(zip(bare_seconds, loader.loop_seconds, strict=True))[WARMUP:]
    return statistics.median(theirs / own for theirs, own in pairs)


def ratios(own: Sequence[float], base: Sequence[float]) -> list[float]:
    """Return the ratio of each round."""
    return [mine / theirs for mine, theirs in zip(own, base, strict=True)]

"""Throughput: of the loader, of training and inference on a fixed batch, and of both together.

The device is idle when a clock is read, warm-up steps come first, and every rate is the median of
several windows, given with its smallest and largest.
"""

from __future__ import annotations

import statistics
import time
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from itertools import count, islice
from typing import TYPE_CHECKING, final

from runner.errors import DeviceError
from runner.planning.plan import check_runnable
from runner.session.opening import open_device, open_engine, open_split
from runner.terminal.display import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping
    from typing import Any

    from runner.contracts import Batch, Engine
    from runner.planning.plan import Plan
    from runner.session.opening import Split
    from runner.storage.events import EventLog

WINDOWS = 5
STEPS, WARMUP = 10, 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """Images per second over several windows."""

    median: float
    low: float
    high: float


def bench(plan: Plan, events: EventLog, *, steps: int, warmup: int) -> dict[str, Any]:
    """Measure a recipe and return the figures (JSON).

    Args:
        plan: A recipe; of one that does not train, loader and inference are measured.
        events: Receives what is opened.
        steps: Steps in one of the windows.
        warmup: Steps before the first window.

    Raises:
        DeviceError: The device is not there, or the recipe asks for several.
    """
    training = plan.recipe.train is not None
    check_runnable(plan, training=training)
    if plan.recipe.device.count > 1:
        raise DeviceError(
            f"the recipe asks for {plan.recipe.device.count} devices, and bench measures one: add "
            "--devices 1, which keeps the global batch"
        )
    device = open_device(plan)
    train = open_split(plan, "train", events) if training else None
    val = open_split(plan, "val", events)
    with ExitStack() as stack:
        for split in (train, val):
            if split:
                stack.enter_context(closing(split.loader))
        engine = open_engine(plan, device, len(val.classes), events, training=training)
        bench = _Bench(plan=plan, engine=engine, steps=steps, warmup=warmup)
        figures = {**(bench.training(train) if train else {}), **bench.inference(val)}
    which = "train" if training else "inference"
    return {
        "recipe": plan.name,
        "images_per_s": {name: asdict(value) for name, value in figures.items()},
        "loader_efficiency": figures[f"{which}.from_loader"].median
        / figures[f"{which}.fixed_batch"].median,
        "batch_size": plan.recipe.train.batch_size if plan.recipe.train else None,
        "eval_batch_size": min(plan.recipe.eval.batch_size, len(val.dataset.labels)),
        "steps_per_window": steps,
        "windows": WINDOWS,
        "warmup_steps": warmup,
        "peak_memory_bytes": device.peak_memory_bytes(),
        "device": dict(device.describe()),
        "engine": dict(engine.report()),
    }


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class _Bench:
    """An open engine, and how long to look at it."""

    plan: Plan
    engine: Engine
    steps: int
    warmup: int

    def training(self, train: Split) -> dict[str, Rate]:
        """Measure the loader, training on one batch, and both together."""
        steps_per_epoch = self.plan.steps_per_epoch(len(train.dataset.labels))
        rate = self.plan.learning_rate(0, steps_per_epoch)

        def train_on(batch: Batch) -> int:
            self.engine.train_step(batch, rate)
            return len(batch.labels)

        with closing(_endless_training(self.plan, train, steps_per_epoch)) as batches:
            fixed = next(batches)
            return {
                "loader": self._measure(lambda: len(next(batches).labels)),
                "train.fixed_batch": self._measure(lambda: train_on(fixed)),
                "train.from_loader": self._measure(lambda: train_on(next(batches))),
            }

    def inference(self, val: Split) -> dict[str, Rate]:
        """Measure inference on one batch, and, if nothing is trained, the loader and both."""

        def evaluate(batch: Batch) -> int:
            self.engine.eval_step(batch)
            return len(batch.labels)

        with closing(_endless_evaluation(self.plan, val)) as batches:
            fixed = next(batches)
            figures = {"inference.fixed_batch": self._measure(lambda: evaluate(fixed))}
            if self.plan.recipe.train is None:
                figures["loader"] = self._measure(lambda: len(next(batches).labels))
                figures["inference.from_loader"] = self._measure(lambda: evaluate(next(batches)))
        return figures

    def _measure(self, step: Callable[[], int]) -> Rate:
        for _ in range(self.warmup):
            step()
        rates = []
        for _ in range(WINDOWS):
            self.engine.synchronize()
            start = time.perf_counter()
            images = sum(step() for _ in range(self.steps))
            self.engine.synchronize()
            rates.append(images / (time.perf_counter() - start))
        return Rate(median=statistics.median(rates), low=min(rates), high=max(rates))


def as_table(result: Mapping[str, Any]) -> str:
    """Write the figures of ``bench`` as text."""
    lines = [f"{'images per second':<24}{'median':>10}{'low':>10}{'high':>10}"]
    for name, rate in result["images_per_s"].items():
        lines.append(f"{name:<24}{rate['median']:>10.1f}{rate['low']:>10.1f}{rate['high']:>10.1f}")
    memory = result["peak_memory_bytes"]
    training = result["batch_size"] is not None
    lines += [
        f"{'training' if training else 'inference'} from the loader reaches "
        f"{result['loader_efficiency']:.3f} of the fixed batch",
        f"batch {result['batch_size' if training else 'eval_batch_size']}, "
        f"{counted(result['windows'], 'window')} of {counted(result['steps_per_window'], 'step')} "
        f"after {result['warmup_steps']} of warm-up",
        f"peak memory {memory / 2**20:.0f} MiB" if memory else "peak memory unknown on this device",
    ]
    return "\n".join(lines)


def _endless_training(
    plan: Plan, train: Split, steps_per_epoch: int
) -> Generator[Batch, None, None]:
    """Yield full training batches, epoch after epoch."""
    size = plan.train.batch_size
    steps = len(train.dataset.labels) // size or steps_per_epoch
    for epoch in count():
        with closing(train.loader.train_batches(epoch, batch_size=size, steps=steps)) as batches:
            yield from islice(batches, steps)


def _endless_evaluation(plan: Plan, val: Split) -> Generator[Batch, None, None]:
    """Yield the batches of an evaluation, again and again."""
    while True:
        with closing(val.loader.eval_batches(plan.recipe.eval.batch_size)) as batches:
            yield from batches

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
from typing import TYPE_CHECKING

from runner.errors import DeviceError
from runner.plan import check_runnable
from runner.session import open_device, open_engine, open_split

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from typing import Any

    from runner.contracts import Batch
    from runner.events import EventLog
    from runner.plan import Plan
    from runner.session import Split

WINDOWS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """Images per second over several windows."""

    median: float
    low: float
    high: float


def bench(plan: Plan, events: EventLog, *, steps: int, warmup: int) -> dict[str, Any]:
    """Measure a recipe and return the figures (JSON).

    Args:
        plan: A recipe that trains.
        events: Receives what is opened.
        steps: Steps in one of the windows.
        warmup: Steps before the first window.

    Raises:
        DeviceError: The device is not there, or the recipe asks for several.
    """
    check_runnable(plan, training=plan.train is not None)
    if plan.recipe.device.count > 1:
        raise DeviceError(
            f"the recipe asks for {plan.recipe.device.count} devices, and bench measures one: add "
            "--devices 1, which keeps the global batch"
        )
    device = open_device(plan)
    train, val = open_split(plan, "train", events), open_split(plan, "val", events)
    with ExitStack() as stack:
        stack.enter_context(closing(train.loader))
        stack.enter_context(closing(val.loader))
        engine = open_engine(plan, device, len(train.classes), events, training=True)
        rate = plan.learning_rate(0, plan.steps_per_epoch(len(train.dataset.labels)))
        batches = stack.enter_context(closing(_endless(plan, train)))
        fixed = next(batches)
        with closing(val.loader.eval_batches(plan.recipe.eval.batch_size)) as evaluation:
            fixed_eval = next(evaluation)

        def train_on(batch: Batch) -> int:
            engine.train_step(batch, rate)
            return len(batch.labels)

        def evaluate_fixed() -> int:
            engine.eval_step(fixed_eval)
            return len(fixed_eval.labels)

        def measure(step: Callable[[], int]) -> Rate:
            return _measure(step, engine.synchronize, steps=steps, warmup=warmup)

        figures = {
            "loader": measure(lambda: len(next(batches).labels)),
            "train.fixed_batch": measure(lambda: train_on(fixed)),
            "train.from_loader": measure(lambda: train_on(next(batches))),
            "inference.fixed_batch": measure(evaluate_fixed),
        }
    return {
        "recipe": plan.name,
        "images_per_s": {name: asdict(value) for name, value in figures.items()},
        "loader_efficiency": figures["train.from_loader"].median
        / figures["train.fixed_batch"].median,
        "batch_size": len(fixed.labels),
        "eval_batch_size": len(fixed_eval.labels),
        "steps_per_window": steps,
        "windows": WINDOWS,
        "warmup_steps": warmup,
        "peak_memory_bytes": device.peak_memory_bytes(),
        "device": dict(device.describe()),
        "engine": dict(engine.report()),
    }


def as_table(result: dict[str, Any]) -> str:
    """Write the figures of ``bench`` as text."""
    lines = [f"{'images per second':<24}{'median':>10}{'low':>10}{'high':>10}"]
    for name, rate in result["images_per_s"].items():
        lines.append(f"{name:<24}{rate['median']:>10.1f}{rate['low']:>10.1f}{rate['high']:>10.1f}")
    memory = result["peak_memory_bytes"]
    lines += [
        f"training from the loader reaches {result['loader_efficiency']:.3f} of the fixed batch",
        f"batch {result['batch_size']}, {result['windows']} windows of "
        f"{result['steps_per_window']} steps after {result['warmup_steps']} of warm-up",
        f"peak memory {memory / 2**20:.0f} MiB" if memory else "peak memory unknown on this device",
    ]
    return "\n".join(lines)


def _measure(
    step: Callable[[], int], synchronize: Callable[[], None], *, steps: int, warmup: int
) -> Rate:
    for _ in range(warmup):
        step()
    rates = []
    for _ in range(WINDOWS):
        synchronize()
        start = time.perf_counter()
        images = sum(step() for _ in range(steps))
        synchronize()
        rates.append(images / (time.perf_counter() - start))
    return Rate(median=statistics.median(rates), low=min(rates), high=max(rates))


def _endless(plan: Plan, train: Split) -> Generator[Batch, None, None]:
    """Yield full training batches, epoch after epoch."""
    size = plan.train.batch_size
    steps = len(train.dataset.labels) // size or plan.steps_per_epoch(len(train.dataset.labels))
    for epoch in count():
        with closing(train.loader.train_batches(epoch, batch_size=size, steps=steps)) as batches:
            yield from islice(batches, steps)

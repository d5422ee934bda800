"""Throughput and latency of a trained model: an exported artifact, or a checkpoint on its device.

Every call gets the same images and is waited for. Decoding is no part of it; for an artifact
neither is normalising, where the host does that.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING

from runner.artifacts import artifact as artifacts
from runner.artifacts import classifier
from runner.data.transforms.options import fixed_size
from runner.errors import UsageError
from runner.plugins import loading
from runner.session.opening import open_device
from runner.storage import checkpoint
from runner.storage.events import EventLog
from runner.terminal.display import counted
from runner.training.model_plan import plan_for

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    import numpy as np
    from numpy.typing import NDArray

    from runner.data.transforms.options import Transform
    from runner.storage.events import Listener

BATCH_SIZE = 1
WARMUP, STEPS = 200, 100
PERCENTILES = (50, 90, 95, 99)


def is_model(text: str) -> bool:
    """Say whether a text is the path of an artifact, a checkpoint or a run, and no recipe."""
    path = Path(text)
    return (
        artifacts.is_artifact(path)
        or (path / checkpoint.INFO).is_file()
        or (path / "checkpoints").is_dir()
    )


def bench(
    path: Path,
    overrides: Sequence[str],
    *,
    batch_size: int | None,
    steps: int,
    warmup: int,
    listener: Listener | None = None,
    trusted: bool = False,
) -> dict[str, Any]:
    """Measure a model and return the figures (JSON).

    Args:
        path: An exported artifact, a checkpoint, or a run.
        overrides: Changes to the recipe of a checkpoint.
        batch_size: Images in one call; 1, or what an artifact is fixed to, if ``None``.
        steps: Calls that are measured.
        warmup: Calls before them.
        listener: Learns what happens.
        trusted: Whether code that comes with an artifact may run.

    Raises:
        UsageError: ``path`` is none of these, an artifact takes other batches, or an override has
            no effect on it.
        ArtifactError: Nothing here runs the artifact.
    """
    if artifacts.is_artifact(path):
        if overrides:
            raise UsageError(
                "an artifact runs as it is, in its own runtime: --set and --device have no effect "
                "on it"
            )
        artifact = artifacts.read(path, trusted=trusted)
        artifacts.tell_unchecked(artifact, EventLog(listener))
        size = artifacts.batch_size(artifact, batch_size, otherwise=BATCH_SIZE)
        model = artifacts.open_predictor(artifact, loading.load())
        inputs = model.inputs(_images(artifact.transforms, size))
        seconds = _time(lambda: model.predict(inputs), steps=steps, warmup=warmup)
        what = {"runtime": dict(model.describe())}
    else:
        size = batch_size or BATCH_SIZE
        opened, device = _open_checkpoint(path, overrides, EventLog(listener))
        images = _images(opened.transforms, size)
        seconds = _time(lambda: opened.logits(images), steps=steps, warmup=warmup)
        what = {"device": device}
    return {
        "model": str(path),
        **_figures(seconds, size),
        "batch_size": size,
        "steps": steps,
        "warmup_steps": warmup,
        **what,
    }


def as_table(result: Mapping[str, Any]) -> str:
    """Write the figures of ``bench`` as text."""
    rate, latency = result["images_per_s"], result["latency_ms"]
    named = "  ".join(f"p{at} {latency[f'p{at}']:.2f}" for at in PERCENTILES)
    return (
        f"{rate['mean']:.1f} images/s: batch {result['batch_size']} / {latency['mean']:.3f} ms, "
        f"the mean of {counted(result['steps'], 'call')} after {result['warmup_steps']} of "
        f"warm-up\nsingle calls: median {rate['median']:.1f}, low {rate['low']:.1f}, "
        f"high {rate['high']:.1f} images/s\n"
        f"latency in ms: {named}"
    )


def _open_checkpoint(
    path: Path, overrides: Sequence[str], events: EventLog
) -> tuple[classifier.Classifier, dict[str, Any]]:
    registry = loading.load()
    [found] = classifier.checkpoints_at(path)
    plan = plan_for(found, overrides, None, registry, events)
    device = open_device(plan)
    _, opened = next(classifier.open_all(found, plan, device, (), events, registry))
    return opened, dict(device.describe())


def _images(transforms: Sequence[Transform], count: int) -> NDArray[np.uint8]:
    """Draw images ``[B, H, W, C]`` of the size that the model takes, always the same."""
    import numpy as np

    height, width = fixed_size(transforms)
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def _time(call: Callable[[], object], *, steps: int, warmup: int) -> list[float]:
    """Return the seconds of each measured call."""
    for _ in range(warmup):
        call()
    seconds = []
    for _ in range(steps):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return seconds


def _figures(seconds: Sequence[float], batch_size: int) -> dict[str, Any]:
    import numpy as np

    mean = statistics.fmean(seconds)
    percentiles = np.percentile(seconds, PERCENTILES)
    return {
        "images_per_s": {
            "mean": batch_size / mean,
            "median": batch_size / statistics.median(seconds),
            "low": batch_size / max(seconds),
            "high": batch_size / min(seconds),
        },
        "latency_ms": {
            "mean": 1000 * mean,
            **{
                f"p{at}": 1000 * float(value)
                for at, value in zip(PERCENTILES, percentiles, strict=True)
            },
        },
    }

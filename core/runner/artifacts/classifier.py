"""A trained model behind one interface: a checkpoint on its framework, or an exported artifact."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from runner.artifacts import artifact as artifacts
from runner.errors import UsageError
from runner.session.evaluate import evaluate, evaluate_predictor
from runner.session.opening import open_engine
from runner.storage import checkpoint, rundir
from runner.weights import given

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from runner.contracts import Device, Engine
    from runner.data.decode_options import Decoding
    from runner.data.transforms.options import Transform
    from runner.planning.plan import Plan
    from runner.plugins.registry import Registry
    from runner.session.metrics import Evaluation
    from runner.session.opening import Split
    from runner.storage.events import EventLog


@dataclass(frozen=True, slots=True, kw_only=True)
class Classifier:
    """Predicts classes for pixels."""

    classes: tuple[str, ...]
    transforms: Sequence[Transform]
    decoding: Decoding
    """How encoded images become pixels."""
    logits: Callable[[NDArray[np.uint8]], NDArray[np.float32]]
    """Logits ``[B, K]`` for pixels ``[B, H, W, C]``."""
    evaluate: Callable[[Split, int], Evaluation]
    """Evaluation over a split, in batches of some size."""


def checkpoints_at(path: Path) -> list[Path]:
    """Return the checkpoints that a path stands for.

    A checkpoint stands for itself, a run for its best checkpoint (the latest when none is marked),
    a folder of checkpoints for all of them.

    Raises:
        UsageError: There is no checkpoint.
    """
    if (path / checkpoint.INFO).is_file():
        return [path]
    if (path / "checkpoints").is_dir():
        return [checkpoint.of_run(rundir.RunDir(path).checkpoints)]
    found = checkpoint.listing(path) if path.is_dir() else []
    if not found:
        raise UsageError(
            f"{path} is neither a checkpoint, nor a run, nor a folder of checkpoints, nor an "
            "exported artifact (runner eval also takes weights files, and folders of them); "
            "expected a path such as runs/quickstart/20260131-120000"
        )
    return found


def open_all(
    path: Path,
    plan: Plan,
    device: Device,
    classes: tuple[str, ...],
    events: EventLog,
    registry: Registry,
    *,
    choice: str | None = None,
) -> Iterator[tuple[Path, Classifier]]:
    """Open all weights that a path stands for, one after the other, on one engine.

    Args:
        path: A weights file, a checkpoint, a run, or a folder of checkpoints or of weights files.
        plan: The recipe that builds the model.
        device: Where it is evaluated.
        classes: Names of the data's classes; empty where there is no data, and the weights must
            come with theirs.
        events: Receives what is opened.
        registry: The frameworks, of which one may know the format of a weights file.
        choice: Which of several sets of tensors to take, as in ``weights.load``.

    Raises:
        CheckpointError: Weights are damaged, do not fit the model, or are of other classes.
    """
    engine: Engine | None = None
    for item in given.files_at(path, registry) or checkpoints_at(path):
        source = given.read(item, plan.framework_entry, registry)
        known = classes or source.classes
        if engine is None:
            engine = open_engine(plan, device, len(known), events, training=False)
        given.load(engine, plan, source, events, path=item, classes=known, choice=choice)
        yield item, _from_engine(plan, engine, known)


def _from_engine(plan: Plan, engine: Engine, classes: tuple[str, ...]) -> Classifier:
    def run(split: Split, batch_size: int) -> Evaluation:
        evaluation = evaluate(engine, split.loader, batch_size, num_classes=len(split.classes))
        assert evaluation is not None, "nothing asks it to stop"
        return evaluation

    return Classifier(
        classes=classes,
        transforms=plan.recipe.transforms.eval,
        decoding=plan.recipe.dataset.decoding,
        logits=engine.predict,
        evaluate=run,
    )


def open_artifact(
    path: Path, events: EventLog, registry: Registry, *, trusted: bool = False
) -> Classifier:
    """Load an exported artifact; the framework that wrote it is not needed.

    Args:
        path: The artifact.
        events: Receives what should be known of it.
        registry: The runtimes.
        trusted: Whether code that comes with it may run.

    Raises:
        ArtifactError: It is damaged, or nothing installed can run it.
    """
    artifact = artifacts.read(path, trusted=trusted)
    artifacts.tell_unchecked(artifact, events)
    model = artifacts.open_predictor(artifact, registry)
    return Classifier(
        classes=artifact.classes,
        transforms=artifact.transforms,
        decoding=artifact.decoding,
        logits=model.logits,
        evaluate=lambda split, size: evaluate_predictor(model, split.loader, size),
    )

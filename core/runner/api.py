"""What the commands do; ``cli`` parses their arguments and prints what they return."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from runner.artifacts import artifact as artifacts
from runner.artifacts import classifier, export, verification
from runner.data.decode_options import Noticed
from runner.errors import UsageError
from runner.planning.plan import check_runnable
from runner.plugins import loading
from runner.session.opening import open_device, open_engine, open_split
from runner.storage import checkpoint, paths, records, rundir
from runner.storage.events import EventLog
from runner.training import run
from runner.training.model_plan import MODEL_PATHS, plan_for, refuse_device
from runner.weights import given as weights

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from runner.artifacts.predict import Prediction
    from runner.data.decode_options import Notice
    from runner.storage.events import Listener


def evaluate(
    path: Path,
    overrides: Sequence[str],
    *,
    recipe_name: str | None,
    listener: Listener | None,
    trusted: bool = False,
    choice: str | None = None,
) -> Iterator[dict[str, Any]]:
    """Evaluate a checkpoint, a run, every checkpoint of a folder, an artifact, or a weights file.

    Yields one result for each (JSON).

    Args:
        path: What to evaluate.
        overrides: Changes to the recipe, such as another ``dataset.root``.
        recipe_name: The recipe to use in place of the one that a run carries; a weights file
            that is not in a run needs it.
        listener: Learns what happens.
        trusted: Whether code that comes with an artifact may run.
        choice: Which of several sets of tensors to take, as in ``weights.load``.

    Raises:
        CheckpointError: The classes of the data are not those of the model.
    """
    registry = loading.load().registry
    events = EventLog(listener)
    resolved = plan_for(path, overrides, recipe_name, registry, events)
    if artifacts.is_artifact(path):
        refuse_device(overrides, choice)
        artifact = classifier.open_artifact(path, events, registry, trusted=trusted)
        # an artifact brings its own pre-processing, whatever the recipe says by now
        split = open_split(resolved, "val", events, artifact.transforms, artifact.decoding)
        models = iter([(path, artifact)])
    else:
        device = open_device(resolved)
        split = open_split(resolved, "val", events)
        models = classifier.open_all(
            path, resolved, device, split.classes, events, registry, choice=choice
        )
    with closing(split.loader):
        for item, model in models:
            checkpoint.check_classes(model.classes, split.classes, "the dataset", model=item)
            metrics = model.evaluate(split, resolved.recipe.eval.batch_size).as_metrics()
            yield {
                "path": str(item),
                "metrics": metrics,
                "reference": run.compare(resolved, metrics),
            }


def predict(
    model: Path,
    images: Sequence[Path],
    overrides: Sequence[str],
    *,
    top: int,
    batch_size: int,
    listener: Listener | None = None,
    trusted: bool = False,
    choice: str | None = None,
) -> list[Prediction]:
    """Predict image files with a checkpoint, a run or an artifact.

    Args:
        model: What predicts.
        images: Files, and folders of files.
        overrides: Changes to the recipe of a checkpoint.
        top: Classes of each image.
        batch_size: Images in one pass.
        listener: Learns what should be known of the model.
        trusted: Whether code that comes with an artifact may run.
        choice: Which of several sets of tensors to take, as in ``weights.load``.

    Raises:
        UsageError: ``model`` stands for several checkpoints, or there is no image.
    """
    from runner.artifacts import predict as prediction

    files = prediction.find_images(images)
    registry = loading.load().registry
    events = EventLog()
    found_in_images = EventLog(listener)

    def report(notice: Notice) -> None:
        found_in_images.emit("data.noticed", split="images", **asdict(notice))

    paths.check_there(model, MODEL_PATHS)
    if artifacts.is_artifact(model):
        refuse_device(overrides, choice)
        if overrides:
            raise UsageError("an artifact carries all that predicts: --set has no effect on it")
        opened = classifier.open_artifact(model, found_in_images, registry, trusted=trusted)
    else:
        found = classifier.checkpoints_at(model)
        if len(found) > 1:
            raise UsageError(
                f"{model} holds {len(found)} checkpoints; name one, such as {found[-1]}"
            )
        if not checkpoint.read_info(found[0]).checked:
            found_in_images.emit("warning", message=records.without_checksum(found))
        resolved = plan_for(found[0], overrides, None, registry, found_in_images)
        device = open_device(resolved)
        models = classifier.open_all(
            found[0], resolved, device, (), events, registry, choice=choice
        )
        _, opened = next(models)
    noticed = Noticed(report)
    predictions = prediction.predict(opened, files, batch_size=batch_size, top=top, noticed=noticed)
    return list(predictions)


def export_checkpoint(
    path: Path,
    overrides: Sequence[str],
    *,
    formats: Sequence[str],
    output: Path | None,
    listener: Listener | None,
    choice: str | None = None,
) -> list[dict[str, Any]]:
    """Export a checkpoint or the best of a run, in the formats named or those of its recipe.

    Raises:
        UsageError: Neither the command nor the recipe names a format.
    """
    registry = loading.load().registry
    events = EventLog(listener)
    paths.check_there(path, MODEL_PATHS)
    found = classifier.checkpoints_at(path)[-1]
    resolved = plan_for(found, overrides, None, registry, events)
    listed = [item.name for item in resolved.recipe.export]
    fresh = [name for name in formats if name not in listed]
    if fresh:
        added = [f"export.{len(listed) + n}={{name: {name}}}" for n, name in enumerate(fresh)]
        resolved = plan_for(found, [*overrides, *added], None, registry, EventLog())
    if not resolved.recipe.export:
        raise UsageError("the recipe lists nothing under `export`; name a format: --format onnx")
    check_runnable(resolved, training=False, exporting=True)
    device = open_device(resolved)
    val = open_split(resolved, "val", events)
    with closing(val.loader):
        source = weights.read(found, resolved.framework_entry, registry)
        engine = open_engine(resolved, device, len(val.classes), events, training=False)
        weights.load(
            engine, resolved, source, events, path=found, classes=val.classes, choice=choice
        )
        return [
            export.carry_out(
                resolved,
                position,
                engine=engine,
                val=val,
                folder=output or _exports_of(found),
                registry=registry,
                events=events,
            )
            for position, item in enumerate(resolved.recipe.export)
            if not formats or item.name in formats
        ]


def verify(
    path: Path,
    *,
    tolerance: float | None = None,
    trusted: bool = False,
    listener: Listener | None = None,
) -> tuple[artifacts.Artifact, verification.Verification]:
    """Replay an artifact's stored images and compare with the live model's answers.

    Args:
        path: The artifact.
        tolerance: Largest difference that agrees; what the artifact says if ``None``, which its
            exporter must then allow.
        trusted: Whether code that comes with the artifact may run.
        listener: Learns what should be known of the artifact.

    Raises:
        ArtifactError: The artifact is damaged, or allows more than its exporter, or nothing
            installed can run it.
    """
    registry = loading.load().registry
    artifact = artifacts.read(path, trusted=trusted)
    allowed = verification.allowed(artifact, tolerance, registry)
    artifacts.tell_unchecked(artifact, EventLog(listener))
    artifact = replace(artifact, tolerance=allowed)
    model = artifacts.open_predictor(artifact, registry)
    return artifact, verification.verify(artifact, model)


def _exports_of(path: Path) -> Path:
    folder = rundir.find(path)
    folder.check_own()
    return folder.exports

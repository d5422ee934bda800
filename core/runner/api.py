"""What the commands do; ``cli`` parses their arguments and prints what they return."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner import recipe
from runner.artifacts import artifact as artifacts
from runner.artifacts import classifier, export, verification
from runner.data.decode_options import Noticed
from runner.distributed.launching import start as launch
from runner.distributed.ranks import telling_alone
from runner.distributed.reporting import reporter
from runner.distributed.slurm.place import alone_in_pod, take_place
from runner.errors import DataError, RecipeError, UsageError
from runner.planning import notes, plan, smoke
from runner.planning.plan import check_runnable
from runner.plugins import loading
from runner.recipe.framework_change import framework_of
from runner.session.opening import open_device, open_engine, open_split
from runner.storage import checkpoint, paths, records, rundir
from runner.storage.events import EventLog
from runner.terminal.display import counted
from runner.training import consistency, run
from runner.training import resume as continuing
from runner.training.consistency import ON_REQUEST, RESUMABLE
from runner.weights import given as weights

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from runner.artifacts.predict import Prediction
    from runner.data.decode_options import Notice
    from runner.planning.plan import Plan
    from runner.plugins.loading import Plugins
    from runner.plugins.registry import Registry
    from runner.recipe import Document
    from runner.recipe.schema import Recipe
    from runner.storage.events import Listener

MODEL_PATHS = "a run, a checkpoint, an exported artifact or a weights file"
"""What commands that take a model expect at a path."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A recipe that was found, read, checked and planned."""

    plan: Plan
    document: Document
    plugins: Plugins


def load(
    name: str, overrides: Sequence[str] = (), *, shortened: bool = False, allow_unset: bool = False
) -> Loaded:
    """Turn a recipe's name or path and the overrides into a plan.

    Environment variables without a value stand as they are written; the plan refuses to open data
    while there are any.

    Args:
        name: A path, or the name of a recipe that ships with runner or a plugin.
        overrides: Texts such as ``train.epochs=3``.
        shortened: Train a few steps on a few of the images, or synthetic ones.
        allow_unset: Do not count variables without a value among what is wrong.

    Raises:
        RecipeError: The recipe or an override is wrong.
        UsageError: There is no such recipe.
    """
    loaded = loading.load()
    registry = loaded.registry
    path = recipe.find(name, registry)
    document = recipe.compose(
        path, overrides, environ=os.environ, allow_unset=True, registry=registry
    )
    unset = () if shortened else tuple(variable.problem() for variable in document.unset)
    try:
        checked = recipe.validate(document, registry)
    except RecipeError:
        if unset and not allow_unset:  # everything that is wrong is reported at once
            recipe.validate(replace(document, problems=(*document.problems, *unset)), registry)
        raise
    try:
        paths.check_name(path.stem)
    except ValueError as error:
        raise UsageError(
            f"{path}: the name of a recipe's file is that of its run folders: {error}"
        ) from None
    if shortened:
        resolved = smoke.plan_of(f"{path.stem}-smoke", checked, registry)
    else:
        remark = notes.batch_of_another_size(
            document,
            checked,
            lambda file: recipe.compose(
                file, environ=os.environ, allow_unset=True, registry=registry
            ),
        )
        resolved = plan.resolve(path.stem, checked, registry, unset=unset)
        resolved = replace(resolved, remarks=(remark,) if remark else ())
    resolved = replace(resolved, remarks=(*document.notes, *resolved.remarks))
    return Loaded(plan=resolved, document=document, plugins=loaded)


def start(loaded: Loaded, runs_dir: Path, request: run.Request) -> dict[str, Any] | None:
    """Carry out a recipe; of several processes the one that started them returns the result.

    Raises:
        SystemExit: Processes that were started for several devices have failed.
    """
    own = reporter.of_process()
    with telling_alone(own):
        _take_place(loaded.plan, request)
        resolved = _as_launched(loaded.plan)
        needed = launch.is_needed(resolved, request.machines)
    request = replace(request, devices=loaded.plan.recipe.device.count)
    if needed:
        return _launch(resolved, runs_dir / resolved.name, request)
    return own.hand_over(run.start(resolved, loaded.plugins, runs_dir, request))


def _take_place(resolved: Plan, request: run.Request) -> None:
    """Become a rank where a batch system says so; tell where others are left out."""
    take_place(resolved, request.machines)
    alone = alone_in_pod(resolved, request.machines)
    if alone:
        EventLog(request.listener).emit("warning", message=alone)


def resume(path: Path, overrides: Sequence[str], request: run.Request) -> dict[str, Any] | None:
    """Continue a run from a checkpoint, or from its latest; return the result of a finished one.

    Raises:
        UsageError: An override would change what the model sees, the run's recipe was edited, or
            the run is finished and a checkpoint of it is named.
        ArtifactError: The run is finished, and an export of it has failed.
        SystemExit: Processes that were started for several devices have failed.
    """
    own = reporter.of_process()
    with telling_alone(own):
        paths.check_there(path, "a run, or one of its checkpoints")
        folder = rundir.find(path)
        source = path if checkpoint.is_complete(path) else None
        _check_resumable(overrides)
        manifest = folder.read_manifest()
        loaded = loading.load()
        registry = loaded.registry
        document = recipe.compose(folder.recipe, overrides, environ=os.environ)
        checked = recipe.validate(document, registry)
        resolved = plan.resolve(str(manifest["recipe"]), checked, registry)
        if not own.continues:
            finished = _finished(folder, source, checked, registry)
            if finished is not None:
                continuing.changed(folder, None, checked, overrides, registry)
                return finished if _speaks(resolved) else None
        changed = continuing.changed(folder, source, checked, overrides, registry)
        _take_place(resolved, request)
        resolved = _as_launched(resolved)
        needed = launch.is_needed(resolved, request.machines)
    request = replace(request, devices=checked.device.count)
    if needed:
        request = replace(request, export=manifest["export"])
        return _launch(resolved, folder.path.parent, request)
    try:
        return own.hand_over(run.resume(resolved, loaded, folder, source, request, changed))
    except DataError as error:
        if manifest["folder"] == str(Path.cwd()):
            raise
        moved = DataError(
            f"{error}; the run was started in {manifest['folder']}, where its paths begin"
        )
        moved.rank, moved.exit_code = error.rank, error.exit_code
        raise moved from error


def _finished(
    folder: rundir.RunDir, source: Path | None, checked: Recipe, registry: Registry
) -> dict[str, Any] | None:
    """Return the result of a run that is finished, and is not to train longer than it has."""
    result = folder.read_result()
    if result is None or ("epochs" in result and checked.train and _is_longer(checked, result)):
        return None
    if source:
        raise UsageError(
            f"{folder.path} is finished; to go back to {source}, remove {folder.result} first"
        )
    _refuse_without_effect(folder, checked, result, registry)
    export.check_all(result.get("exports", ()))
    return result


def _refuse_without_effect(
    folder: rundir.RunDir, checked: Recipe, result: Mapping[str, Any], registry: Registry
) -> None:
    """Refuse changes that a finished run has no use for, rather than print its result as theirs."""
    begun = recipe.validate(recipe.compose(folder.recipe, (), environ=os.environ), registry)
    before, here = (consistency.values(item, consistency.RESUMABLE) for item in (begun, checked))
    found = [f"{key}: {old} -> {new}" for key, old, new in consistency.changes(before, here)]
    if not found:
        return
    epochs = result.get("epochs")
    done = f" after {counted(epochs, 'epoch')}" if epochs is not None else ""
    ways = f"start a new run with model.weights={folder.path}"
    if result.get("reached_target"):
        done += ", where it reached train.target_top1"
    elif epochs is not None:
        ways = f"set train.epochs to more than {epochs}, or {ways}"
    raise UsageError(
        f"{folder.path} is finished{done}, so this has no effect: {'; '.join(found)}; to train it "
        f"further, {ways}; `runner eval` and `runner export` evaluate and export it as it is"
    )


def _speaks(resolved: Plan) -> bool:
    """Say whether this process is the first of its machine, or none that a launcher has started."""
    ask = resolved.framework_entry.launched_local_rank
    return not ask or not ask()


def _is_longer(checked: Recipe, result: Mapping[str, Any]) -> bool:
    assert checked.train
    return checked.train.epochs > result["epochs"] and not result.get("reached_target")


def _check_resumable(overrides: Sequence[str]) -> None:
    for text in overrides:
        if not text.startswith((*RESUMABLE, *ON_REQUEST)):
            keys = ", ".join(key.rstrip("=.") for key in (*RESUMABLE, *ON_REQUEST))
            raise UsageError(
                f"--set {text} would turn it into a different experiment; only {keys} may change: "
                "start a new run with model.weights instead"
            )


def _as_launched(resolved: Plan) -> Plan:
    """Return the plan for as many processes as a launcher has started, where these may be fewer.

    Raises:
        UsageError: They cannot share the batch.
    """
    asked, least = resolved.recipe.device.count, resolved.recipe.distributed.min_devices
    ask = resolved.framework_entry.launched_world_size
    launched = ask() if ask else None
    if launched is None or least is None or not least <= launched < asked:
        return resolved
    return resolved.with_devices(launched)


def _launch(resolved: Plan, folder: Path, request: run.Request) -> dict[str, Any] | None:
    """Start one process for each device, and return the result of the run."""
    if request.signals:
        request.signals.release()  # a child inherits what is held back
    return launch.carry_out(
        resolved,
        request.command,
        folder,
        EventLog(request.listener),
        exporting=request.export,
        machines=request.machines,
    )


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


def plan_for(
    path: Path,
    overrides: Sequence[str],
    recipe_name: str | None,
    registry: Registry,
    events: EventLog,
) -> Plan:
    """Return the plan of a named recipe, or of the one that a checkpoint or its run carries.

    Where an override changes its framework, its exports are left out: they are the other's.

    Raises:
        UsageError: There is no such path, or no recipe in it.
    """
    _refuse_weights(overrides)
    paths.check_there(path, MODEL_PATHS)
    file = recipe.find(recipe_name, registry) if recipe_name else _carried(path)
    overrides = [*overrides, *_without_exports(file, overrides, registry)]
    if recipe_name:
        loaded = load(recipe_name, overrides)
        document, resolved = loaded.document, loaded.plan
    else:
        document = recipe.compose(file, overrides, environ=os.environ, registry=registry)
        checked = recipe.validate(document, registry)
        resolved = plan.resolve(_name(file.parent), checked, registry)
    edited = "" if recipe_name else continuing.unused_edit(path / "recipe.yaml", file, registry)
    for text in filter(None, (*document.notes, edited)):
        events.emit("warning", message=text)
    return resolved


def _carried(path: Path) -> Path:
    """Return the recipe of a checkpoint, or of its run."""
    alone = path.is_file() or artifacts.is_artifact(path)
    carried = path if alone else classifier.checkpoints_at(path)[0]
    if checkpoint.is_complete(carried):
        return checkpoint.checked_recipe(carried)
    return _run_of(carried).recipe


def _without_exports(file: Path, overrides: Sequence[str], registry: Registry) -> list[str]:
    keys = [text.partition("=")[0] for text in overrides]
    if not {"framework", "framework.name"} & set(keys) or any(k[:6] == "export" for k in keys):
        return []
    before, after = (
        recipe.compose(file, given, environ=os.environ, allow_unset=True, registry=registry).root
        for given in ((), overrides)
    )
    return ["export=[]"] if framework_of(before) != framework_of(after) else []


def _refuse_weights(overrides: Sequence[str]) -> None:
    if any(text.startswith("model.weights") for text in overrides):
        raise UsageError(
            "the weights are those of the model that the command names: model.weights has no "
            "effect; of several sets in it, --weights chooses one"
        )


def refuse_device(overrides: Sequence[str], choice: str | None = None) -> None:
    """Refuse a device, a framework or a choice of weights for what runs in its own runtime.

    Raises:
        UsageError: One is given.
    """
    for key in ("device", "framework"):
        if any(text.startswith(key) for text in overrides):
            raise UsageError(f"an artifact runs in its own runtime: --{key} has no effect on it")
    if choice is not None:
        raise UsageError("an artifact has one set of weights: --weights has no effect on it")


def _exports_of(path: Path) -> Path:
    folder = rundir.find(path)
    folder.check_own()
    return folder.exports


def _run_of(path: Path) -> rundir.RunDir:
    try:
        return rundir.find(path)
    except UsageError as error:
        raise UsageError(f"{error}; or name the recipe with --recipe") from None


def _name(path: Path) -> str:
    try:
        folder = rundir.find(path)
    except UsageError:
        return path.name
    return str(folder.read_manifest()["recipe"])

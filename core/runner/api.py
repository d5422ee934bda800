"""What a program calls: train, evaluate, predict, export, measure, explain.

The command line is the first user of these functions. They raise the errors of ``runner.errors``,
print nothing, and leave signals alone unless they are asked to hear them. Recipes are names, paths
or mappings; overrides are values by dotted key, or texts as ``--set`` takes them.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union, final

from runner.artifacts import artifact as artifacts
from runner.artifacts import classifier, verification
from runner.artifacts import export as exporting
from runner.artifacts import predict as prediction
from runner.artifacts.predict import Prediction
from runner.artifacts.verification import Verification
from runner.benchmark import model as bench_model
from runner.benchmark import recipe as bench_recipe
from runner.data.decode_options import Noticed
from runner.distributed.launching.shell import Start
from runner.distributed.machines import Machines
from runner.distributed.signals import SIGNALS, Signals
from runner.errors import InterruptedRunError, PluginError, StopRun, UsageError, of_process
from runner.planning.loading import load
from runner.planning.plan import check_runnable
from runner.plugins import kinds, listing, loading
from runner.recipe import as_yaml, list_recipes, resolved
from runner.recipe.overrides import as_texts
from runner.results import Artifact, Benchmark, Evaluation, Model, Preprocessing, Run
from runner.session.opening import open_device, open_engine, open_split
from runner.storage import checkpoint, paths, records, rundir
from runner.storage.events import EventLog
from runner.training import dispatch, explanation
from runner.training.model_plan import MODEL_PATHS, plan_for, refuse_device
from runner.training.run import Request, compare
from runner.weights import given

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from runner.contracts import Engine
    from runner.data.decode_options import Notice
    from runner.distributed.launching.task import Task
    from runner.planning.loading import Loaded
    from runner.planning.plan import Plan
    from runner.plugins.listing import Listed
    from runner.plugins.registry import Registry
    from runner.recipe import RecipeListing
    from runner.session.opening import Split
    from runner.storage.events import Listener

__all__ = [
    "Artifact",
    "Benchmark",
    "Evaluation",
    "Model",
    "Prediction",
    "RecipePlan",
    "Run",
    "StopRun",
    "Verification",
    "bench",
    "evaluate",
    "evaluate_all",
    "explain",
    "export",
    "list_entries",
    "load_model",
    "load_recipe",
    "load_run",
    "predict",
    "resume",
    "run",
    "train",
    "verify",
]

RUNS = Path("runs")
"""Where run folders are made, unless another place is named."""

Recipe = str | Path | Mapping[str, object]
Overrides = Mapping[str, object] | Sequence[str]
Listeners = Union["Listener", Sequence["Listener"]]
Trained = str | Path | Run | Artifact
"""A run, a checkpoint, an artifact or a weights file: what was returned, or its path."""


@final
class _Heard:
    """Passes events to listeners, and notes what they ask."""

    def __init__(self, listeners: Listeners, signals: Signals | None = None) -> None:
        found = [listeners] if callable(listeners) else listeners
        if not isinstance(found, Sequence) or not all(_takes_events(item) for item in found):
            raise UsageError(
                f"listeners is {listeners!r}; expected functions that take an event's name and its "
                "fields"
            )
        self._listeners = found
        self._signals = signals
        self.folder: Path | None = None
        self.stopped = False

    def __call__(self, event: str, fields: Mapping[str, Any]) -> None:
        """Handle one event.

        Raises:
            StopRun: A listener asks to stop where there is nothing to save.
        """
        if event in ("run.started", "run.resumed"):
            self.folder = Path(fields["folder"])
        for listener in self._listeners:
            try:
                listener(event, dict(fields))  # each has its own
            except StopRun:
                if event == "run.finished":  # there is nothing left to stop
                    continue
                if self._signals is None or not self._signals.stop():
                    raise
                self.stopped = True


def run(
    recipe: Recipe,
    overrides: Overrides = (),
    *,
    folder: str | Path = RUNS,
    listeners: Listeners = (),
    export: bool = True,
    smoke: bool = False,
    name: str = "recipe",
    signals: bool | Signals = False,
    machines: Machines | None = None,
    command: Sequence[str] = (),
) -> Run:
    """Do what a recipe says: train, evaluate, export and verify.

    Args:
        recipe: A name, a path, or what the file would hold.
        overrides: Changes to it, such as ``{"train.epochs": 3}``.
        folder: Where run folders are made.
        listeners: Called with the name and the fields of each event (``docs/logs.md``). One that
            raises ``StopRun`` ends the run, which saves first.
        export: Whether to write the artifacts that the recipe lists.
        smoke: Take a few steps on a few images, on one device.
        name: What a recipe without a file is called.
        signals: Whether signals ask to stop while it lasts, or those that are held back already.
        machines: Those that the run is spread over.
        command: The command line that asks, for the manifest.

    Returns:
        The run, unfinished where a listener has stopped it. A process, or a machine, that works
        with others and does not have rank 0 learns no more than where the runs of the recipe are.

    Raises:
        RunnerError: The recipe is wrong, or the run has failed.
    """
    changes = as_texts(overrides)
    with _held(signals) as held:
        heard = _Heard(listeners, held)
        request = Request(
            command=command or _command("run" if export else "train", recipe, name, changes),
            listener=heard,
            export=export,
            signals=held,
            machines=machines or Machines(),
        )
        loaded = load(recipe, changes, shortened=smoke, name=name)
        runs = Path(folder) / loaded.plan.name
        return _outcome(lambda: dispatch.start(loaded, runs.parent, request), heard, runs)


def train(recipe: Recipe, overrides: Overrides = (), **options: Any) -> Run:
    """Train and evaluate a recipe, without its exports; the options are those of ``run``."""
    return run(recipe, overrides, export=False, **options)


def resume(
    interrupted: str | Path | Run,
    overrides: Overrides = (),
    *,
    listeners: Listeners = (),
    signals: bool | Signals = False,
    machines: Machines | None = None,
    command: Sequence[str] = (),
) -> Run:
    """Continue an interrupted run, or one of its checkpoints, at its exact sample.

    Args:
        interrupted: A run, or the path of one or of a checkpoint.
        overrides: Changes, of keys that do not turn it into a different experiment.
        listeners: As for ``run``.
        signals: As for ``run``.
        machines: As for ``run``.
        command: As for ``run``.

    Raises:
        UsageError: There is no run, or a change is not allowed.
    """
    changes, path = as_texts(overrides), _path(interrupted)
    with _held(signals) as held:
        heard = _Heard(listeners, held)
        request = Request(
            command=command or _command("resume", path, "", changes),
            listener=heard,
            signals=held,
            machines=machines or Machines(),
        )
        return _outcome(lambda: dispatch.resume(path, changes, request), heard, path)


def take_part(task: Task, *, listeners: Listeners, signals: Signals) -> None:
    """Work as one of the processes that were started for a run; they hand its result over."""
    request = Request(
        command=task.command,
        listener=_Heard(listeners, signals),
        export=task.export,
        signals=signals,
    )
    dispatch.take_part(task, request)


def evaluate(
    model: Trained,
    overrides: Overrides = (),
    *,
    recipe: str | None = None,
    listeners: Listeners = (),
    trusted: bool = False,
    weights: str | None = None,
) -> Evaluation:
    """Evaluate one model over the whole validation split; ``evaluate_all`` has the arguments.

    Raises:
        UsageError: The path stands for several.
    """
    found = evaluate_all(
        model, overrides, recipe=recipe, listeners=listeners, trusted=trusted, weights=weights
    )
    first = next(found)
    if next(found, None) is not None:
        raise UsageError(f"{_path(model)} holds several models; name one, or use evaluate_all")
    return first


def evaluate_all(
    model: Trained,
    overrides: Overrides = (),
    *,
    recipe: str | None = None,
    listeners: Listeners = (),
    trusted: bool = False,
    weights: str | None = None,
) -> Iterator[Evaluation]:
    """Evaluate a checkpoint, a run, every checkpoint of a folder, an artifact, or a weights file.

    Args:
        model: What to evaluate.
        overrides: Changes to the recipe, such as another ``dataset.root``.
        recipe: The recipe to use in place of the one that a run carries; a weights file that is not
            in a run needs it.
        listeners: Called with each event.
        trusted: Whether code that comes with an artifact may run.
        weights: Which of several sets of tensors to take: ``ema``, ``raw``, a key or a prefix.

    Raises:
        CheckpointError: The classes of the data are not those of the model.
    """
    if not (recipe is None or isinstance(recipe, str)):
        raise UsageError(f"recipe is {recipe!r}; expected its name or path")
    path, changes = _path(model), as_texts(overrides)
    registry = loading.load()
    events = EventLog(_Heard(listeners))
    plan = plan_for(path, changes, recipe, registry, events)
    if artifacts.is_artifact(path):
        refuse_device(changes, weights)
        artifact = classifier.open_artifact(path, events, registry, trusted=trusted)
        # an artifact brings its own pre-processing, whatever the recipe says by now
        split = open_split(plan, "val", events, artifact.transforms, artifact.decoding)
        models = iter([(path, artifact)])
    else:
        device = open_device(plan)
        split = open_split(plan, "val", events)
        models = classifier.open_all(
            path, plan, device, split.classes, events, registry, choice=weights
        )
    with closing(split.loader):
        for item, opened in models:
            checkpoint.check_classes(opened.classes, split.classes, "the dataset", model=item)
            metrics = opened.evaluate(split, plan.recipe.eval.batch_size).as_metrics()
            yield Evaluation(path=item, metrics=metrics, reference=compare(plan, metrics))


def predict(
    model: Trained,
    images: str | Path | Sequence[str | Path],
    overrides: Overrides = (),
    *,
    top: int = 1,
    batch_size: int = 32,
    listeners: Listeners = (),
    trusted: bool = False,
    weights: str | None = None,
) -> list[Prediction]:
    """Predict image files with a checkpoint, a run or an artifact.

    Args:
        model: What predicts.
        images: Files, and folders of files.
        overrides: Changes to the recipe of a checkpoint.
        top: Classes of each image.
        batch_size: Images in one pass.
        listeners: Called with what should be known of the model and the images.
        trusted: Whether code that comes with an artifact may run.
        weights: Which of several sets of tensors to take: ``ema``, ``raw``, a key or a prefix.

    Raises:
        UsageError: ``model`` stands for several checkpoints, or there is no image.
    """
    _check_number("top", top, 1)
    _check_number("batch_size", batch_size, 1)
    given_images = [images] if isinstance(images, (str, Path)) else images
    if not given_images or "" in given_images:
        raise UsageError(f"images is {images!r}; expected image files or folders of them")
    files = prediction.find_images([Path(image) for image in given_images])
    registry = loading.load()
    found_in_images = EventLog(_Heard(listeners))

    def report(notice: Notice) -> None:
        found_in_images.emit("data.noticed", split="images", **asdict(notice))

    path, changes = _path(model), as_texts(overrides)
    paths.check_there(path, MODEL_PATHS)
    if artifacts.is_artifact(path):
        refuse_device(changes, weights)
        if changes:
            raise UsageError("an artifact carries all that predicts: --set has no effect on it")
        opened = classifier.open_artifact(path, found_in_images, registry, trusted=trusted)
    else:
        found = _one_checkpoint(path)
        if not checkpoint.read_info(found).checked:
            found_in_images.emit("warning", message=records.without_checksum([found]))
        plan = plan_for(found, changes, None, registry, found_in_images)
        device = open_device(plan)
        models = classifier.open_all(found, plan, device, (), EventLog(), registry, choice=weights)
        _, opened = next(models)
    noticed = Noticed(report)
    return list(prediction.predict(opened, files, batch_size=batch_size, top=top, noticed=noticed))


def export(
    model: str | Path | Run,
    overrides: Overrides = (),
    *,
    formats: str | Sequence[str] = (),
    output: str | Path | None = None,
    listeners: Listeners = (),
    weights: str | None = None,
    check: bool = True,
) -> list[Artifact]:
    """Export a checkpoint or the best of a run, verify what was written and evaluate it.

    Args:
        model: A run or a checkpoint.
        overrides: Changes to its recipe.
        formats: Names of exporters; those of the recipe if left out.
        output: Folder for the artifacts; the run's exports if left out.
        listeners: Called with each event.
        weights: Which of several sets of tensors to take: ``ema``, ``raw``, a key or a prefix.
        check: Whether an artifact that failed is an error, once all are made.

    Raises:
        UsageError: Neither ``formats`` nor the recipe names a format.
        ArtifactError: An export failed, or disagrees with the live model.
    """
    path, changes = _path(model), as_texts(overrides)
    named = [formats] if isinstance(formats, str) else formats
    registry = loading.load()
    events = EventLog(_Heard(listeners))
    paths.check_there(path, MODEL_PATHS)
    found = classifier.checkpoints_at(path)[-1]
    plan = plan_for(found, changes, None, registry, events)
    listed = [item.name for item in plan.recipe.export]
    fresh = [name for name in named if name not in listed]
    if fresh:
        added = [f"export.{len(listed) + n}={{name: {name}}}" for n, name in enumerate(fresh)]
        plan = plan_for(found, [*changes, *added], None, registry, EventLog())
    if not plan.recipe.export:
        raise UsageError("the recipe lists nothing under `export`; name a format: --format onnx")
    check_runnable(plan, training=False, exporting=True)
    val, engine = _open_model(plan, found, registry, events, choice=weights)
    with closing(val.loader):
        made = [
            exporting.carry_out(
                plan,
                position,
                engine=engine,
                val=val,
                folder=Path(output) if output else _exports_of(found),
                registry=registry,
                events=events,
            )
            for position, item in enumerate(plan.recipe.export)
            if not named or item.name in named
        ]
    if check:
        exporting.check_all(made)
    return [Artifact.of(record) for record in made]


def verify(
    artifact: str | Path | Artifact,
    *,
    tolerance: float | None = None,
    trusted: bool = False,
    listeners: Listeners = (),
    check: bool = True,
) -> Verification:
    """Replay an artifact's stored images and compare with the live model's answers.

    Args:
        artifact: The artifact.
        tolerance: Largest difference that agrees; what the artifact says if ``None``, which its
            exporter must then allow.
        trusted: Whether code that comes with the artifact may run.
        listeners: Called with what should be known of the artifact.
        check: Whether a difference is an error.

    Raises:
        ArtifactError: The artifact is damaged, differs, or allows more than its exporter, or
            nothing installed can run it.
    """
    if tolerance is not None and not tolerance >= 0:
        raise UsageError(f"tolerance is {tolerance!r}; expected a number from 0")
    registry = loading.load()
    found = artifacts.read(_path(artifact), trusted=trusted)
    allowed = verification.allowed(found, tolerance, registry)
    artifacts.tell_unchecked(found, EventLog(_Heard(listeners)))
    found = replace(found, tolerance=allowed)
    result = verification.verify(found, artifacts.open_predictor(found, registry))
    if check:
        verification.check(found.folder, result)
    return result


def bench(
    subject: Recipe | Run | Artifact,
    overrides: Overrides = (),
    *,
    batch_size: int | None = None,
    steps: int | None = None,
    warmup: int | None = None,
    smoke: bool = False,
    listeners: Listeners = (),
    trusted: bool = False,
) -> Benchmark:
    """Measure images per second: a recipe's loader, training and inference, or a trained model.

    Args:
        subject: A recipe, or an artifact, a checkpoint or a run.
        overrides: Changes to the recipe.
        batch_size: Of a model: images in one call; 1, or what an artifact is fixed to.
        steps: Steps in each of the windows, 10; of a model calls, 100.
        warmup: Steps before the first that counts, 5; of a model 200.
        smoke: Of a recipe: a few images, on one device.
        listeners: Called with each event.
        trusted: Whether code that comes with an artifact may run.

    Raises:
        UsageError: An argument has no effect on what is measured.
    """
    _check_number("batch_size", batch_size, 1)
    _check_number("steps", steps, 1)
    _check_number("warmup", warmup, 0)
    changes, heard = as_texts(overrides), _Heard(listeners)
    subject = _path(subject) if isinstance(subject, (Run, Artifact)) else subject
    if not isinstance(subject, Mapping) and bench_model.is_model(str(subject)):
        if smoke:
            raise UsageError("--smoke shortens a recipe: it has no effect on a trained model")
        figures = bench_model.bench(
            Path(subject),
            changes,
            batch_size=batch_size,
            steps=bench_model.STEPS if steps is None else steps,
            warmup=bench_model.WARMUP if warmup is None else warmup,
            listener=heard,
            trusted=trusted,
        )
    elif batch_size is not None:
        raise UsageError(
            "--batch-size is for a trained model; of a recipe, set train.batch_size and "
            "eval.batch_size"
        )
    else:
        figures = bench_recipe.bench(
            load(subject, changes, shortened=smoke).plan,
            EventLog(heard),
            steps=bench_recipe.STEPS if steps is None else steps,
            warmup=bench_recipe.WARMUP if warmup is None else warmup,
        )
    name = str(figures.get("recipe") or figures["model"])
    return Benchmark(subject=name, images_per_s=figures["images_per_s"], figures=figures)


@final
@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class RecipePlan:
    """A recipe with what follows from it, before anything is opened."""

    loaded: Loaded
    start: Start

    @property
    def name(self) -> str:
        """Name of the recipe; run folders carry it."""
        return self.loaded.plan.name

    @property
    def values(self) -> Mapping[str, Any]:
        """All sections with their defaults (JSON)."""
        return resolved(self.loaded.plan.recipe)

    @property
    def text(self) -> str:
        """The whole plan for people, with where every value comes from."""
        return explanation.as_text(self.loaded.plan, self.loaded.document, self.start)

    @property
    def data(self) -> Mapping[str, Any]:
        """The same for programs (JSON)."""
        return explanation.as_data(self.loaded.plan, self.loaded.document, self.start)

    def __repr__(self) -> str:
        return f"# {self.name}\n{as_yaml(dict(self.values))}"


def load_recipe(
    recipe: Recipe,
    overrides: Overrides = (),
    *,
    folder: str | Path = RUNS,
    smoke: bool = False,
    name: str = "recipe",
    machines: Machines | None = None,
    command: Sequence[str] = (),
) -> RecipePlan:
    """Read and check a recipe, and plan what it says; no framework is imported.

    Environment variables without a value stand as they are written.

    Args:
        recipe: A name, a path, or what the file would hold.
        overrides: Changes to it.
        folder: Where run folders would be made.
        smoke: Plan a few steps on a few images.
        name: What a recipe without a file is called.
        machines: Those that the run would be spread over.
        command: The command line that would start it.

    Raises:
        RecipeError: The recipe or an override is wrong.
        UsageError: There is no such recipe.
    """
    changes = as_texts(overrides)
    start = Start(
        command=command or _command("run", recipe, name, changes),
        runs_dir=Path(folder),
        machines=machines or Machines(),
    )
    loaded = load(recipe, changes, shortened=smoke, allow_unset=True, name=name)
    return RecipePlan(loaded=loaded, start=start)


def explain(recipe: Recipe, overrides: Overrides = (), **options: Any) -> str:
    """Return the whole plan of a recipe as text; the options are those of ``load_recipe``."""
    return load_recipe(recipe, overrides, **options).text


def list_entries(kind: str) -> Sequence[Listed] | Sequence[RecipeListing]:
    """List what recipes can name.

    Args:
        kind: Such as ``models``, ``devices`` or ``exporters``, or ``recipes``.

    Raises:
        UsageError: There is no such kind.
    """
    registry = loading.load()
    if kind == "recipes":
        return list_recipes(registry)
    row = next((row for row in kinds.KINDS if row.plural == kind), None)
    if row is None:
        choices = ", ".join([*(row.plural for row in kinds.KINDS), "recipes"])
        raise UsageError(f"no kind {kind!r}; expected one of {choices}")
    return listing.entries(registry, row)


def load_run(path: str | Path) -> Run:
    """Read what a run has left, finished or not.

    Raises:
        UsageError: There is no run.
        CheckpointError: One of its files is damaged.
    """
    return Run.at(_path(path))


def load_model(
    model: str | Path | Run,
    overrides: Overrides = (),
    *,
    listeners: Listeners = (),
    weights: str | None = None,
) -> Model:
    """Return a trained network in its framework's own form, and the preprocessing beside it.

    Args:
        model: A run (its best checkpoint, or its latest) or a checkpoint.
        overrides: Changes to its recipe.
        listeners: Called with what should be known of it.
        weights: Which of several sets of tensors to take: ``ema``, ``raw``, a key or a prefix.

    Raises:
        UsageError: There is no checkpoint, or several.
        PluginError: The framework does not hand out its models.
    """
    registry = loading.load()
    events = EventLog(_Heard(listeners))
    path = _path(model)
    paths.check_there(path, MODEL_PATHS)
    found = _one_checkpoint(path)
    plan = plan_for(found, as_texts(overrides), None, registry, events)
    build = plan.framework_entry.build_module
    if build is None:
        raise PluginError(f"{plan.framework_entry.name} does not hand out its models")
    source = given.read(found, plan.framework_entry, registry)
    engine = open_engine(plan, open_device(plan), len(source.classes), events, training=False)
    given.load(engine, plan, source, events, path=found, classes=source.classes, choice=weights)
    spec = plan.engine_spec(len(source.classes), training=False)
    transforms = plan.recipe.transforms
    return Model(
        module=build(spec, engine.evaluation_weights()),
        preprocess=Preprocessing(
            transforms=transforms.eval,
            decoding=plan.recipe.dataset.decoding,
            mean=transforms.mean,
            std=transforms.std,
        ),
        classes=source.classes,
        path=found,
    )


def _open_model(
    plan: Plan, found: Path, registry: Registry, events: EventLog, *, choice: str | None
) -> tuple[Split, Engine]:
    """Open the validation split, and an engine with the weights of a checkpoint."""
    device = open_device(plan)
    val = open_split(plan, "val", events)
    source = given.read(found, plan.framework_entry, registry)
    engine = open_engine(plan, device, len(val.classes), events, training=False)
    given.load(engine, plan, source, events, path=found, classes=val.classes, choice=choice)
    return val, engine


def _one_checkpoint(path: Path) -> Path:
    found = classifier.checkpoints_at(path)
    if len(found) > 1:
        raise UsageError(f"{path} holds {len(found)} checkpoints; name one, such as {found[-1]}")
    return found[0]


def _exports_of(path: Path) -> Path:
    folder = rundir.find(path)
    folder.check_own()
    return folder.exports


def _path(model: Trained) -> Path:
    if isinstance(model, (Run, Artifact)):
        return model.folder
    if not isinstance(model, (str, Path)) or "\0" in str(model):
        raise UsageError(f"got {model!r}; expected {MODEL_PATHS}, or what was returned")
    return Path(model)


def _takes_events(listener: object) -> bool:
    return callable(listener) and not isinstance(listener, type)


def _check_number(name: str, value: object, least: int) -> None:
    """Refuse what is no number of something; ``None`` leaves the choice open."""
    if value is None or (isinstance(value, int) and value is not True and value >= least):
        return
    raise UsageError(f"{name} is {value!r}; expected a whole number from {least}")


def _held(signals: bool | Signals) -> AbstractContextManager[Signals]:  # noqa: FBT001
    """Return the signals that ask; of none, listeners alone do."""
    if isinstance(signals, Signals):
        return nullcontext(signals)
    return _hearing() if signals else nullcontext(Signals(()))


@contextmanager
def _hearing() -> Iterator[Signals]:
    """Hear signals for a while: a program lives on after a run that was stopped, as before."""
    if threading.current_thread() is not threading.main_thread():
        raise UsageError(
            "signals=True in another thread than the main one, which alone hears signals; leave it "
            "out, and stop the run from a listener with StopRun"
        )
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        with Signals() as heard:
            yield heard
    finally:
        for number, handler in before.items():
            if handler is not None:  # one of C, which cannot be put back
                signal.signal(number, handler)


def _outcome(carry_out: Callable[[], dict[str, Any] | None], heard: _Heard, otherwise: Path) -> Run:
    try:
        result = carry_out()
    except InterruptedRunError:
        if not heard.stopped or heard.folder is None:
            raise
        return Run.at(heard.folder)
    except SystemExit as left:  # of one of several processes, where rank 0 says why
        raise of_process(int(left.code or 0), "rank 0 says why the run ends") from None
    if result is None:
        return Run(folder=otherwise, recipe="", metrics={}, result={}, leads=False)
    return Run.of(result)


def _command(verb: str, recipe: Recipe, name: str, changes: Sequence[str]) -> list[str]:
    """Return the command line that asks for the same, as far as there is one."""
    subject = f"{name}.yaml" if isinstance(recipe, Mapping) else str(recipe)
    return [verb, subject, *(word for text in changes for word in ("--set", text))]

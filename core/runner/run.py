"""A run from start to end: train, evaluate, export, and leave a result."""

from __future__ import annotations

import time
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, final

from runner import checkpoint, export, files, manifest, recipe, rundir, weights
from runner.contracts import RunInfo
from runner.errors import RunnerError, UsageError
from runner.evaluate import evaluate
from runner.events import EventLog
from runner.plan import check_runnable
from runner.session import check_same_classes, open_engine, open_split
from runner.signals import StopRequest
from runner.train import Trainer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from runner.checkpoint import Checkpoint
    from runner.events import Listener
    from runner.plan import Plan
    from runner.plugins import Plugins
    from runner.rundir import RunDir


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a command asks of a run, beyond its recipe."""

    command: Sequence[str]
    """The command line, for the manifest."""
    listener: Listener | None = None
    export: bool = True
    """Whether to write the artifacts that the recipe lists; a run that continues does what it was
    started with."""


def start(plan: Plan, plugins: Plugins, runs_dir: Path, request: Request) -> dict[str, Any]:
    """Carry out a recipe in a fresh run folder and return its result.

    The folder is made once data, device and model are open: a wrong path leaves nothing behind.
    """
    with _Run(plan, plugins, request) as run:
        run.load_initial_weights()
        folder = rundir.create(runs_dir, plan.name)
        files.write_text(folder.recipe, recipe.dump(plan.recipe))
        files.write_json(folder.manifest, run.manifest())
        return run.carry_out(folder, None)


def resume(
    plan: Plan, plugins: Plugins, folder: RunDir, saved: Checkpoint, request: Request
) -> dict[str, Any]:
    """Continue a run from one of its checkpoints and return its result."""
    request = replace(request, export=folder.read_manifest()["export"])
    with _Run(plan, plugins, request) as run:
        run.warn_of_changes(folder)
        return run.carry_out(folder, saved)


@final
class _Run:
    """An opened plan; a context manager that closes loaders and the event log."""

    def __init__(self, plan: Plan, plugins: Plugins, request: Request) -> None:
        self._plan = plan
        self._plugins = plugins
        self._request = request
        self._stack = ExitStack()
        self._started = time.monotonic()
        self._events = EventLog(request.listener)
        self._observers = plugins.observers(self._observer_failed)

    def __enter__(self) -> _Run:
        with ExitStack() as stack:
            stack.callback(self._events.close)
            training = self._plan.recipe.train is not None
            check_runnable(self._plan, training=training, exporting=self._request.export)
            names = ("train", "val") if training else ("val",)
            splits = {name: open_split(self._plan, name, self._events) for name in names}
            for split in splits.values():
                stack.callback(split.loader.close)
            self._val = splits["val"]
            self._train = splits.get("train")
            if self._train:
                check_same_classes(self._train, self._val)
                self._plan.steps_per_epoch(len(self._train.dataset.labels))
            self._device, self._engine = open_engine(
                self._plan,
                len(self._val.classes),
                self._events,
                training=training,
            )
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def load_initial_weights(self) -> None:
        """Load the weights that the recipe names.

        Raises:
            UsageError: There are none, and the recipe does not train any either.
            CheckpointError: They cannot be read or do not fit.
        """
        named = self._plan.recipe.model.weights
        if named:
            path = Path(named).expanduser()
            self._engine.load_weights(weights.read(path, self._plan.framework_entry))
        elif not self._train and not self._plan.smoke:
            raise UsageError(
                "the recipe does not train, and names no weights to evaluate; "
                "add --set model.weights=PATH"
            )

    def manifest(self) -> dict[str, Any]:
        """Return what the run runs on."""
        return manifest.describe(
            self._plan,
            self._plugins.registry.plugins,
            device=self._device,
            engine=self._engine,
            splits=[split for split in (self._train, self._val) if split],
            command=self._request.command,
            export=self._request.export,
        )

    def warn_of_changes(self, folder: RunDir) -> None:
        """Report what differs from the process that began the run and may change its numbers."""
        before, here = folder.read_manifest(), self.manifest()
        changes = [
            f"{part}.{key}: {before[part].get(key)} -> {here[part].get(key)}"
            for part in ("engine", "device", "data")
            for key in sorted({*before[part], *here[part]})
            if before[part].get(key) != here[part].get(key)
        ]
        if changes:
            self._events.emit(
                "warning",
                message="the run continues under other conditions, so its numbers may differ "
                f"from a run that was not interrupted: {'; '.join(changes)}",
            )

    def carry_out(self, folder: RunDir, saved: Checkpoint | None) -> dict[str, Any]:
        """Do what the recipe says, and tell log and observers how it ended."""
        self._stack.enter_context(files.lock(folder.path))
        self._events.write_to(folder.events)
        info = RunInfo(
            name=self._plan.name, folder=folder.path, recipe=recipe.resolved(self._plan.recipe)
        )
        observers = self._observers
        try:
            self._events.emit(
                "run.resumed" if saved else "run.started",
                folder=str(folder.path),
                step=saved.info.position.step if saved else 0,
            )
            observers.run_started(info)
            result = self._result(folder, info, saved)
            files.write_json(folder.result, result)
            self._events.emit("run.finished", folder=str(folder.path), result=result)
            observers.run_finished(info, result)
        except BaseException as error:
            with suppress(RunnerError):  # the disk may be what failed
                self._events.emit("run.failed", error=type(error).__name__, message=str(error))
                observers.run_failed(info, error)
            raise
        export.check_all(result["exports"])
        return result

    def _observer_failed(self, plugin: str, hook: str, error: Exception) -> None:
        self._events.emit(
            "warning",
            message=f"plugin {plugin!r} failed in {hook} and observes this run no longer: "
            f"{type(error).__name__}: {error}",
        )

    def _result(self, folder: RunDir, info: RunInfo, saved: Checkpoint | None) -> dict[str, Any]:
        plan = self._plan
        result: dict[str, Any] = {
            "recipe": plan.name,
            "folder": str(folder.path),
            "framework": plan.framework_entry.name,
            "device": plan.device_entry.name,
            "model": plan.model_entry.name,
            "precision": plan.recipe.precision.compute,
        }
        result |= self._fit(folder, info, saved) if self._train else self._evaluate()
        result["exports"] = self._export(folder) if self._request.export else []
        result["seconds"] = round(time.monotonic() - self._started, 3)
        result["peak_memory_bytes"] = self._device.peak_memory_bytes()
        result["reference"] = compare(plan, result["metrics"])
        return result

    def _fit(self, folder: RunDir, info: RunInfo, saved: Checkpoint | None) -> dict[str, Any]:
        assert self._train is not None
        # Only the loop can stop in the middle and save; anything else is ended by a signal at once.
        with StopRequest() as stop:
            trainer = Trainer(
                self._plan,
                self._engine,
                self._train,
                self._val,
                folder=folder.checkpoints,
                recipe_text=recipe.dump(self._plan.recipe),
                run=info,
                events=self._events,
                observers=self._observers,
                stop=stop,
            )
            if saved:
                trainer.restore(saved)
            return asdict(trainer.fit())

    def _evaluate(self) -> dict[str, Any]:
        evaluation = evaluate(self._engine, self._val.loader, self._plan.recipe.eval.batch_size)
        assert evaluation is not None
        self._events.emit("eval.finished", **evaluation.as_metrics())
        return {"metrics": evaluation.as_metrics()}

    def _export(self, folder: RunDir) -> list[dict[str, Any]]:
        """Export what ``runner export`` would: the best checkpoint, else the latest."""
        if self._train and self._plan.recipe.export:
            source = checkpoint.of_run(folder.checkpoints)
            self._engine.load_weights(checkpoint.load(source).evaluation_weights)
        return [
            export.carry_out(
                self._plan,
                position,
                engine=self._engine,
                val=self._val,
                folder=folder.exports,
                registry=self._plugins.registry,
                events=self._events,
            )
            for position in range(len(self._plan.recipe.export))
        ]


def compare(plan: Plan, metrics: Mapping[str, float]) -> list[dict[str, Any]]:
    """Put the measured figure, where there is one, beside each published one."""
    return [
        {**asdict(item), "measured": metrics.get(item.metric)} for item in plan.recipe.reference
    ]

"""A run from start to end: train, evaluate, export, and leave a result."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, final

from runner import checkpoint, export, files, manifest, recipe, rundir, weights
from runner.console import RankConsole
from runner.contracts import RunInfo
from runner.errors import RunnerError, UsageError
from runner.evaluate import evaluate
from runner.events import EventLog
from runner.launch import start as launch
from runner.observers import Loggers
from runner.plan import check_runnable
from runner.ranks import AgreedStop, Ranks
from runner.saving import Saver
from runner.session import check_same_classes, open_device, open_engine, open_split
from runner.signals import Signals
from runner.train import Trainer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType
    from typing import Any

    from runner.checkpoint import Checkpoint
    from runner.contracts import EpochMetrics, Group, StepRecord
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
    signals: Signals | None = None
    """SIGINT and SIGTERM, held back since before NumPy was imported."""


def start(plan: Plan, plugins: Plugins, runs_dir: Path, request: Request) -> dict[str, Any] | None:
    """Carry out a recipe in a fresh run folder and return its result.

    The folder is made once device, data and model are open: a wrong path leaves nothing behind.
    Of several processes only that of rank 0 has a result.
    """
    with _Run(plan, plugins, request) as run:
        folder = run.ranks.lead(lambda: run.create_folder(runs_dir))
        return run.carry_out(folder, None)


def resume(
    plan: Plan, plugins: Plugins, folder: RunDir, source: Path | None, request: Request
) -> dict[str, Any] | None:
    """Continue a run from one of its checkpoints, or from the latest, and return its result."""
    request = replace(request, export=folder.read_manifest()["export"])
    with _Run(plan, plugins, request, continues=True) as run:
        # one that was left half-way is put back by rank 0, before the others look
        run.ranks.lead(lambda: checkpoint.listing(folder.checkpoints))
        saved = run.ranks.everyone(
            lambda: checkpoint.load(source or checkpoint.latest(folder.checkpoints))
        )
        run.ranks.lead(lambda: run.warn_of_changes(folder))
        return run.carry_out(folder, saved)


@final
class _Run:
    """An opened plan; a context manager that closes loaders, the event log and the group."""

    def __init__(
        self, plan: Plan, plugins: Plugins, request: Request, *, continues: bool = False
    ) -> None:
        self._plan = plan
        self._plugins = plugins
        self._request = request
        self._continues = continues
        self._stack = ExitStack()
        self._started = time.monotonic()

    def __enter__(self) -> _Run:
        plan, request = self._plan, self._request
        with ExitStack() as stack:
            self._training = plan.recipe.train is not None
            check_runnable(plan, training=self._training, exporting=request.export)
            if launch.is_needed(plan):
                raise UsageError(
                    f"the recipe asks for {plan.recipe.device.count} devices, and this is one "
                    "process alone; use runner.commands, or set device.count to 1"
                )
            self._signals = request.signals or stack.enter_context(Signals())
            if plan.framework_entry.takes_signals:
                self._signals.watch()
            else:
                self._signals.release()
            self._device = open_device(plan)
            # What is written, printed or bound comes after it: a process may stay in `join`.
            self.ranks = stack.enter_context(Ranks(self._join()))
            leads = self.ranks.leads
            self._events = EventLog(request.listener if leads else RankConsole(self.ranks.rank))
            stack.callback(self._events.close)
            self._observers = self._plugins.observers(self._observer_failed)
            self._loggers = Loggers(self._logger_failed)
            stack.callback(self._loggers.close)
            self.ranks.everyone(lambda: self._open_data(stack))
            # Processes may exchange something here: one that fails cannot tell the others.
            self._engine = open_engine(
                plan,
                self._device,
                len(self._val.classes),
                self._events,
                training=self._training,
                group=self.ranks.group,
            )
            if not self._continues:
                self.ranks.everyone(self._load_initial_weights)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, traceback)

    def _join(self) -> Group | None:
        recipe, join = self._plan.recipe, self._plan.framework_entry.join
        if join is None or recipe.device.count == 1:
            return None
        return join(self._device, recipe.distributed.timeout_s)

    def _open_data(self, stack: ExitStack) -> None:
        splits = {}
        for name in ("train", "val") if self._training else ("val",):
            splits[name] = open_split(self._plan, name, self._events)
            stack.callback(splits[name].loader.close)
        self._val = splits["val"]
        self._train = splits.get("train")
        if self._train:
            check_same_classes(self._train, self._val)
            self._plan.check_shares(len(self._train.dataset.labels))

    def _load_initial_weights(self) -> None:
        """Load the weights that the recipe names.

        Raises:
            UsageError: There are none, and the recipe does not train any either.
            CheckpointError: They cannot be read or do not fit.
        """
        named = self._plan.recipe.model.weights
        if named:
            path = Path(named).expanduser()
            registry = self._plugins.registry
            self._engine.load_weights(weights.read(path, self._plan.framework_entry, registry))
        elif not self._train and not self._plan.smoke:
            raise UsageError(
                "the recipe does not train, and names no weights to evaluate; "
                "add --set model.weights=PATH"
            )

    def create_folder(self, runs_dir: Path) -> RunDir:
        """Make the run folder, with what it holds from the start."""
        folder = rundir.create(runs_dir, self._plan.name)
        files.write_text(folder.recipe, recipe.dump(self._plan.recipe))
        files.write_json(folder.manifest, self._manifest())
        return folder

    def _manifest(self) -> dict[str, Any]:
        return manifest.describe(
            self._plan,
            self._plugins.registry.plugins,
            device=self._device,
            engine=self._engine,
            splits=[split for split in (self._train, self._val) if split],
            command=self._request.command,
            export=self._request.export,
            world_size=self.ranks.world_size,
        )

    def warn_of_changes(self, folder: RunDir) -> None:
        """Report what differs from the process that began the run and may change its numbers."""
        here = self._manifest()
        before = {"loader": {}, **folder.read_manifest()}  # older runs have none
        changes = [
            f"{part}.{key}: {before[part].get(key)} -> {here[part].get(key)}"
            for part in ("engine", "device", "data", "loader")
            for key in sorted({*before[part], *here[part]})
            if before[part].get(key) != here[part].get(key)
        ]
        if before.get("world_size", 1) != here["world_size"]:
            changes.append(f"world_size: {before.get('world_size', 1)} -> {here['world_size']}")
        if changes:
            self._events.emit(
                "warning",
                message="the run continues under other conditions, so its numbers may differ "
                f"from a run that was not interrupted: {'; '.join(changes)}",
            )

    def carry_out(self, folder: RunDir | None, saved: Checkpoint | None) -> dict[str, Any] | None:
        """Do what the recipe says, and tell log and observers how it ended.

        Args:
            folder: The run folder; ``None`` on ranks that do not know it.
            saved: The checkpoint to continue from.
        """
        self.ranks.lead(lambda: self._claim(folder))
        if folder is None or not self.ranks.leads:
            self._follow(saved)
            return None
        info = self._info(folder)
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

    def _info(self, folder: RunDir) -> RunInfo:
        return RunInfo(
            name=self._plan.name, folder=folder.path, recipe=recipe.resolved(self._plan.recipe)
        )

    def _claim(self, folder: RunDir | None) -> None:
        """Keep other processes out of the run folder, and write the logs there."""
        assert folder is not None, "rank 0 has made it or found it"
        self._stack.enter_context(files.lock(folder.path))
        self._events.write_to(folder.events)
        self._loggers.open(self._plan, self._info(folder))
        self._events.tell(self._loggers.event)

    def _follow(self, saved: Checkpoint | None) -> None:
        """Take part in what rank 0 reports."""
        self._events.write_to(Path(os.devnull))
        if self._train:
            self._fit(Path(), saved, lambda _metrics: None, None)
        else:
            self._evaluate()
        self.ranks.part()

    def _logger_failed(self, name: str, error: Exception) -> None:
        self._events.emit(
            "warning",
            message=f"logger {name!r} failed and writes nothing more of this run: "
            f"{type(error).__name__}: {error}",
        )

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
            "world_size": self.ranks.world_size,
        }
        if self._train:
            result |= self._fit(
                folder.checkpoints,
                saved,
                lambda metrics: self._observers.epoch_finished(info, metrics),
                self._loggers.steps if plan.loggers else None,
            )
        else:
            result |= self._evaluate()
        self.ranks.part()  # exports are the work of one
        result["exports"] = self._export(folder) if self._request.export else []
        result["seconds"] = round(time.monotonic() - self._started, 3)
        result["peak_memory_bytes"] = self._device.peak_memory_bytes()
        result["reference"] = compare(plan, result["metrics"])
        return result

    def _fit(
        self,
        folder: Path,
        saved: Checkpoint | None,
        finished_epoch: Callable[[EpochMetrics], None],
        finished_steps: Callable[[Sequence[StepRecord]], None] | None,
    ) -> dict[str, Any]:
        assert self._train is not None
        plan = self._plan
        saver = Saver(
            self._engine,
            self.ranks,
            self._events,
            section=plan.recipe.checkpoint,
            folder=folder,
            classes=self._train.classes,
            weights_kind="ema" if plan.train.ema_decay else "raw",
            recipe_text=recipe.dump(plan.recipe),
        )
        # Only the loop can stop in the middle and save; anything else is ended by a signal at once.
        with self._signals.polite() as request:
            trainer = Trainer(
                plan,
                self._engine,
                self._train,
                self._val,
                ranks=self.ranks,
                saver=saver,
                events=self._events,
                finished_epoch=finished_epoch,
                finished_steps=finished_steps,
                stop=AgreedStop(request, self.ranks),
            )
            if saved:
                trainer.restore(saved)
            return asdict(trainer.fit())

    def _evaluate(self) -> dict[str, Any]:
        started = time.perf_counter()
        evaluation = evaluate(
            self._engine, self._val.loader, self._plan.recipe.eval.batch_size, ranks=self.ranks
        )
        assert evaluation is not None
        images_per_s = evaluation.count / (time.perf_counter() - started)
        metrics = {**evaluation.as_metrics(), "val.images_per_s": images_per_s}
        self._events.emit("eval.finished", **metrics)
        return {"metrics": metrics}

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

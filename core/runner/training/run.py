"""A run from start to end: train, evaluate, export, and leave a result."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, final

from runner import recipe
from runner.artifacts import export
from runner.contracts import RunInfo
from runner.distributed import job
from runner.distributed.ranks import AgreedStop
from runner.errors import RunnerError, UsageError
from runner.session.evaluate import evaluate
from runner.storage import checkpoint, files, records, rundir
from runner.storage.keeper import Keeper
from runner.training import resume as continuing
from runner.training.checkpointer import Saver
from runner.training.context import Opened, Request
from runner.training.loop import Trainer
from runner.training.resume import Changed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any

    from runner.contracts import StepRecord
    from runner.planning.plan import Plan
    from runner.plugins.registry import Registry
    from runner.storage.checkpoint import Checkpoint
    from runner.storage.rundir import RunDir

__all__ = ["Request", "compare", "resume", "start"]


def start(
    plan: Plan, registry: Registry, runs_dir: Path, request: Request
) -> dict[str, Any] | None:
    """Carry out a recipe in a fresh run folder and return its result.

    The folder is made once device, data and model are open: a wrong path leaves nothing behind.
    A further attempt of the same command goes on in the folder of the earlier one. Of several
    processes only that of rank 0 has a result.
    """
    asked = "run" if request.export else "train"
    with Opened(plan, registry, request, asked) as opened, opened.ranks.telling():
        run, ranks = _Run(opened), opened.ranks
        before = continuing.earlier(ranks)
        if before:
            ranks.lead(lambda: continuing.check_recipe(before.folder, plan.recipe, registry))
            return run.go_on(before.folder, None)
        of_job = job.begun(plan, runs_dir, ranks)
        if of_job:
            finished = ranks.lead(of_job.read_result)
            if ranks.lowest(finished is not None) is not None:
                return finished
            ranks.lead(lambda: continuing.check_recipe(of_job, plan.recipe, registry))
            return run.go_on(of_job, None)
        opened.load_initial_weights()
        folder = ranks.lead(lambda: run.create_folder(runs_dir))
        return run.carry_out(continuing.meet_in(folder, ranks), None)


def resume(
    plan: Plan,
    registry: Registry,
    folder: RunDir,
    source: Path | None,
    request: Request,
    changed: Changed,
) -> dict[str, Any] | None:
    """Continue a run from one of its checkpoints, or from the latest, and return its result.

    A run that was ended before its first checkpoint begins again. A further attempt of the same
    command goes on from what the earlier one has saved.
    """
    request = replace(request, export=folder.read_manifest()["export"])
    asked = " ".join(
        ["resume", *folder.path.absolute().parts[-2:], *([source.name] if source else [])]
    )
    with Opened(plan, registry, request, asked) as opened, opened.ranks.telling():
        before = continuing.earlier(opened.ranks)
        return _Run(opened, changed).go_on(folder, None if before and before.saved else source)


@final
class _Run:
    """What is done with an opened plan."""

    def __init__(self, opened: Opened, changed: Changed | None = None) -> None:
        self._opened = opened
        self._changed = changed or Changed()
        self._ranks = opened.ranks
        self._plan = opened.plan
        self._engine = opened.engine
        self._train = opened.train
        self._val = opened.val
        self._events = opened.events
        self._loggers = opened.loggers
        self._exporting = False

    def create_folder(self, runs_dir: Path) -> RunDir:
        """Make the run folder, with what it holds from the start."""
        checked = self._plan.recipe
        manifest = {
            **self._opened.manifest(),
            "resolved": recipe.resolved(checked),
            "job": job.describe(self._plan, self._ranks),
        }
        folder = rundir.create(runs_dir, self._plan.name, recipe.dump(checked), manifest)
        self._ranks.reporter.folder(folder.path)  # at once: a further attempt makes no second one
        return folder

    def _warn_of_changes(self, folder: RunDir) -> None:
        """Report what differs from the process that began the run and may change its numbers."""
        opened = self._opened
        changes = continuing.changes(folder.read_manifest(), opened.manifest(), opened.splits())
        if changes:
            self._events.emit(
                "warning",
                message="the run continues under other conditions, so its numbers may differ "
                f"from a run that was not interrupted: {'; '.join(changes)}",
            )

    def go_on(self, folder: RunDir, source: Path | None) -> dict[str, Any] | None:
        """Continue a run from a checkpoint, or the latest; from its beginning if it has none."""
        folder = continuing.meet_in(folder, self._ranks)
        self._ranks.progress.begin("reading a checkpoint")
        saved = continuing.saved_state(folder, source, self._ranks)
        if saved is None:
            self._opened.load_initial_weights()
        elif not saved.checked and self._ranks.leads:
            self._events.emit("warning", message=records.without_checksum([saved.path]))
        if saved and self._train:
            self._ranks.everyone(lambda: self._check_continues(folder, saved))
        self._ranks.lead(lambda: self._warn_of_changes(folder))
        return self.carry_out(folder, saved, again=True)

    def _check_continues(self, folder: RunDir, saved: Checkpoint) -> None:
        """Refuse what a checkpoint cannot continue with, before anything of the run is changed."""
        assert self._train is not None
        checkpoint.check_classes(
            saved.info.classes, self._train.classes, "the dataset", model=folder.path
        )
        position, epochs = saved.info.position, self._plan.train.epochs
        if (position.epoch, position.step_in_epoch) > (epochs, 0):
            raise UsageError(
                f"{saved.path} is in epoch {position.epoch + (position.step_in_epoch > 0)}, so the "
                f"run cannot end after {epochs}; set train.epochs to at least that, or name an "
                "earlier checkpoint"
            )

    def carry_out(
        self, folder: RunDir, saved: Checkpoint | None, *, again: bool = False
    ) -> dict[str, Any] | None:
        """Do what the recipe says, and tell how it ended.

        Args:
            folder: The run folder.
            saved: The checkpoint to continue from.
            again: Whether the run was begun before.
        """
        self._ranks.lead(lambda: self._claim(folder))
        if not self._ranks.leads:
            self._follow(saved)
            return None
        try:
            self._tell_begin(folder, saved, again=again)
            with self._ranks.telling(), self._saying_what_is_left(folder):
                result = self._result(folder, saved)
            self._keeper.look()
            if self._keeper.losses:
                result["folder_lost"] = self._keeper.losses
            result = folder.write_result(result)
            self._events.emit("run.finished", folder=str(folder.path), result=result)
        except BaseException as error:
            with suppress(RunnerError):  # the disk may be what failed
                self._events.emit("run.failed", error=type(error).__name__, message=str(error))
            raise
        export.check_all(result["exports"])
        return result

    @contextmanager
    def _saying_what_is_left(self, folder: RunDir) -> Iterator[None]:
        """Say what a run that is ended at once has saved, and how to continue it."""
        try:
            yield
        except KeyboardInterrupt as error:
            saved = checkpoint.listing(folder.checkpoints)[-1:]
            kept = f"saved {saved[0]}" if saved else "nothing was saved yet"
            if self._exporting:
                kept += ", and exports are made again"
            error.args = (f"{kept}; continue with: runner resume {folder.path}",)
            raise

    def _tell_begin(self, folder: RunDir, saved: Checkpoint | None, *, again: bool) -> None:
        restarted = self._ranks.reporter.restarted
        if restarted:
            self._events.emit("run.restarted", **restarted)
        place = {"folder": str(folder.path), "step": saved.info.position.step if saved else 0}
        if not again:
            self._events.emit("run.started", **place)
            return
        saved_at = str(saved.path) if saved else None
        changed = list(self._changed.values)
        self._events.emit("run.resumed", **place, checkpoint=saved_at, changed=changed)

    def _info(self, folder: RunDir) -> RunInfo:
        return RunInfo(
            name=self._plan.name, folder=folder.path, recipe=recipe.resolved(self._plan.recipe)
        )

    def _claim(self, folder: RunDir) -> None:
        """Keep other processes out of the run folder, and write the logs there."""
        self._opened.stack.enter_context(files.lock(folder.path))
        folder.check_own()
        self._events.write_to(folder.events)
        info = self._info(folder)
        self._loggers.open(self._plan, info)
        self._events.tell(self._loggers.event)

        def begin_anew() -> None:
            self._loggers.close()
            self._loggers.open(self._plan, info)

        self._keeper = Keeper(folder, self._events, self._opened.stack, begin_anew)
        self._events.before_each(self._keeper.look)

    def _change(self, folder: RunDir) -> None:
        """Write what the recipe becomes, once everything that can refuse it has not."""
        if self._changed.recipe_text:
            files.write_text(folder.recipe, self._changed.recipe_text)
            self._keeper.take_recipe()
        files.remove(folder.result)  # of a run that now trains longer

    def _follow(self, saved: Checkpoint | None) -> None:
        """Take part in what rank 0 reports."""
        self._events.write_to(Path(os.devnull))
        if self._train:
            self._fit(None, saved, None)
        else:
            self._evaluate()
        self._ranks.part()

    def _result(self, folder: RunDir, saved: Checkpoint | None) -> dict[str, Any]:
        plan = self._plan
        result: dict[str, Any] = {
            "recipe": plan.name,
            "folder": str(folder.path),
            "framework": plan.framework_entry.name,
            "device": plan.device_entry.name,
            "model": plan.model_entry.name,
            "precision": plan.recipe.precision.compute,
            "world_size": self._ranks.world_size,
        }
        if self._train:
            result["val_images_in_train"] = self._opened.val_images_in_train
            logged = plan.loggers or plan.always_loggers
            result |= self._fit(folder, saved, self._loggers.steps if logged else None)
        else:
            self._change(folder)
            with self._opened.signals.ending():
                result |= self._evaluate()
        self._ranks.part()  # exports are the work of one
        with self._opened.signals.ending():
            result["exports"] = self._export(folder) if self._opened.request.export else []
        result["seconds"] = round(time.monotonic() - self._opened.started, 3)
        result["peak_memory_bytes"] = self._opened.device.peak_memory_bytes()
        if plan.recipe.loader.damaged_images == "skip":
            result["damaged_images"] = sum(len(s.skipped) for s in self._opened.splits())
        result["reference"] = compare(plan, result["metrics"])
        return result

    def _fit(
        self,
        folder: RunDir | None,
        saved: Checkpoint | None,
        finished_steps: Callable[[Sequence[StepRecord]], None] | None,
    ) -> dict[str, Any]:
        assert self._train is not None
        plan = self._plan
        saver = Saver(
            self._engine,
            self._ranks,
            self._events,
            section=plan.recipe.checkpoint,
            folder=folder.checkpoints if folder else Path(),
            classes=self._train.classes,
            weights_kind="ema" if plan.train.ema_decay else "raw",
            recipe_text=recipe.dump(plan.recipe),
        )
        # Only the loop can stop in the middle and save; anything else is ended by a signal at once.
        launched = self._opened.place is not None
        with self._opened.signals.polite(launched=launched) as request:
            trainer = Trainer(
                plan,
                self._engine,
                self._train,
                self._val,
                ranks=self._ranks,
                saver=saver,
                events=self._events,
                finished_steps=finished_steps,
                stop=AgreedStop(request, self._ranks),
            )
            if saved:
                trainer.restore(saved)
            self._ranks.lead(lambda: self._change(folder) if folder else None)
            return asdict(trainer.fit())

    def _evaluate(self) -> dict[str, Any]:
        started = time.perf_counter()
        evaluation = evaluate(
            self._engine,
            self._val.loader,
            self._plan.recipe.eval.batch_size,
            num_classes=len(self._val.classes),
            ranks=self._ranks,
        )
        assert evaluation is not None
        images_per_s = evaluation.count / (time.perf_counter() - started)
        metrics = {**evaluation.as_metrics(), "val.images_per_s": images_per_s}
        self._events.emit("eval.finished", **metrics)
        return {"metrics": metrics}

    def _export(self, folder: RunDir) -> list[dict[str, Any]]:
        """Export what ``runner export`` would: the best checkpoint, else the latest."""
        self._ranks.progress.begin("exporting")
        self._exporting = bool(self._plan.recipe.export)
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
                registry=self._opened.registry,
                events=self._events,
            )
            for position in range(len(self._plan.recipe.export))
        ]


def compare(plan: Plan, metrics: Mapping[str, float]) -> list[dict[str, Any]]:
    """Put the measured figure, where there is one, beside each published one."""
    return [
        {**asdict(item), "measured": metrics.get(item.metric)} for item in plan.recipe.reference
    ]

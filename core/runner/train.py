"""The training loop: one for every framework."""

from __future__ import annotations

import math
import time
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NoReturn, final

from runner import checkpoint
from runner.checkpoint import CheckpointInfo, Position
from runner.contracts import EpochMetrics
from runner.errors import InterruptedRunError, NonFiniteError
from runner.evaluate import evaluate
from runner.metrics import Throughput

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from runner.checkpoint import Checkpoint
    from runner.contracts import Batch, Deferred, Engine, RunInfo, StepResult
    from runner.events import EventLog
    from runner.metrics import Evaluation
    from runner.observers import Observers
    from runner.plan import Plan
    from runner.session import Split
    from runner.signals import StopRequest

MAX_SKIPPED_IN_A_ROW = 50
"""Overflows in a row after which a dynamic loss scale will not recover (2**50 below its start)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FitResult:
    """How training ended."""

    metrics: dict[str, float]
    """As in the last ``epoch.finished`` event."""
    best_top1: float | None
    best_epoch: int | None
    """Finished epochs when the best accuracy was measured."""
    epochs: int
    steps: int
    skipped_steps: int
    reached_target: bool


@final
class Trainer:
    """Runs epochs from a position to the end of the recipe."""

    def __init__(
        self,
        plan: Plan,
        engine: Engine,
        train: Split,
        val: Split,
        *,
        folder: Path,
        recipe_text: str,
        run: RunInfo,
        events: EventLog,
        observers: Observers,
        stop: StopRequest,
    ) -> None:
        # what is trained, and on what
        self._plan = plan
        self._section = plan.train
        self._engine = engine
        self._train = train
        self._val = val
        self._steps_per_epoch = plan.steps_per_epoch(len(train.dataset.labels))
        # where it goes
        self._folder = folder
        self._recipe_text = recipe_text
        self._run = run
        self._events = events
        self._observers = observers
        self._stop = stop
        # where the run stands
        self._position = Position(step=0, epoch=0, step_in_epoch=0)
        self._metrics: dict[str, float] = {}
        self._last_saved: Path | None = None
        self._goes_back = False
        # what has not been read from the device yet
        self._pending: list[Deferred[StepResult]] = []
        self._skipped_in_a_row = 0
        self._throughput = Throughput()

    def restore(self, saved: Checkpoint) -> None:
        """Continue from a checkpoint, at its exact sample.

        Raises:
            CheckpointError: It was taken with other classes, another model or another optimizer.
        """
        checkpoint.check_classes(saved.info.classes, self._train.classes, "the dataset")
        self._engine.load_weights(saved.weights)
        self._engine.load_state(saved.state)
        self._position = position = saved.info.position
        self._metrics = dict(saved.info.metrics)
        self._last_saved = saved.path
        self._goes_back = True
        ended_epoch = position.step_in_epoch == 0 and position.best_epoch == position.epoch
        if ended_epoch and position.best_top1 is not None:
            # a process that was killed right after saving has not marked its best
            checkpoint.mark_best(self._folder, saved.path, position.best_top1)

    def fit(self) -> FitResult:
        """Train to the end.

        Raises:
            NonFiniteError: The loss is NaN or infinite.
            StorageError: A checkpoint cannot be written.
            InterruptedRunError: A signal asked to stop; a checkpoint was saved.
        """
        reached = self._reached_target()
        while self._position.epoch < self._section.epochs and not reached:
            self._train_epoch(self._position.epoch)
            self._finish_epoch(self._position.epoch)
            if self._stop.signal_number is not None:
                self._save_and_leave()
            reached = self._reached_target()
        position = self._position
        return FitResult(
            metrics=self._metrics,
            best_top1=position.best_top1,
            best_epoch=position.best_epoch,
            epochs=position.epoch,
            steps=position.step,
            skipped_steps=position.skipped_steps,
            reached_target=reached,
        )

    def _train_epoch(self, epoch: int) -> None:
        batches = self._train.loader.train_batches(
            epoch,
            batch_size=self._section.batch_size,
            steps=self._steps_per_epoch,
            first_step=self._position.step_in_epoch,
        )
        window = _Window()
        with closing(batches):
            for batch in window.timed(batches):
                step = self._position.step
                rate = self._plan.learning_rate(step, self._steps_per_epoch)
                self._pending.append(self._engine.train_step(batch, rate))
                self._position = replace(
                    self._position, step=step + 1, step_in_epoch=self._position.step_in_epoch + 1
                )
                if (step + 1) % self._section.log_every_steps == 0:
                    self._log(window, rate)
                if self._save_is_due(step + 1):
                    self._close_window(window)
                    self._save()
                    window.restart()
                if self._stop.signal_number is not None:
                    self._save_and_leave()
        self._close_window(window)

    def _log(self, window: _Window, rate: float) -> None:
        loss = self._read_losses()
        images, seconds = window.images, window.seconds()
        self._throughput.add(images, seconds, window.waited)
        window.restart()
        self._events.emit(
            "train.step",
            step=self._position.step,
            epoch=self._position.epoch,
            step_in_epoch=self._position.step_in_epoch,
            steps_per_epoch=self._steps_per_epoch,
            epochs=self._section.epochs,
            loss=loss,
            learning_rate=rate,
            images_per_s=round(images / seconds, 3),
        )

    def _close_window(self, window: _Window) -> None:
        """Read what is pending, so that the window's time covers the work of its images."""
        if self._pending:
            self._read_losses()
            self._throughput.add(window.images, window.seconds(), window.waited)

    def _read_losses(self) -> float | None:
        """Wait for the pending steps, check them, and return their mean loss."""
        losses = []
        first = self._position.step - len(self._pending)
        for step, pending in enumerate(self._pending, start=first):
            result = pending.read()
            if result.skipped:
                self._count_skipped(step)
            elif not math.isfinite(result.loss):
                raise NonFiniteError(self._non_finite(result.loss, step))
            else:
                self._skipped_in_a_row = 0
                losses.append(result.loss)
        self._pending.clear()
        self._position = replace(
            self._position,
            loss_sum=self._position.loss_sum + sum(losses),
            loss_count=self._position.loss_count + len(losses),
        )
        return sum(losses) / len(losses) if losses else None

    def _count_skipped(self, step: int) -> None:
        self._skipped_in_a_row += 1
        self._position = replace(self._position, skipped_steps=self._position.skipped_steps + 1)
        self._events.emit("train.overflow", step=step)
        if self._skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise NonFiniteError(
                f"the gradients overflowed in {self._skipped_in_a_row} steps in a row, up to step "
                f"{step}, whatever the loss scale; {self._advice()}"
            )

    def _non_finite(self, loss: float, step: int) -> str:
        return (
            f"the loss is {loss} at step {step} (epoch {step // self._steps_per_epoch}, "
            f"learning rate {self._plan.learning_rate(step, self._steps_per_epoch):g}); "
            f"{self._advice()}"
        )

    def _advice(self) -> str:
        kept = (
            f"the last good checkpoint is {self._last_saved}"
            if self._last_saved
            else "no checkpoint was saved before it"
        )
        return (
            "lower optimizer.learning_rate, lengthen schedule.warmup_epochs, or set "
            f"train.clip_grad_norm; {kept}"
        )

    def _finish_epoch(self, epoch: int) -> None:
        finished = epoch + 1
        position = self._position
        self._metrics = {}
        if position.loss_count:  # none when every step of the epoch overflowed
            self._metrics["train.loss"] = position.loss_sum / position.loss_count
        images_per_s, wait = self._throughput.images_per_s(), self._throughput.data_wait()
        if images_per_s is not None and wait is not None:
            self._metrics |= {"train.images_per_s": images_per_s, "train.data_wait": wait}
        evaluation = self._evaluate() if self._evaluation_is_due(finished) else None
        if evaluation:
            self._metrics |= evaluation.as_metrics()
        self._position = replace(
            position, epoch=finished, step_in_epoch=0, loss_sum=0.0, loss_count=0
        )
        best_top1 = None
        if evaluation and (position.best_top1 is None or evaluation.top1 > position.best_top1):
            best_top1 = evaluation.top1
            self._position = replace(self._position, best_top1=best_top1, best_epoch=finished)
        self._events.emit(
            "epoch.finished",
            epoch=finished,
            epochs=self._section.epochs,
            step=position.step,
            **self._metrics,
        )
        self._observers.epoch_finished(
            self._run, EpochMetrics(epoch=finished, step=position.step, values=self._metrics)
        )
        section = self._plan.recipe.checkpoint
        due = finished % section.every_epochs == 0
        last = finished == self._section.epochs or self._reached_target()
        if due or last or (best_top1 is not None and section.keep_best):
            self._save(best_top1)

    def _evaluate(self) -> Evaluation:
        evaluation = evaluate(
            self._engine,
            self._val.loader,
            self._plan.recipe.eval.batch_size,
            stopped=lambda: self._stop.signal_number is not None,
        )
        return evaluation or self._save_and_leave()

    def _evaluation_is_due(self, finished: int) -> bool:
        section = self._plan.recipe.eval
        if finished == self._section.epochs:
            return True
        return finished > section.start_epoch and finished % section.every_epochs == 0

    def _reached_target(self) -> bool:
        target, top1 = self._section.target_top1, self._metrics.get("val.top1")
        return target is not None and top1 is not None and top1 >= target

    def _save_is_due(self, step: int) -> bool:
        every = self._plan.recipe.checkpoint.every_steps
        return every is not None and step % every == 0

    def _save(self, best_top1: float | None = None) -> Path:
        info = CheckpointInfo(
            position=self._position,
            classes=self._train.classes,
            weights_kind="ema" if self._section.ema_decay else "raw",
            metrics=self._metrics,
        )
        state = self._engine.state()
        path = checkpoint.save(
            self._folder,
            replace(info, state_values=state.values),
            weights=self._engine.weights(),
            state=state,
            recipe_text=self._recipe_text,
        )
        self._last_saved = path
        self._events.emit("checkpoint.saved", path=str(path), step=self._position.step)
        if self._goes_back:  # now that there is one to go on from
            self._goes_back = False
            for later in checkpoint.remove_later(self._folder, self._position.step):
                reason = "the run went back to an earlier one"
                self._events.emit("checkpoint.removed", path=str(later), reason=reason)
        if best_top1 is not None:
            checkpoint.mark_best(self._folder, path, best_top1)
        section = self._plan.recipe.checkpoint
        for old in checkpoint.remove_old(
            self._folder, keep=section.keep, keep_best=section.keep_best
        ):
            self._events.emit("checkpoint.removed", path=str(old))
        return path

    def _save_and_leave(self) -> NoReturn:
        self._read_losses()
        path = self._save()
        number = self._stop.signal_number or 0
        self._events.emit("run.interrupted", signal=number, checkpoint=str(path))
        raise InterruptedRunError(
            f"stopped by signal {number} after step {self._position.step}, saved {path}; "
            f"continue with: runner resume {self._run.folder}",
            number,
        )


@final
class _Window:
    """The steps since the last log line: images, time, and time spent waiting for data."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self.images = 0
        self.waited = 0.0
        self._start = time.perf_counter()

    def seconds(self) -> float:
        return time.perf_counter() - self._start

    def timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yield the batches, counting them and the time it takes to get them."""
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - asked
            if batch is None:
                return
            self.images += len(batch.labels)
            yield batch

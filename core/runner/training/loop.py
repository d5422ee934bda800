"""The training loop: one for every framework."""

from __future__ import annotations

import math
import time
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, NoReturn, final

from runner.distributed.signals import BY_LISTENER
from runner.errors import CheckpointError, DataError, InterruptedRunError, NonFiniteError
from runner.session.evaluate import Agreement, evaluate
from runner.storage import checkpoint
from runner.storage.checkpoint import Position
from runner.training.throughput import StepRates, Throughput, Window, records

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from runner.contracts import Batch, Deferred, Engine, StepRecord, StepResult
    from runner.distributed.ranks import AgreedStop, Ranks
    from runner.planning.plan import Plan
    from runner.session.metrics import Evaluation
    from runner.session.opening import Split
    from runner.storage.checkpoint import Checkpoint
    from runner.storage.events import EventLog
    from runner.training.checkpointer import Saver
    from runner.training.throughput import StepTime

MAX_SKIPPED_IN_A_ROW = 50
"""Overflows in a row after which a dynamic loss scale will not recover (2**50 below its start)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FitResult:
    """How training ended."""

    metrics: dict[str, float]
    """As in the last ``epoch.finished`` event, and each ``throughput`` over the whole run."""
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
        ranks: Ranks,
        saver: Saver,
        events: EventLog,
        stop: AgreedStop,
        finished_steps: Callable[[Sequence[StepRecord]], None] | None = None,
    ) -> None:
        # what is trained, and on what
        self._plan = plan
        self._section = plan.train
        self._engine = engine
        self._train = train
        self._val = val
        self._steps_per_epoch = plan.steps_per_epoch(len(train.dataset.labels))
        # who takes part, who is told, and who can stop it
        self._ranks = ranks
        self._progress = ranks.progress
        self._saver = saver
        self._events = events
        self._finished_steps = finished_steps
        self._stop = stop
        # where the run stands
        self._position = Position(step=0, epoch=0, step_in_epoch=0)
        self._saved: Position | None = None
        self._metrics: dict[str, float] = {}
        # what has not been read from the device yet
        self._pending: list[Deferred[StepResult]] = []
        self._skipped_in_a_row = 0
        self._stepped = False
        # what was measured
        self._window = Window()
        self._throughput = Throughput()
        self._rates = StepRates(plan.recipe.throughput)

    def restore(self, saved: Checkpoint) -> None:
        """Continue from a checkpoint, at its exact sample.

        Raises:
            CheckpointError: It was taken with other classes, another model or another optimizer.
        """
        checkpoint.check_classes(saved.info.classes, self._train.classes, "the dataset")
        self._engine.load_weights(saved.weights)
        try:
            self._engine.load_state(saved.state)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise CheckpointError(
                f"{saved.path}: its state is not one of this optimizer and precision: "
                f"{type(error).__name__}: {error}; continue from another checkpoint"
            ) from error
        self._position = self._saved = saved.info.position
        self._metrics = dict(saved.info.metrics)
        self._saver.continue_from(saved)

    def fit(self) -> FitResult:
        """Train to the end.

        Raises:
            NonFiniteError: The loss is NaN or infinite.
            StorageError: A checkpoint cannot be written.
            InterruptedRunError: A signal asked to stop; a checkpoint was saved.
        """
        if self._ranks.leads:
            for text in self._rates.too_short(self._steps_per_epoch, self._section.epochs):
                self._events.emit("warning", message=text)
        reached = self._reached_target()
        # It does not end before the last checkpoint is written, and who waits is told why first.
        with self._saver, self._ranks.telling():
            while self._position.epoch < self._section.epochs and not reached:
                self._train_epoch(self._position.epoch)
                self._finish_epoch(self._position.epoch)
                self._stop.agree()
                if self._stop.signal_number is not None:
                    self._save_and_leave()
                reached = self._reached_target()
        position = self._position
        return FitResult(
            metrics=self._metrics | self._rates.of_run(),
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
            rank=self._ranks.rank,
            world_size=self._ranks.world_size,
        )
        self._rates.begin_epoch()
        self._show_training()
        self._window.restart()
        with closing(batches):
            for batch in self._window.timed(batches):
                rate = self._take_step(batch)
                step = self._position.step
                if step % self._section.log_every_steps == 0:
                    self._log(rate)
                if self._saver.is_due(step):
                    self._close_window()
                    self._save()
                    self._show_training()
                    self._window.restart()
                if self._stop.signal_number is not None:
                    self._save_and_leave()
        self._close_window()

    def _take_step(self, batch: Batch) -> float:
        """Hand one step to the device, and return its learning rate."""
        # Twice for each step: one that waits for its images is behind one that computes.
        self._progress.mark()
        position = self._position
        rate = self._plan.learning_rate(position.step, self._steps_per_epoch)
        began = time.monotonic()
        self._pending.append(self._engine.train_step(batch, rate))
        if not self._stepped:
            self._tell_first_step(began)
        self._position = replace(
            position, step=position.step + 1, step_in_epoch=position.step_in_epoch + 1
        )
        self._window.end_step(len(batch.labels), rate)
        self._progress.mark()
        if self._rates.ends_warm_up():
            self._engine.synchronize()
            self._window.settle()
        return rate

    def _tell_first_step(self, began: float) -> None:
        """Tell how long the first step of this process took, kernels that were compiled included.

        Without a word until a first log line, a device that is far too slow looks like one that
        hangs.
        """
        self._stepped = True
        self._engine.synchronize()
        self._events.emit(
            "train.first_step",
            step=self._position.step + 1,
            epoch=self._position.epoch,
            step_in_epoch=self._position.step_in_epoch + 1,
            steps_per_epoch=self._steps_per_epoch,
            epochs=self._section.epochs,
            seconds=round(time.monotonic() - began, 3),
        )

    def _log(self, rate: float) -> None:
        loss, images, seconds = self._read()
        self._window.restart()
        self._show_training()
        self._saver.tell()
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

    def _save(self, best_top1: float | None = None) -> None:
        self._progress.begin(f"saving step {self._position.step}")
        self._saver.save(self._position, self._metrics, best_top1)
        self._saved = self._position
        self._progress.mark()

    def _show_training(self) -> None:
        position = self._position
        self._progress.begin(f"training, epoch {position.epoch + 1} step {position.step_in_epoch}")

    def _close_window(self) -> None:
        """Read what is pending, so that the window's time covers the work of its images."""
        if self._pending:
            self._read()

    def _read(self) -> tuple[float | None, float, float]:
        """Wait for the pending steps, which are those of the window, and check them.

        One exchange carries all that ranks tell each other of them: it takes its time, however
        little it carries.

        Returns:
            The mean loss of all ranks, ``None`` if every step was skipped; their images; and the
            seconds of the window.
        """
        results = [pending.read() for pending in self._pending]
        self._pending.clear()
        times = self._window.take_steps()
        own = [*(r.loss for r in results), *(t.images for t in times), *self._stop.asks()]
        sums = iter(self._ranks.sum(own))
        loss_sums, images = list(islice(sums, len(results))), list(islice(sums, len(times)))
        self._stop.hear(list(sums))
        seconds = self._window.seconds()
        self._throughput.add(sum(images), seconds, self._window.waited)
        losses: list[float | None] = []
        try:
            first = self._position.step - len(results)
            for step, (result, added) in enumerate(
                zip(results, loss_sums, strict=True), start=first
            ):
                losses.append(self._count_loss(step, result, added / self._ranks.world_size))
        finally:  # the steps before one that ends the run are told as well
            self._tell_steps(losses, times, images)
        counted = [loss for loss in losses if loss is not None]
        return (sum(counted) / len(counted) if counted else None), sum(images), seconds

    def _count_loss(self, step: int, result: StepResult, loss: float) -> float | None:
        """Check the loss of a step and add it to the epoch's; ``None`` if the step was skipped."""
        if result.skipped:
            self._count_skipped(step)
            return None
        if not math.isfinite(loss):
            raise self._ranks.together(NonFiniteError(self._non_finite(loss, step)))
        self._skipped_in_a_row = 0
        # One by one: the sum does not depend on when losses were read.
        position = self._position
        self._position = replace(
            position, loss_sum=position.loss_sum + loss, loss_count=position.loss_count + 1
        )
        return loss

    def _tell_steps(
        self, losses: Sequence[float | None], times: Sequence[StepTime], images: Sequence[float]
    ) -> None:
        """Hand on what is known of the steps whose losses were read; ``losses`` may be fewer."""
        if self._finished_steps or self._plan.recipe.throughput:
            found = records(self._position, losses, times, images)
            self._rates.add(found)
            if self._finished_steps:
                self._finished_steps(found)

    def _count_skipped(self, step: int) -> None:
        self._skipped_in_a_row += 1
        self._position = replace(self._position, skipped_steps=self._position.skipped_steps + 1)
        self._events.emit("train.overflow", step=step)
        if self._skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise self._ranks.together(
                NonFiniteError(
                    f"the gradients overflowed in {self._skipped_in_a_row} steps in a row, up to "
                    f"step {step}, whatever the loss scale; {self._advice()}"
                )
            )

    def _non_finite(self, loss: float, step: int) -> str:
        return (
            f"the loss is {loss} at step {step} (epoch {step // self._steps_per_epoch}, "
            f"learning rate {self._plan.learning_rate(step, self._steps_per_epoch):g}); "
            f"{self._advice()}"
        )

    def _advice(self) -> str:
        kept = (
            f"the last good checkpoint is {self._saver.last}"
            if self._saver.last
            else "no checkpoint was saved before it"
        )
        return (
            "lower optimizer.learning_rate, lengthen schedule.warmup_epochs, or set "
            f"train.clip_grad_norm; {kept}"
        )

    def _finish_epoch(self, epoch: int) -> None:
        finished = epoch + 1
        evaluates = self._evaluation_is_due(finished)
        if evaluates and self._saves_after(finished):
            self._save_before_evaluation()
        position = self._position
        self._metrics = {}
        if position.loss_count:  # none when every step of the epoch overflowed
            self._metrics["train.loss"] = position.loss_sum / position.loss_count
        images_per_s, wait = self._throughput.images_per_s(), self._throughput.data_wait()
        if images_per_s is not None and wait is not None:
            self._metrics |= {"train.images_per_s": images_per_s, "train.data_wait": wait}
        self._metrics |= self._rates.end_epoch()
        started = time.perf_counter()
        evaluation = self._evaluate() if evaluates else None
        if evaluation:
            images_per_s = evaluation.count / (time.perf_counter() - started)
            self._metrics |= {**evaluation.as_metrics(), "val.images_per_s": images_per_s}
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
        if self._saved is not None and self._saved.step == position.step:
            self._saver.complete(self._position, self._metrics, best_top1)
            self._saved = self._position
        elif self._saves_after(finished, is_best=best_top1 is not None):
            self._save(best_top1)

    def _saves_after(self, finished: int, *, is_best: bool = False) -> bool:
        last = finished == self._section.epochs or self._reached_target()
        return last or self._saver.is_due_after(finished, is_best=is_best)

    def _save_before_evaluation(self) -> None:
        """Have the epoch on the disk: its evaluation may fail, or be killed."""
        if self._saved != self._position:
            self._save()
        self._saver.finish()

    def _evaluate(self) -> Evaluation:
        self._stop.agree()
        images = len(self._val.dataset.labels)
        try:
            evaluation = evaluate(
                self._engine,
                self._val.loader,
                self._plan.recipe.eval.batch_size,
                num_classes=len(self._val.classes),
                ranks=self._ranks,
                stopped=lambda: self._stop.signal_number is not None,
                agreement=Agreement(self._stop.agree, self._section.log_every_steps, images),
            )
        except DataError as error:
            if self._ranks.group is None:  # others wait in an exchange, and cannot save together
                self._save_before_evaluation()
            error.args = (f"{error}{self._after_failed_evaluation()}",)
            raise
        return evaluation or self._save_and_leave()

    def _after_failed_evaluation(self) -> str:
        """Say how to go on once the validation data is mended, where a checkpoint is known."""
        path = self._saver.last
        if path is None:
            return ""
        return f"; saved {path}; continue with: runner resume {path.parent.parent}"

    def _evaluation_is_due(self, finished: int) -> bool:
        section = self._plan.recipe.eval
        if finished == self._section.epochs:
            return True
        return finished > section.start_epoch and finished % section.every_epochs == 0

    def _reached_target(self) -> bool:
        target, top1 = self._section.target_top1, self._metrics.get("val.top1")
        return target is not None and top1 is not None and top1 >= target

    def _save_and_leave(self) -> NoReturn:
        self._close_window()
        if self._saved != self._position:
            self._save()
        self._saver.finish()
        number, path = self._stop.signal_number or 0, self._saver.last
        asked_by = "a listener" if number == BY_LISTENER else f"signal {number}"
        message = f"stopped by {asked_by} after step {self._position.step}"
        if path:  # which only rank 0 has written
            self._events.emit("run.interrupted", signal=number, checkpoint=str(path))
            message += f", saved {path}; continue with: runner resume {path.parent.parent}"
        raise self._ranks.together(InterruptedRunError(message, number))

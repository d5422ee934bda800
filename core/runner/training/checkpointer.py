"""Checkpoints of a run: when one is written, which ones stay, and which is the best.

Saving copies everything to the host while all ranks wait, so that it is of one step. Hashing and
writing it, which takes several times as long, is the work of a thread while training goes on. One
checkpoint is written at a time: the next one waits for it, and so does the end of a run, however
it ends. What goes wrong in the thread is raised there, on all ranks.
"""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import TYPE_CHECKING, final

from runner.errors import RunnerError
from runner.storage import checkpoint
from runner.storage.checkpoint import CheckpointInfo

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType
    from typing import Any

    from numpy.typing import NDArray

    from runner.contracts import Engine, EngineState
    from runner.distributed.ranks import Ranks
    from runner.recipe.schema import CheckpointSection
    from runner.storage.checkpoint import Checkpoint, Position
    from runner.storage.events import EventLog


@final
class Saver:
    """Writes the checkpoints of one run; every rank calls it, rank 0 writes.

    A context manager that waits until the last one is written.
    """

    def __init__(
        self,
        engine: Engine,
        ranks: Ranks,
        events: EventLog,
        *,
        section: CheckpointSection,
        folder: Path,
        classes: tuple[str, ...],
        weights_kind: str,
        recipe_text: str,
    ) -> None:
        """Prepare to write.

        Args:
            engine: What is saved.
            ranks: The processes that train together.
            events: Receives what is written and removed.
            section: How often, and how many stay.
            folder: Where checkpoints are; not looked at on other ranks than 0.
            classes: Class names of the data.
            weights_kind: ``raw``, or ``ema`` when evaluation uses an average of the weights.
            recipe_text: The resolved recipe.
        """
        self._engine = engine
        self._ranks = ranks
        self._events = events
        self._section = section
        self._folder = folder
        self._classes = classes
        self._weights_kind = weights_kind
        self._recipe_text = recipe_text
        self._goes_back = False
        self._thread = ThreadPoolExecutor(1, "runner-checkpoint")
        self._writing: Future[None] | None = None
        self._events_of_thread: list[tuple[str, dict[str, Any]]] = []
        self._last: Path | None = None

    @property
    def last(self) -> Path | None:
        """The checkpoint that was written or continued from last; one being written is waited for.

        Known on rank 0 only.
        """
        if self._writing:
            wait([self._writing])
        return self._last

    def __enter__(self) -> Saver:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Wait for the last checkpoint; after an error alone, and without hiding it."""
        try:
            if error is None:
                self.finish()
            else:
                self._wait_after_error()
        finally:
            self._thread.shutdown()

    def continue_from(self, saved: Checkpoint) -> None:
        """Go on from a checkpoint."""
        self._last = saved.path
        self._goes_back = True
        self._ranks.lead(lambda: self._catch_up(saved))

    def _catch_up(self, saved: Checkpoint) -> None:
        """Do what a process that was killed right after saving has left undone."""
        position, top1 = saved.info.position, saved.info.position.best_top1
        ended_epoch = position.step_in_epoch == 0 and position.best_epoch == position.epoch
        if ended_epoch and top1 is not None:
            checkpoint.mark_best(self._folder, saved.path, top1)
        if checkpoint.latest(self._folder).name == saved.path.name:
            self._remove_old()
            self.tell()

    def is_due(self, step: int) -> bool:
        """Say whether a checkpoint is written in the middle of an epoch, after ``step`` steps."""
        every = self._section.every_steps
        return every is not None and step % every == 0

    def is_due_after(self, epochs: int, *, is_best: bool) -> bool:
        """Say whether a checkpoint is written after an epoch that is not the last."""
        return epochs % self._section.every_epochs == 0 or (is_best and self._section.keep_best)

    def save(
        self, position: Position, metrics: Mapping[str, float], best_top1: float | None = None
    ) -> None:
        """Take a checkpoint; when it is written, mark it as the best if it is, and remove some.

        Raises:
            NonFiniteError: A weight is NaN or infinite.
            StorageError: The one before could not be written.
            OtherRankError: One of these happened on rank 0, and this is another.
        """
        started = time.perf_counter()
        self._engine.agree()
        self._ranks.lead(lambda: self._begin(position, dict(metrics), best_top1, started))

    def complete(
        self, position: Position, metrics: Mapping[str, float], best_top1: float | None = None
    ) -> None:
        """Say in the last checkpoint, which is of this step, how its epoch has ended.

        Nothing but the record is written again: an evaluation changes neither weights nor state.

        Raises:
            StorageError: It cannot be written.
            OtherRankError: That happened on rank 0, and this is another.
        """
        self._ranks.lead(lambda: self._complete(position, dict(metrics), best_top1))

    def finish(self) -> None:
        """Wait until the last checkpoint is written. Every rank calls this.

        Raises:
            StorageError: It cannot be written.
            OtherRankError: That happened on rank 0, and this is another.
        """
        self._ranks.lead(self._wait)

    def tell(self) -> None:
        """Emit the events of what has been written; does not wait."""
        while self._events_of_thread:
            event, fields = self._events_of_thread.pop(0)
            self._events.emit(event, **fields)

    def _wait(self) -> None:
        """Wait for the checkpoint that is being written, and raise what went wrong."""
        writing, self._writing = self._writing, None
        try:
            if writing:
                writing.result()
        finally:
            self.tell()

    def _wait_after_error(self) -> None:
        try:
            self._wait()
        except RunnerError as error:
            with suppress(RunnerError):  # the disk may be what failed
                self._events.emit("warning", message=str(error))

    def _complete(
        self, position: Position, metrics: Mapping[str, float], best_top1: float | None
    ) -> None:
        self._wait()
        path = self._last
        if path is None or not checkpoint.is_complete(path):  # somebody has removed it
            self._begin(position, metrics, best_top1, time.perf_counter())
            return
        checkpoint.complete(path, position, metrics)
        self._settle(path, position.step, best_top1)
        self.tell()

    def _begin(
        self,
        position: Position,
        metrics: Mapping[str, float],
        best_top1: float | None,
        started: float,
    ) -> None:
        """Copy everything, and hand it to the thread."""
        self._wait()
        state, weights = self._engine.state(), self._engine.weights()
        checkpoint.check_finite(weights)
        info = CheckpointInfo(
            position=position,
            classes=self._classes,
            weights_kind=self._weights_kind,
            metrics=metrics,
            state_values=state.values,
        )
        stall_s = time.perf_counter() - started
        self._writing = self._thread.submit(self._write, info, weights, state, best_top1, stall_s)

    def _write(
        self,
        info: CheckpointInfo,
        weights: Mapping[str, NDArray[Any]],
        state: EngineState,
        best_top1: float | None,
        stall_s: float,
    ) -> None:
        """Write a checkpoint, on the thread."""
        started = time.perf_counter()
        step = info.position.step
        self._last = path = checkpoint.save(
            self._folder, info, weights=weights, state=state, recipe_text=self._recipe_text
        )
        write_s = round(time.perf_counter() - started, 3)
        self._note(
            "checkpoint.saved", path=path, step=step, stall_s=round(stall_s, 3), write_s=write_s
        )
        self._settle(path, step, best_top1)

    def _settle(self, path: Path, step: int, best_top1: float | None) -> None:
        """Mark the best, and remove what is no longer wanted."""
        if self._goes_back:  # now that there is one to go on from
            self._goes_back = False
            for later in checkpoint.remove_later(self._folder, step):
                reason = "the run went back to an earlier one"
                self._note("checkpoint.removed", path=later, reason=reason)
        if best_top1 is not None:
            checkpoint.mark_best(self._folder, path, best_top1)
        self._remove_old()
        self._ranks.reporter.checkpoint(path)  # after what is later has gone: it is now the latest

    def _remove_old(self) -> None:
        section = self._section
        for old in checkpoint.remove_old(
            self._folder, keep=section.keep, keep_best=section.keep_best
        ):
            self._note("checkpoint.removed", path=old)

    def _note(self, event: str, *, path: Path, **fields: Any) -> None:
        """Keep an event for the loop's thread: listeners are called by one thread only."""
        self._events_of_thread.append((event, {"path": str(path), **fields}))

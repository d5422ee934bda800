"""Checkpoints of a run: when one is written, which ones stay, and which is the best."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, final

from runner import checkpoint
from runner.checkpoint import CheckpointInfo

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from runner.checkpoint import Checkpoint, Position
    from runner.contracts import Engine
    from runner.events import EventLog
    from runner.ranks import Ranks
    from runner.recipe.schema import CheckpointSection


@final
class Saver:
    """Writes the checkpoints of one run; every rank calls it, rank 0 writes."""

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
        self.last: Path | None = None
        """The checkpoint that was written or continued from last."""

    def continue_from(self, saved: Checkpoint) -> None:
        """Go on from a checkpoint."""
        self.last = saved.path
        self._goes_back = True
        position, top1 = saved.info.position, saved.info.position.best_top1
        ended_epoch = position.step_in_epoch == 0 and position.best_epoch == position.epoch
        if ended_epoch and top1 is not None:
            # a process that was killed right after saving has not marked its best
            self._ranks.lead(lambda: checkpoint.mark_best(self._folder, saved.path, top1))

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
        """Write a checkpoint, mark it as the best if it is, and remove those that are too many.

        Raises:
            NonFiniteError: A weight is NaN or infinite.
            StorageError: It cannot be written.
            OtherRankError: One of these happened on rank 0, and this is another.
        """
        self._engine.agree()
        self._ranks.lead(lambda: self._write(position, metrics, best_top1))

    def _write(
        self, position: Position, metrics: Mapping[str, float], best_top1: float | None
    ) -> None:
        info = CheckpointInfo(
            position=position,
            classes=self._classes,
            weights_kind=self._weights_kind,
            metrics=metrics,
        )
        state = self._engine.state()
        self.last = path = checkpoint.save(
            self._folder,
            replace(info, state_values=state.values),
            weights=self._engine.weights(),
            state=state,
            recipe_text=self._recipe_text,
        )
        self._events.emit("checkpoint.saved", path=str(path), step=position.step)
        if self._goes_back:  # now that there is one to go on from
            self._goes_back = False
            for later in checkpoint.remove_later(self._folder, position.step):
                reason = "the run went back to an earlier one"
                self._events.emit("checkpoint.removed", path=str(later), reason=reason)
        if best_top1 is not None:
            checkpoint.mark_best(self._folder, path, best_top1)
        for old in checkpoint.remove_old(
            self._folder, keep=self._section.keep, keep_best=self._section.keep_best
        ):
            self._events.emit("checkpoint.removed", path=str(old))

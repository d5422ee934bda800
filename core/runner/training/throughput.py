"""Rates of images, and the time of single steps."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from runner.contracts import StepRecord
from runner.terminal.display import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from runner.contracts import Batch
    from runner.recipe.schema import ThroughputSection
    from runner.storage.checkpoint import Position


@final
class Throughput:
    """Images per second over the time that was spent in training steps.

    A window ends when the device is known to be idle, that is when a loss was read. The first
    window holds warm-up (memory allocation, kernel selection, compilation) and is left out of the
    total, unless it is the only one.
    """

    def __init__(self) -> None:
        self._windows = 0
        self._images = self._seconds = self._waited = 0.0

    def add(self, images: float, seconds: float, waited: float) -> None:
        """Add a window of ``seconds``, of which ``waited`` were spent waiting for data."""
        if self._windows == 1:  # the first window stands alone until there is a second
            self._images = self._seconds = self._waited = 0.0
        self._windows += 1
        self._images += images
        self._seconds += seconds
        self._waited += waited

    def images_per_s(self) -> float | None:
        """Return the rate over all windows after the first."""
        return self._images / self._seconds if self._seconds else None

    def data_wait(self) -> float | None:
        """Return the share of time that the loop waited for data, in [0, 1]."""
        return self._waited / self._seconds if self._seconds else None


@final
@dataclass(slots=True)
class StepTime:
    """When a step of this process was done, by the host's clock."""

    images: int
    """Of this rank."""
    learning_rate: float
    seconds: float
    """Since the end of the step before."""
    data_seconds: float
    """Of these, waiting for data."""


@final
class Window:
    """The steps since the last log line: their time, and time spent waiting for data."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Begin a new window now."""
        self.waited = 0.0
        self._steps: list[StepTime] = []
        self._waited_for_step = 0.0
        self._start = self._last = time.perf_counter()

    def seconds(self) -> float:
        """Return how long it has lasted."""
        return time.perf_counter() - self._start

    def timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yield the batches, counting the time it takes to get them."""
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            self._waited_for_step = time.perf_counter() - asked
            self.waited += self._waited_for_step
            if batch is None:
                return
            yield batch

    def end_step(self, images: int, learning_rate: float) -> None:
        """Note that the host is done with a step; the device may still be at work."""
        now = time.perf_counter()
        self._steps.append(StepTime(images, learning_rate, now - self._last, self._waited_for_step))
        self._last = now

    def settle(self) -> None:
        """Note that the device is done as well: what it took longer belongs to the last step."""
        now = time.perf_counter()
        if self._steps:
            self._steps[-1].seconds += now - self._last
        self._last = now

    def take_steps(self) -> list[StepTime]:
        """Return the steps since the last time, whose work the device has done."""
        self.settle()
        steps, self._steps = self._steps, []
        return steps


def records(
    position: Position,
    losses: Sequence[float | None],
    times: Sequence[StepTime],
    images: Sequence[float],
) -> list[StepRecord]:
    """Put together what is known of the last steps of a run.

    Args:
        position: Where the run stands, after those steps.
        losses: Of each step over all ranks; fewer when one of them ends the run.
        times: Of each step.
        images: Of each step over all ranks.
    """
    count = len(times)
    return [
        StepRecord(
            step=position.step - count + number,
            epoch=position.epoch,
            step_in_epoch=position.step_in_epoch - count + number,
            loss=loss,
            learning_rate=taken.learning_rate,
            images=int(image_count),
            seconds=taken.seconds,
            data_seconds=taken.data_seconds,
        )
        for number, (loss, taken, image_count) in enumerate(
            zip(losses, times, images, strict=False)
        )
    ]


@final
class StepRates:
    """Throughput as other systems define it: images of a step over the mean time of a step.

    Steps count from where this process began, so that one that continues a run leaves its own
    warm-up out as well, and knows nothing of what was measured before it.
    """

    def __init__(self, sections: Sequence[ThroughputSection]) -> None:
        self._rates = [_Rate(section) for section in sections]

    def begin_epoch(self) -> None:
        """Leave the first steps out again, where the recipe says so of every epoch."""
        for rate in self._rates:
            rate.begin_epoch()

    def ends_warm_up(self) -> bool:
        """Count a step, and say whether the steps that are left out end with it.

        What the device has not done by then would be added to the steps that count.
        """
        ended = [rate.ends_warm_up() for rate in self._rates]
        return any(ended)

    def add(self, records: Sequence[StepRecord]) -> None:
        """Add steps whose time is known."""
        for rate in self._rates:
            for record in records:
                rate.add(record)

    def end_epoch(self) -> dict[str, float]:
        """Return the rates of the epoch, or of the run up to here; none without a step."""
        return {r.metric: value for r in self._rates if (value := r.end_epoch()) is not None}

    def of_run(self) -> dict[str, float]:
        """Return the rates of the run: means over its epochs where they count by epoch."""
        return {r.metric: value for r in self._rates if (value := r.mean()) is not None}

    def too_short(self, steps_per_epoch: int, epochs: int) -> Iterator[str]:
        """Say which rates will not be measured, because all steps are left out."""
        for rate in self._rates:
            section = rate.section
            steps, whole = steps_per_epoch, "every epoch"
            if section.per == "run":
                steps, whole = steps_per_epoch * epochs, "the run"
            if steps <= section.skip_steps:
                yield (
                    f"{rate.metric} is not measured: it leaves out the first "
                    f"{counted(section.skip_steps, 'step')} of {whole}, which has {steps}"
                )


@final
class _Rate:
    """One item of ``throughput:``."""

    def __init__(self, section: ThroughputSection) -> None:
        self.section = section
        self.metric = f"throughput.{section.name}"
        self._done = self._read = 0
        self._images = self._seconds = 0.0
        self._values: list[float] = []

    def begin_epoch(self) -> None:
        if self.section.per == "epoch":
            self._done = self._read = 0
            self._images = self._seconds = 0.0

    def ends_warm_up(self) -> bool:
        self._done += 1
        return self._done == self.section.skip_steps

    def add(self, record: StepRecord) -> None:
        self._read += 1
        if self._read > self.section.skip_steps:
            self._images += record.images
            self._seconds += record.seconds

    def end_epoch(self) -> float | None:
        if not self._seconds:
            return None
        self._values.append(self._images / self._seconds)
        return self._values[-1]

    def mean(self) -> float | None:
        if not self._values:
            return None
        if self.section.per == "run":
            return self._values[-1]
        return sum(self._values) / len(self._values)

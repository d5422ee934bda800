"""Rates of images, and the time of single steps."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from runner.contracts import StepRecord, StepResult
from runner.distributed.ranks import AgreedStop, Ranks
from runner.distributed.signals import StopRequest
from runner.recipe.schema import EvalSection, ThroughputSection, TrainSection
from runner.storage.events import EventLog
from runner.training.loop import Trainer
from runner.training.throughput import StepRates, Throughput, Window


def test_the_first_window_is_warm_up():
    meter = Throughput()
    meter.add(10, 10.0, 5.0)
    assert meter.images_per_s() == 1.0
    meter.add(10, 1.0, 0.25)
    assert meter.images_per_s() == 10.0
    assert meter.data_wait() == 0.25
    meter.add(20, 3.0, 0.75)
    assert meter.images_per_s() == 7.5
    assert meter.data_wait() == 0.25


def record(images: int, seconds: float) -> StepRecord:
    return StepRecord(
        step=0,
        epoch=0,
        step_in_epoch=0,
        loss=None,
        learning_rate=0.1,
        images=images,
        seconds=seconds,
        data_seconds=0.0,
    )


class Epochs:
    """Takes steps as the loop does, and reads them two at a time."""

    def __init__(self, *sections: ThroughputSection) -> None:
        self.rates = StepRates(sections)
        self.boundaries: list[int] = []

    def epoch(self, *seconds: float) -> dict[str, float]:
        self.rates.begin_epoch()
        waiting = []
        for number, taken in enumerate(seconds, start=1):
            if self.rates.ends_warm_up():
                self.boundaries.append(number)
            waiting.append(record(8, taken))
            if len(waiting) == 2:
                self.rates.add(waiting)
                waiting = []
        self.rates.add(waiting)
        return self.rates.end_epoch()


def test_the_first_steps_of_every_epoch_are_left_out_and_epochs_averaged():
    run = Epochs(ThroughputSection(name="fps", skip_steps=1))
    assert run.epoch(100.0, 1.0, 3.0) == {"throughput.fps": 4.0}
    assert run.epoch(50.0, 1.0, 1.0) == {"throughput.fps": 8.0}
    assert run.rates.of_run() == {"throughput.fps": 6.0}
    assert run.boundaries == [1, 1]


def test_the_first_steps_of_the_run_are_left_out_once():
    run = Epochs(ThroughputSection(name="fps", skip_steps=4, per="run"))
    assert run.epoch(9.0, 9.0, 9.0) == {}
    assert run.epoch(9.0, 1.0, 3.0) == {"throughput.fps": 4.0}
    assert run.epoch(1.0, 1.0, 2.0) == {"throughput.fps": 5.0}
    assert run.rates.of_run() == {"throughput.fps": 5.0}
    assert run.boundaries == [1]  # the fourth step of the run


def test_a_rate_whose_steps_are_all_left_out_is_absent_and_said_to_be():
    sections = ThroughputSection(name="a", skip_steps=3), ThroughputSection(name="b")
    run = Epochs(*sections)
    assert run.epoch(1.0, 1.0, 1.0) == {"throughput.b": 8.0}
    assert list(run.rates.too_short(3, 2)) == [
        "throughput.a is not measured: it leaves out the first 3 steps of every epoch, which has 3"
    ]
    per_run = StepRates([ThroughputSection(name="c", skip_steps=20, per="run")])
    assert list(per_run.too_short(20, 2)) == []
    assert list(per_run.too_short(10, 2)) == [
        "throughput.c is not measured: it leaves out the first 20 steps of the run, which has 20"
    ]


def test_a_step_lasts_from_the_end_of_the_one_before_to_when_the_device_is_done(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def batches():
        for wait in (1.0, 2.0):
            now[0] += wait
            yield SimpleNamespace(labels=[0, 1, 2])

    window = Window()
    for number, batch in enumerate(window.timed(batches())):
        now[0] += 4.0
        window.end_step(len(batch.labels), 0.1 * number)
    now[0] += 0.5  # the device
    steps = window.take_steps()
    assert [(s.images, s.learning_rate) for s in steps] == [(3, 0.0), (3, 0.1)]
    assert [(s.seconds, s.data_seconds) for s in steps] == [(5.0, 1.0), (6.5, 2.0)]
    assert sum(s.seconds for s in steps) == window.seconds()
    assert window.take_steps() == []


class LateDevice:
    """An engine whose device works behind the host: 10 s for each of two steps, then 1 s."""

    def __init__(self) -> None:
        self.now = self.free_at = 0.0
        self.steps = 0

    def train_step(self, batch: object, learning_rate: float) -> SimpleNamespace:
        self.now += 0.001
        self.steps += 1
        self.free_at = max(self.now, self.free_at) + (10.0 if self.steps <= 2 else 1.0)
        return SimpleNamespace(read=lambda done=self.free_at: self._wait(done))

    def _wait(self, done: float) -> StepResult:
        self.now = max(self.now, done)
        return StepResult(loss=1.0)

    def synchronize(self) -> None:
        self.now = max(self.now, self.free_at)


def test_steps_that_are_left_out_leave_no_work_to_those_that_count(monkeypatch):
    device = LateDevice()
    monkeypatch.setattr(time, "perf_counter", lambda: device.now)
    batch = SimpleNamespace(labels=range(8))
    loader = SimpleNamespace(train_batches=lambda *_, steps, **__: (batch for _ in range(steps)))
    section = TrainSection(epochs=1, batch_size=8, log_every_steps=8)
    plan = SimpleNamespace(
        recipe=SimpleNamespace(
            throughput=[ThroughputSection(name="fps", skip_steps=2)],
            eval=EvalSection(start_epoch=9),
        ),
        train=section,
        steps_per_epoch=lambda _images: 16,
        learning_rate=lambda *_: 0.1,
    )
    split: Any = SimpleNamespace(dataset=SimpleNamespace(labels=range(128)), loader=loader)
    ranks = Ranks()
    told: list[StepRecord] = []
    trainer = Trainer(
        cast("Any", plan),
        cast("Any", device),
        split,
        split,
        ranks=ranks,
        saver=cast("Any", SimpleNamespace(is_due=lambda _: False, tell=lambda: None)),
        events=EventLog(),
        stop=AgreedStop(StopRequest(), ranks),
        finished_steps=told.extend,
    )
    trainer._train_epoch(0)
    rates = trainer._rates.end_epoch()
    assert rates["throughput.fps"] == pytest.approx(8.0, rel=1e-3)
    assert sum(item.seconds for item in told[:2]) == pytest.approx(20, rel=1e-3)
    assert sum(item.seconds for item in told) == pytest.approx(device.now)


@pytest.mark.parametrize("section", ["epoch", "run"])
def test_a_run_reports_the_rate_beside_its_own_and_beside_a_published_one(project, section):
    extra = (
        f"throughput: [{{name: fps, skip_steps: 2, per: {section}}}]\n"
        "reference: [{metric: throughput.fps, value: 1.0, source: a paper}]\n"
    )
    outcome = project.run(extra=extra)
    assert outcome.code == 0, outcome.err
    metrics = outcome.json["metrics"]
    epochs = [e["throughput.fps"] for e in project.events() if e["event"] == "epoch.finished"]
    assert len(epochs) == 3
    expected = sum(epochs) / 3 if section == "epoch" else epochs[-1]
    assert metrics["throughput.fps"] == pytest.approx(expected)
    assert outcome.json["reference"][0]["measured"] == metrics["throughput.fps"]


def test_a_run_that_is_too_short_says_so(project):
    outcome = project.run(extra="throughput: [{name: fps, skip_steps: 12}]\n")
    assert outcome.code == 0
    assert "throughput.fps" not in outcome.json["metrics"]
    messages = [e["message"] for e in project.events() if e["event"] == "warning"]
    assert messages == [
        "throughput.fps is not measured: it leaves out the first 12 steps of every epoch, which "
        "has 12"
    ]


def test_two_rates_of_one_name_are_refused(project):
    outcome = project.run(extra="throughput: [{name: fps}, {name: fps, per: run}]\n")
    assert outcome.code == 2
    assert "colours.yaml:15:34: throughput.1.name: 'fps' is measured twice" in outcome.err


def test_a_rate_without_training_is_refused(project):
    file = project.path / "only_eval.yaml"
    file.write_text(
        "extends: colours.yaml\ntrain: null\noptimizer: null\nschedule: null\n"
        "transforms: {train: null}\n"
    )
    project.write_recipe("throughput: [{name: fps}]\n")
    outcome = project.runner("explain", file)
    assert outcome.code == 2
    assert "throughput has no effect without a section `train`" in outcome.err
    file.write_text(file.read_text() + "throughput: []\n")
    assert project.runner("explain", file).code == 0

"""Further logs of a run: what is in them, and what becomes of one that fails."""

from __future__ import annotations

import csv
import json
import re
from datetime import datetime
from functools import partial
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from runner import LoggerEntry, hookimpl
from runner.contracts import RunLogger
from runner.errors import PluginError
from runner.loggers.dllogger import DlLogger
from runner.loggers.step_csv import StepCsv
from runner.plugins import loading

DLLOGGER = "loggers: [{name: dllogger}]\n"
STEP_CSV = "loggers: [step_csv]\n"


@pytest.fixture
def project(project, monkeypatch):
    monkeypatch.setenv("RUNNER_PLUGINS", "fake,data,logs")
    return project


def dll_lines(file) -> list[dict[str, Any]]:
    """Read a log as DLLogger's own readers do."""
    lines = file.read_text().splitlines()
    assert all(line.startswith("DLLL ") for line in lines)
    return [json.loads(line.removeprefix("DLLL ")) for line in lines]


def steps_of(file):
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_dllogger_writes_what_its_readers_expect(project):
    outcome = project.run(extra=DLLOGGER)
    assert outcome.code == 0, outcome.err
    result = outcome.json
    lines = dll_lines(project.run_folder() / "experiment_raport.json")
    for line in lines:
        assert {"timestamp", "datetime", "elapsedtime", "type"} < line.keys()
        assert all(isinstance(line[key], str) for key in ("timestamp", "datetime", "elapsedtime"))
        moment = datetime.fromisoformat(line["datetime"]).timestamp()
        assert moment == pytest.approx(float(line["timestamp"]), abs=1e-5)
        rest = {"step", "data"} if line["type"] == "LOG" else {"metric", "metadata"}
        assert rest < line.keys()
    metadata = {line["metric"]: line["metadata"] for line in lines if line["type"] == "METADATA"}
    assert metadata["train.total_ips"] == {"unit": "img/s", "format": ":.2f"}
    assert metadata["val.top1"] == {"unit": "%", "format": ":.2f"}
    assert metadata["train.loss"] == {"format": ":.5f"}

    logged = [(line["step"], line["data"]) for line in lines if line["type"] == "LOG"]
    assert logged[0][0] == "PARAMETER"
    assert logged[0][1]["optimizer"]["learning_rate"] == 0.05
    steps = [data for step, data in logged if len(step) == 2]
    assert [step for step, _ in logged if len(step) == 2] == [
        [epoch, step] for epoch in range(3) for step in range(1, 13)
    ]
    assert list(steps[0]) == [
        "train.loss",
        "lr",
        "train.compute_ips",
        "train.total_ips",
        "train.data_time",
        "train.compute_time",
    ]
    epochs = [(step, data) for step, data in logged if len(step) == 1]
    assert [step for step, _ in epochs] == [[0], [1], [2]]
    finished = [e for e in project.events() if e["event"] == "epoch.finished"]
    for (_, data), event in zip(epochs, finished, strict=True):
        assert data["train.loss"] == event["train.loss"]
        assert data["val.top1"] == 100 * event["val.top1"]
        assert data["val.total_ips"] == event["val.images_per_s"]
    [run] = [data for step, data in logged if step == []]
    assert run["val.top1"] == 100 * result["best_top1"]
    assert run["train.loss"] == min(data["train.loss"] for _, data in epochs)
    assert set(run) <= set(metadata)
    written = set().union(*(data for step, data in logged if step != "PARAMETER"))
    assert set(metadata) == {*written, "val.top5"}, "which three classes do not have"


def test_rates_of_dllogger_are_images_over_time(project):
    project.run(extra=DLLOGGER)
    logged = [x for x in dll_lines(project.run_folder() / "experiment_raport.json") if "step" in x]
    steps = [x["data"] for x in logged if len(x["step"]) == 2 and x["step"][0] == 0]
    [epoch] = [x["data"] for x in logged if x["step"] == [0]]
    for data in steps:
        seconds = data["train.data_time"] + data["train.compute_time"]
        assert data["train.total_ips"] == pytest.approx(8 / seconds)
        assert data["train.compute_ips"] == pytest.approx(8 / data["train.compute_time"])
    seconds = sum(data["train.data_time"] + data["train.compute_time"] for data in steps)
    assert epoch["train.total_ips"] == pytest.approx(96 / seconds)
    assert epoch["lr"] == steps[-1]["lr"]


def test_dllogger_averages_over_the_steps_of_a_line(project):
    project.run(
        extra="loggers: [{name: dllogger, file: all.json}, {name: dllogger, every_steps: 5}]\n"
    )
    folder = project.run_folder()
    every = {tuple(x["step"]): x["data"] for x in dll_lines(folder / "all.json") if "step" in x}
    lines = dll_lines(folder / "experiment_raport.json")
    fifth = [x for x in lines if "step" in x and len(x["step"]) == 2]
    assert [x["step"] for x in fifth] == [[e, s] for e in range(3) for s in (5, 10)]
    losses = [every[1, step]["train.loss"] for step in (6, 7, 8, 9, 10)]
    assert fifth[3]["data"]["train.loss"] == pytest.approx(sum(losses) / 5)


def test_an_evaluation_alone_is_logged_as_the_run(project):
    project.run()
    file = project.path / "only_eval.yaml"
    file.write_text(
        "summary: Evaluate only\nframework: fake\ndevice: fake_cpu\ndataset: fake_colours\n"
        "transforms: {eval: [{name: resize, exact: [8, 8]}]}\nmodel: linear\nloggers: [dllogger]\n"
    )
    [saved] = project.run_folder().glob("checkpoints/step_*36")
    assert project.runner("run", file, "--set", f"model.weights={saved}").code == 0
    lines = dll_lines(project.run_folder("only_eval") / "experiment_raport.json")
    assert {x["metric"].partition(".")[0] for x in lines if "metric" in x} == {"val"}
    [parameters, run] = [x for x in lines if "step" in x]
    assert parameters["step"] == "PARAMETER"
    assert run["step"] == []
    assert set(run["data"]) == {"val.top1", "val.loss", "val.total_ips"}


def test_the_csv_has_a_line_for_each_step(project):
    assert project.run(extra=STEP_CSV).code == 0
    rows = steps_of(project.run_folder() / "steps.csv")
    assert [int(row["step"]) for row in rows] == list(range(36))
    assert [int(row["epoch"]) for row in rows] == [step // 12 for step in range(36)]
    assert [int(row["step_in_epoch"]) for row in rows] == [step % 12 for step in range(36)]
    assert {row["images"] for row in rows} == {"8"}
    finished = [e["train.loss"] for e in project.events() if e["event"] == "epoch.finished"]
    means = [sum(float(r["loss"]) for r in rows[12 * e : 12 * e + 12]) / 12 for e in range(3)]
    assert means == pytest.approx(finished, rel=1e-12)
    logged = [e for e in project.events() if e["event"] == "train.step"]
    assert [float(rows[e["step"] - 1]["learning_rate"]) for e in logged] == [
        e["learning_rate"] for e in logged
    ]
    assert all(0 <= float(r["data_seconds"]) <= float(r["seconds"]) for r in rows)


def test_steps_come_before_the_line_that_sums_them_up(project, monkeypatch):
    seen: list[object] = []
    monkeypatch.setattr(StepCsv, "steps", lambda _, records: seen.extend(r.step for r in records))
    monkeypatch.setattr(
        StepCsv, "event", lambda _, name, fields: seen.append((name, fields.get("step")))
    )
    project.run("--set", "train.epochs=1", extra=STEP_CSV)
    assert seen[:2] == [("run.started", 0), ("train.first_step", 1)]
    assert seen[2:7] == [0, 1, 2, 3, ("train.step", 4)]


def test_an_overflow_has_no_loss(project):
    project.run("--set", "framework.overflow_at_step=5", extra=STEP_CSV)
    losses = [row["loss"] for row in steps_of(project.run_folder() / "steps.csv")]
    assert [position for position, loss in enumerate(losses) if not loss] == [5]


def test_the_steps_before_a_loss_that_is_not_finite_are_written(project):
    outcome = project.run("--set", "framework.non_finite_at_step=14", extra=STEP_CSV)
    assert outcome.code == 8
    rows = steps_of(project.run_folder() / "steps.csv")
    assert [int(row["step"]) for row in rows] == list(range(14))


def test_a_run_that_continues_appends(project):
    extra = "checkpoint: {every_steps: 5}\nloggers: [dllogger, {name: step_csv, delimiter: ;}]\n"
    file = project.write_recipe(extra)
    with pytest.raises(RuntimeError, match="fake"):
        project.runner("run", file, "--set", "framework.fail_after_steps=17")
    folder = project.run_folder()
    cut = folder / "steps.csv"
    cut.write_text(cut.read_text() + "1;15")  # as a process that is killed leaves it
    project.monkeypatch.setenv("RUNNER_FAKE_SOUND", "1")
    assert project.runner("resume", folder).code == 0
    rows = [line.split(";") for line in cut.read_text().splitlines()]
    assert [row[0] for row in rows].count("epoch") == 1
    whole = [row for row in rows[1:] if len(row) == len(rows[0])]
    assert sorted({int(row[1]) for row in whole}) == list(range(36))
    assert [int(row[1]) for row in whole][-21:] == list(range(15, 36))
    lines = dll_lines(folder / "experiment_raport.json")
    assert [x["step"] for x in lines if "step" in x].count("PARAMETER") == 2
    assert lines[-1]["step"] == []


def test_a_run_that_continues_may_be_logged_otherwise(project):
    project.run("--set", "checkpoint.keep=3")
    folder = project.run_folder()
    (folder / "result.json").unlink()
    [first, *_] = sorted((folder / "checkpoints").glob("step_*"))
    resumed = project.runner("resume", first, "--set", "loggers=[step_csv]")
    assert resumed.code == 0, resumed.err
    assert [int(row["step"]) for row in steps_of(folder / "steps.csv")] == list(range(12, 36))


def test_a_smoke_run_writes_its_logs_and_rates(project):
    extra = "loggers: [step_csv]\nthroughput: [{name: fps, skip_steps: 10}]\n"
    outcome = project.runner("run", project.write_recipe(extra), "--smoke", "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["metrics"]["throughput.fps"] > 0
    assert len(steps_of(project.run_folder("colours-smoke") / "steps.csv")) == 3


def test_a_logger_that_fails_is_reported_and_switched_off(project, monkeypatch):
    def full(self, records):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(StepCsv, "steps", full)
    outcome = project.run(extra="loggers: [dllogger, step_csv]\n")
    assert outcome.code == 0
    [event] = [e for e in project.events() if e["event"] == "warning"]
    assert event["message"] == (
        "logger 'step_csv' failed and writes nothing more of this run: OSError: [Errno 28] No "
        "space left on device"
    )
    lines = dll_lines(project.run_folder() / "experiment_raport.json")
    assert lines[-1]["step"] == []


def test_a_file_that_cannot_be_written_ends_the_run_before_it_trains(project):
    outcome = project.run(extra="loggers: [{name: step_csv, file: /proc/none/steps.csv}]\n")
    assert outcome.code == 9
    assert (
        "logger 'step_csv' cannot write: No such file or directory: /proc/none/steps.csv"
        in outcome.err
    )
    assert "train.step" not in {event["event"] for event in project.events()}


def test_a_logger_that_cannot_be_opened_is_named(project, monkeypatch):
    def broken(self, run, options):
        raise ValueError("no such format")

    monkeypatch.setattr(DlLogger, "__init__", broken)
    outcome = project.run(extra=DLLOGGER)
    assert outcome.code == PluginError.exit_code
    assert "logger 'dllogger' of plugin 'logs' (vision-runner" in outcome.err
    assert "cannot be opened: no such format" in outcome.err


class Heard(RunLogger):
    """Is always on, and fails where it is told to."""

    fails_in = ""
    error: BaseException = OSError(28, "No space left on device")
    heard: ClassVar[list[tuple[str, Any]]] = []

    def __init__(self, run, options):
        self.hear("open", run.name)

    def hear(self, what, value):
        self.heard.append((what, value))
        if what == self.fails_in:
            raise self.error

    def event(self, name, fields):
        self.hear("event", name)

    def steps(self, records):
        self.hear("steps", [record.step for record in records])

    def close(self):
        self.hear("close", None)


@pytest.fixture
def always(monkeypatch):
    """Give a plan of this process a logger that is always on."""
    entry = LoggerEntry(name="heard", summary="A test", always=True, open=Heard)
    plugin = SimpleNamespace(runner_register_loggers=hookimpl(lambda: [entry]))
    monkeypatch.setattr(loading, "load", partial(loading.load, extra=[("heard", plugin)]))
    monkeypatch.setattr(Heard, "heard", [])
    return entry


def test_a_logger_that_is_always_on_hears_a_run_that_does_not_name_it(project, always):
    outcome = project.run()
    assert outcome.code == 0, outcome.err
    events = [name for what, name in Heard.heard if what == "event"]
    assert (events[0], events[-1]) == ("run.started", "run.finished")
    steps = [step for what, found in Heard.heard if what == "steps" for step in found]
    assert steps == list(range(outcome.json["steps"]))
    assert (Heard.heard[0][0], Heard.heard[-1][0]) == ("open", "close")
    explained = project.runner("explain", project.path / "colours.yaml").out
    assert re.search(r"logger +heard +from plugin 'heard' .*, always on", explained)


def test_one_that_the_recipe_names_as_well_is_opened_once(project, always):
    project.run(extra="loggers: [heard]\n")
    assert [what for what, _ in Heard.heard].count("open") == 1


@pytest.mark.parametrize("place", ["open", "event", "steps"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SystemExit(3)])
def test_a_logger_that_is_always_on_never_ends_a_run(project, always, monkeypatch, place, error):
    monkeypatch.setattr(Heard, "fails_in", place)
    monkeypatch.setattr(Heard, "error", error)
    outcome = project.run()
    assert outcome.code == 0, outcome.err
    [event] = [e for e in project.events() if e["event"] == "warning"]
    assert event["message"].startswith("logger 'heard' failed and writes nothing more of this run")
    assert [what for what, _ in Heard.heard].count(place) == 1


def test_an_interrupt_in_a_logger_is_not_swallowed(project, always, monkeypatch):
    monkeypatch.setattr(Heard, "fails_in", "event")
    monkeypatch.setattr(Heard, "error", KeyboardInterrupt())
    assert project.run().code == 130


def test_the_csv_of_a_recipe_that_does_not_train_is_refused(project):
    project.write_recipe(STEP_CSV)
    file = project.path / "only_eval.yaml"
    file.write_text(
        "extends: colours.yaml\ntrain: null\noptimizer: null\nschedule: null\n"
        "transforms: {train: null}\n"
    )
    outcome = project.runner("run", file, "--smoke")
    assert outcome.code == 2
    assert "the recipe does not train" in outcome.err


def test_of_several_processes_one_writes_and_counts_the_images_of_all(project):
    recipe = project.write_recipe("loggers: [step_csv, dllogger]\nthroughput: [{name: fps}]\n")
    process = project.start("run", recipe, "--devices", "2", "--json")
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    rows = steps_of(project.run_folder() / "steps.csv")
    assert [int(row["step"]) for row in rows] == list(range(36))
    assert {row["images"] for row in rows} == {"8"}
    finished = [e for e in project.events() if e["event"] == "epoch.finished"]
    means = [sum(float(r["loss"]) for r in rows[12 * e : 12 * e + 12]) / 12 for e in range(3)]
    assert means == pytest.approx([e["train.loss"] for e in finished], rel=1e-9)
    rates = [96 / sum(float(r["seconds"]) for r in rows[12 * e : 12 * e + 12]) for e in range(3)]
    assert [e["throughput.fps"] for e in finished] == pytest.approx(rates, rel=1e-3)
    metrics = json.loads(out)["metrics"]
    assert metrics["throughput.fps"] == pytest.approx(sum(rates) / 3, rel=1e-3)


def test_explain_and_lists_show_the_loggers(project):
    recipe = project.write_recipe("loggers: [step_csv, dllogger]\n")
    text = project.runner("explain", recipe).out
    assert "logger     step_csv" in text
    assert "chosen at colours.yaml:15:11" in text
    listed = project.runner("list", "loggers", "--json").json
    assert {row["name"] for row in listed} == {"dllogger", "step_csv"}
    unknown = project.run(extra="loggers: [dlloger]\n")
    assert unknown.code == 2
    assert "did you mean 'dllogger'?" in unknown.err


@pytest.mark.parametrize(
    ("loggers", "place", "message"),
    [
        ("{name: step_csv, file: recipe.yaml}", 0, "the run keeps its own records there"),
        ("{name: dllogger, file: ./events.jsonl}", 0, "the run keeps its own records there"),
        ("{name: step_csv, file: x/../checkpoints/best.json}", 0, "the run keeps its own records"),
        ("{name: step_csv, file: a/../../../x.csv}", 0, "leads out of the run folder"),
        ("{name: dllogger, file: .}", 0, "this is a folder"),
        ("{name: dllogger, file: a.log}, {name: step_csv, file: ./a.log}", 1, "loggers.0 writes"),
        ("{name: step_csv}, {name: step_csv}", 1, "loggers.0 writes"),
    ],
)
def test_a_log_over_other_files_is_refused(project, loggers, place, message):
    outcome = project.run(extra=f"loggers: [{loggers}]\n")
    assert outcome.code == 2
    assert re.search(r"\.yaml:\d+:\d+: loggers\.\d\.file: ", outcome.err), outcome.err
    assert f"loggers.{place}.file: " in outcome.err
    assert message in outcome.err
    assert not (project.path / "runs").exists()

"""The summary as the vendor's shell scripts write it, of a run of the fake framework."""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path

import pytest

from runner import cli

FAKE = Path(__file__).parents[2] / "data" / "third_party" / "fake_framework"
RECIPE = """\
summary: Colours with a linear classifier
framework: fake
device: fake_cpu
dataset: fake_colours
transforms:
  train: [{name: random_crop, size: 8, padding: 1}]
  eval: [{name: resize, exact: [8, 8]}]
model: linear
optimizer: {name: fake_sgd, learning_rate: 0.05}
train: {epochs: 2, batch_size: 8}
"""
THROUGHPUT = "throughput: [{name: fps_at_all, skip_steps: 10, per: epoch}]\n"


def run(extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int = 0) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(FAKE)
    monkeypatch.setenv("RUNNER_PLUGINS", "fake,data,ascend")
    (tmp_path / "colours.yaml").write_text(RECIPE + extra)
    monkeypatch.setattr(sys, "argv", ["runner", "run", "colours.yaml"])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == code
    [folder] = (tmp_path / "runs" / "colours").iterdir()
    return folder


def test_the_summary_of_a_run(tmp_path, monkeypatch, capsys):
    folder = run(THROUGHPUT + "loggers: [ascend_summary]\n", tmp_path, monkeypatch)
    result = json.loads((folder / "result.json").read_text())
    metrics = result["metrics"]
    lines = dict(
        line.split(" = ")
        for line in (folder / "linear_bs8_1p_fp32_acc.log").read_text().splitlines()
    )
    fps = metrics["throughput.fps_at_all"]
    assert list(lines.items())[:5] == [
        ("Network", "linear"),
        ("RankSize", "1"),
        ("BatchSize", "8"),
        ("DeviceType", platform.machine()),
        ("CaseName", "linear_bs8_1p_fp32_acc"),
    ]
    assert lines["ActualFPS"] == f"{fps:.2f}"
    assert lines["TrainingTime"] == f"{8000 / fps:.2f}"
    assert lines["TrainAccuracy"] == f"{100 * metrics['val.top1']:.3f}"
    assert float(lines["ActualLoss"]) > 0
    assert lines["E2ETrainingTime"] == str(round(result["seconds"]))
    assert "CompileTime" not in lines
    printed = capsys.readouterr().err.splitlines()
    assert f"Final Performance images/sec : {lines['ActualFPS']}" in printed
    assert f"Final Train Accuracy : {lines['TrainAccuracy']}" in printed
    assert f"E2E Training Duration sec : {lines['E2ETrainingTime']}" in printed


def test_a_run_for_performance_adds_the_first_two_steps(tmp_path, monkeypatch):
    extra = (
        "loggers: [{name: ascend_summary, purpose: perf, network: Net, fps: train.images_per_s}]\n"
    )
    folder = run(extra, tmp_path, monkeypatch)
    text = (folder / "Net_bs8_1p_fp32_perf.log").read_text()
    assert "CompileTime = " in text
    metrics = json.loads((folder / "result.json").read_text())["metrics"]
    assert f"ActualFPS = {metrics['train.images_per_s']:.2f}\n" in text


def test_a_metric_that_is_not_measured_is_an_error_before_the_run(tmp_path, monkeypatch, capsys):
    run("loggers: [ascend_summary]\n", tmp_path, monkeypatch, code=2)
    assert "'throughput.fps_at_all', which the recipe does not measure" in capsys.readouterr().err


def test_a_rate_that_is_not_there_is_left_out(tmp_path, monkeypatch):
    extra = "throughput: [{name: fps_at_all, skip_steps: 99}]\nloggers: [ascend_summary]\n"
    folder = run(extra, tmp_path, monkeypatch)
    text = (folder / "linear_bs8_1p_fp32_acc.log").read_text()
    assert "ActualFPS" not in text
    assert "TrainAccuracy" in text

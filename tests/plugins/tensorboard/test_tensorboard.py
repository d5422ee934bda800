from __future__ import annotations

import struct
import sys
from typing import TYPE_CHECKING

import pytest

import runner_tensorboard.plugin
from runner import LoggerEntry
from runner.contracts import RunInfo, StepRecord
from runner.plugins.loading import load

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from runner.contracts import RunLogger

RECIPE = {"seed": 1, "train": {"ema_decay": None, "amp": True}, "model": {"name": "caf\udce9"}}


def open_log(folder: Path) -> RunLogger:
    registry = load(extra=[("tb", runner_tensorboard.plugin)], environ={"RUNNER_PLUGINS": ""})
    entry = registry.find(LoggerEntry, "tensorboard").entry
    assert entry.always
    return entry.open(RunInfo(name="demo", folder=folder, recipe=RECIPE), entry.config())


def record(step: int, loss: float | None) -> StepRecord:
    return StepRecord(
        step=step,
        epoch=0,
        step_in_epoch=step,
        loss=loss,
        learning_rate=0.5,
        images=8,
        seconds=1.0,
        data_seconds=0.0,
    )


def records(file: Path) -> Iterator[bytes]:
    """Read a TFRecord file: length, checksum, data, checksum."""
    data = file.read_bytes()
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        yield data[12 : 12 + length]
        data = data[16 + length :]


def test_what_is_written_can_be_read_back_while_the_run_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event, SessionLog
    from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

    log = open_log(tmp_path)
    log.event("run.resumed", {"step": 2})
    log.steps([record(2, 1.5), record(3, None)])
    log.event("epoch.finished", {"epoch": 1, "epochs": 2, "train.loss": 1.5, "val.top1": 0.25})
    log.event("run.finished", {"result": {}})

    [file] = (tmp_path / "tensorboard").iterdir()
    events = [Event.FromString(item) for item in records(file)]
    found = {
        (value.tag, event.step): value.simple_value
        for event in events
        for value in event.summary.value
        if value.HasField("simple_value")
    }
    assert found == {
        ("step/loss", 3): 1.5,
        ("step/learning_rate", 3): 0.5,
        ("step/learning_rate", 4): 0.5,
        ("train/loss", 1): 1.5,
        ("val/top1", 1): 0.25,
    }
    assert [event.step for event in events if event.session_log.status == SessionLog.START] == [3]
    plugins = {
        value.tag: HParamsPluginData.FromString(value.metadata.plugin_data.content)
        for event in events
        for value in event.summary.value
        if value.metadata.plugin_data.plugin_name == "hparams"
    }
    values = plugins["_hparams_/session_start_info"].session_start_info.hparams
    assert {name: value.WhichOneof("kind") for name, value in values.items()} == {
        "seed": "number_value",
        "train.amp": "bool_value",
        "model.name": "string_value",
    }
    assert values["model.name"].string_value == "caf\\udce9"
    metrics = plugins["_hparams_/experiment"].experiment.metric_infos
    assert [metric.name.tag for metric in metrics] == ["val/top1", "val/loss"]
    assert "_hparams_/session_end_info" in plugins
    assert any(b'"seed": 1' in item for item in records(file))
    log.close()


def test_a_run_that_continues_within_a_second_has_a_further_file(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    for _ in range(3):
        open_log(tmp_path).close()
    assert len(list((tmp_path / "tensorboard").iterdir())) == 3


def test_without_tensorboardx_the_plugin_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    registry = load(extra=[("tb", runner_tensorboard.plugin)], environ={"RUNNER_PLUGINS": ""})
    info = next(info for info in registry.plugins if info.name == "tb")
    assert info.state == "unavailable"
    assert info.reason == (
        "tensorboardX is not installed; pip install 'vision-runner[tensorboard]'"
    )
    assert registry.find(LoggerEntry, "tensorboard").reason == info.reason

from __future__ import annotations

import struct
import sys
from typing import TYPE_CHECKING, Any

import pytest

import runner_tensorboard.plugin
from runner.contracts import EpochMetrics, RunInfo
from runner.plugins.loading import load

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def load_plugin() -> Any:
    return load(extra=[("tb", runner_tensorboard.plugin)], environ={"RUNNER_PLUGINS": ""})


def never(plugin: str, hook: str, error: Exception) -> None:
    raise AssertionError(f"{plugin} {hook}") from error


def records(file: Path) -> Iterator[bytes]:
    """Read a TFRecord file: length, checksum, data, checksum."""
    data = file.read_bytes()
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        yield data[12 : 12 + length]
        data = data[16 + length :]


def test_metrics_and_recipe_can_be_read_back(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event

    run = RunInfo(name="demo", folder=tmp_path, recipe={"seed": 1})
    observers = load_plugin().observers(never)
    observers.run_started(run)
    for epoch, top1 in ((1, 0.25), (2, 0.5)):
        values = {"train.loss": 1.5, "val.top1": top1}
        observers.epoch_finished(run, EpochMetrics(epoch=epoch, step=10 * epoch, values=values))

    files = sorted((tmp_path / "tensorboard").iterdir(), key=lambda file: file.suffix)
    assert [file.suffix for file in files] == [".epoch-000001", ".epoch-000002", ".recipe"]
    events = [Event.FromString(record) for file in files for record in records(file)]
    found = {
        (value.tag, event.step): value.simple_value
        for event in events
        for value in event.summary.value
        if value.HasField("simple_value")
    }
    assert found == {
        ("train/loss", 1): 1.5,
        ("val/top1", 1): 0.25,
        ("train/loss", 2): 1.5,
        ("val/top1", 2): 0.5,
    }
    assert any(b'"seed": 1' in record for record in records(files[-1]))


def test_without_tensorboardx_the_plugin_is_unavailable_and_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    plugins = load_plugin()
    info = next(info for info in plugins.registry.plugins if info.name == "tb")
    assert info.state == "unavailable"
    assert info.reason == (
        "tensorboardX is not installed; pip install 'vision-runner[tensorboard]'"
    )
    plugins.observers(never).run_started(RunInfo(name="demo", folder=tmp_path, recipe={}))
    assert list(tmp_path.iterdir()) == []

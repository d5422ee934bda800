"""Runs of two processes on the CPU, from the command line: they finish, stop and continue."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runner import checkpoint

pytest.importorskip("torch")

RECIPE = """
summary: Two processes
framework: torch
device: {name: cpu, count: 2}
dataset: {name: synthetic, train_count: 96, val_count: 7, size: [32, 32], class_count: 3}
transforms:
  train: [{name: random_crop, size: 32, padding: 4}]
  eval: [{name: center_crop, size: 32}]
model: {name: mobilenet_v2, dropout: 0.2}
optimizer: {name: sgd, learning_rate: 0.05, momentum: 0.9}
schedule: {name: cosine}
train: {epochs: 2, batch_size: 8, log_every_steps: 4, ema_decay: 0.9}
eval: {batch_size: 2}
checkpoint: {every_steps: 2, keep: 2}
"""


def start(folder: Path, *arguments: str | Path) -> subprocess.Popen[str]:
    (folder / "two.yaml").write_text(RECIPE, encoding="utf-8")
    return subprocess.Popen(
        [sys.executable, "-m", "runner", *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "RUNNER_PLUGINS": "torch,data", "PYTHONWARNINGS": "default"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_folder(folder: Path) -> Path:
    [found] = (path.parent for path in folder.glob("runs/two/*/events.jsonl"))
    return found


def checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("runs/two/*/checkpoints/step_*"))


def events(folder: Path, name: str) -> list[dict[str, object]]:
    lines = (run_folder(folder) / "events.jsonl").read_text(encoding="utf-8").splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == name]


def files(path: Path) -> dict[str, bytes]:
    names = (checkpoint.WEIGHTS, checkpoint.STATE)
    return {name: (path / name).read_bytes() for name in names}


def worker(folder: Path, rank: int) -> int:
    """The number of the process of a rank, which works in the folder."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            variables = set((process / "environ").read_bytes().split(b"\0"))
            if b"RANK=%d" % rank in variables and (process / "cwd").readlink() == folder:
                return int(process.name)
    raise AssertionError(f"rank {rank} does not run")


def wait_for_checkpoint(folder: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 200
    while not checkpoints(folder):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which a run of two processes has come to its end."""
    folder = tmp_path_factory.mktemp("undisturbed")
    process = start(folder, "train", "two.yaml", "--json")
    out, err = process.communicate()
    assert process.returncode == 0, out + err
    assert "Warning" not in err
    assert json.loads(out) == json.loads((run_folder(folder) / "result.json").read_text("utf-8"))
    return folder


def test_two_processes_leave_what_one_leaves(undisturbed: Path) -> None:
    result = json.loads((run_folder(undisturbed) / "result.json").read_text(encoding="utf-8"))
    assert result["world_size"] == 2
    assert result["steps"] == 24
    assert result["metrics"]["val.count"] == 7  # which two cannot share evenly
    assert len(events(undisturbed, "train.step")) == 6
    assert len(events(undisturbed, "epoch.finished")) == 2
    [opened] = events(undisturbed, "engine.opened")
    assert opened["micro_batch_size"] == 4
    assert opened["group"] == {"world_size": 2, "backend": "cpu:gloo"}
    assert [path.name for path in undisturbed.iterdir()] == ["two.yaml", "runs"]


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGINT])
def test_a_disturbed_run_says_why_and_continues_to_the_same_weights(
    undisturbed: Path, tmp_path: Path, by: signal.Signals
) -> None:
    process = start(tmp_path, "train", "two.yaml")
    wait_for_checkpoint(tmp_path, process)
    os.kill(worker(tmp_path, 1) if by == signal.SIGKILL else process.pid, by)
    _, err = process.communicate()
    if by == signal.SIGKILL:
        assert process.returncode == 1
        assert err.splitlines()[-1].startswith("error: rank 1 ended without saying why")
        assert "rank 0: error: a process of the group is gone" in err
    else:
        assert process.returncode == 128 + signal.SIGINT
        assert err.splitlines()[-1].startswith("error: stopped by signal 2 after step ")
        assert "Traceback" not in err
    disturbed = run_folder(tmp_path)
    assert not (disturbed / "result.json").exists()
    resumed = start(tmp_path, "resume", disturbed)
    out, err = resumed.communicate()
    assert resumed.returncode == 0, out + err
    assert len(events(tmp_path, "run.resumed")) == 1
    assert files(checkpoints(tmp_path)[-1]) == files(checkpoints(undisturbed)[-1])

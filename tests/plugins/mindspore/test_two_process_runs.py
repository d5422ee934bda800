"""Runs of two processes on the CPU, from the command line: they finish, and survive a kill."""

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

pytest.importorskip("mindspore")

RECIPE = """
summary: Two processes
framework: mindspore
device: {name: cpu, count: 2}
dataset: {name: synthetic, train_count: 24, val_count: 7, size: [32, 32], class_count: 3}
transforms:
  train: [{name: random_crop, size: 32, padding: 4}]
  eval: [{name: center_crop, size: 32}]
model: {name: resnet18}
optimizer: {name: sgd, learning_rate: 0.05, momentum: 0.9}
schedule: {name: cosine}
train: {epochs: 2, batch_size: 8, log_every_steps: 1}
eval: {batch_size: 2}
checkpoint: {every_steps: 2, keep: 2}
"""


def start(folder: Path, *arguments: str | Path) -> subprocess.Popen[str]:
    (folder / "two.yaml").write_text(RECIPE, encoding="utf-8")
    return subprocess.Popen(
        [sys.executable, "-m", "runner", *map(str, arguments)],
        cwd=folder,
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
    wanted = {b"MS_ROLE=MS_WORKER", b"MS_NODE_ID=%d" % rank}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            variables = set((process / "environ").read_bytes().split(b"\0"))
            if wanted <= variables and (process / "cwd").readlink() == folder:
                return int(process.name)
    raise AssertionError(f"rank {rank} does not run")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which a run of two processes has come to its end."""
    folder = tmp_path_factory.mktemp("undisturbed")
    process = start(folder, "train", "two.yaml", "--json")
    out, err = process.communicate()
    assert process.returncode == 0, out + err
    # what msrun and the processes print is elsewhere
    assert json.loads(out) == json.loads((run_folder(folder) / "result.json").read_text("utf-8"))
    return folder


def test_two_processes_leave_what_one_leaves(undisturbed):
    result = json.loads((run_folder(undisturbed) / "result.json").read_text(encoding="utf-8"))
    assert result["world_size"] == 2
    assert result["steps"] == 6
    assert result["metrics"]["val.count"] == 7  # which two cannot share evenly
    assert len(events(undisturbed, "train.step")) == 6
    assert len(events(undisturbed, "epoch.finished")) == 2
    assert [event["micro_batch_size"] for event in events(undisturbed, "engine.opened")] == [4]
    assert [event["step"] for event in events(undisturbed, "checkpoint.saved")] == [2, 3, 4, 6, 6]
    assert not [path for path in undisturbed.iterdir() if path.name not in {"runs", "two.yaml"}]


@pytest.mark.slow
def test_a_killed_rank_is_named_and_the_run_continues_to_the_same_weights(undisturbed, tmp_path):
    process = start(tmp_path, "train", "two.yaml")
    deadline = time.monotonic() + 200
    while not checkpoints(tmp_path):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(worker(tmp_path, 1), signal.SIGKILL)
    _, err = process.communicate()
    assert process.returncode == 1
    assert err.splitlines()[-1].startswith("error: rank 1 ended without saying why")
    killed = run_folder(tmp_path)
    assert not (killed / "result.json").exists()
    resumed = start(tmp_path, "resume", killed)
    out, err = resumed.communicate()
    assert resumed.returncode == 0, out + err
    assert len(events(tmp_path, "run.resumed")) == 1
    assert files(checkpoints(tmp_path)[-1]) == files(checkpoints(undisturbed)[-1])

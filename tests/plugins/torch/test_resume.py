"""A real PyTorch run that is killed and resumed ends with the weights of one that was not."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time

import pytest

from runner import checkpoint

pytest.importorskip("torch")
pytest.importorskip("sklearn")

SETTINGS = [
    "train.epochs=3",
    "train.max_steps_per_epoch=10",
    "checkpoint.every_steps=2",
    "train.ema_decay=0.9",
    "device.threads=1",
    "model={name: mobilenet_v2, dropout: 0.2}",
]


def command(*arguments):
    return [sys.executable, "-m", "runner", *(str(item) for item in arguments)]


def overrides(*settings):
    return [part for setting in settings for part in ("--set", setting)]


def final_checkpoint(runs):
    [folder] = runs.glob("*/*/checkpoints")
    return checkpoint.latest(folder)


@pytest.mark.parametrize("workers", [1, 3])
def test_kill_and_resume_is_bit_for_bit_the_straight_run(tmp_path, workers):
    environment = {**os.environ, "RUNNER_PLUGINS": "torch,data"}
    train = command("train", "quickstart", *overrides(*SETTINGS))
    process = subprocess.Popen(
        [*train, "--runs-dir", tmp_path / "killed", *overrides(f"loader.workers={workers}")],
        env=environment,
        stderr=subprocess.DEVNULL,
    )
    for _ in range(1200):
        if len(list(tmp_path.glob("killed/*/*/checkpoints/step_*"))) > 1:
            break
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.05)
    time.sleep(random.uniform(0, 0.3))
    process.kill()
    process.wait()
    [run] = tmp_path.glob("killed/*/*")
    assert not (run / "result.json").exists(), "the run finished before it was killed"
    subprocess.run(command("resume", run), env=environment, check=True, capture_output=True)
    subprocess.run(
        [*train, "--runs-dir", tmp_path / "straight"],
        env=environment,
        check=True,
        capture_output=True,
    )
    resumed, straight = (final_checkpoint(tmp_path / name) for name in ("killed", "straight"))
    for name in (checkpoint.WEIGHTS, checkpoint.STATE):
        assert (resumed / name).read_bytes() == (straight / name).read_bytes(), name
    ours, theirs = checkpoint.load(resumed).info, checkpoint.load(straight).info
    assert ours.position == theirs.position
    assert ours.metrics["train.loss"] == theirs.metrics["train.loss"]
    assert ours.metrics["val.top1"] == theirs.metrics["val.top1"]

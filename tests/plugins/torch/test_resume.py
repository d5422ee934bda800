"""A real PyTorch run that is killed and resumed ends with the weights of one that was not."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time

import pytest

from runner.storage import checkpoint

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


def start(tmp_path, *settings):
    train = command("train", "quickstart", *overrides(*SETTINGS, *settings))
    return subprocess.Popen(
        [*train, "--runs-dir", tmp_path / "killed"],
        env={**os.environ, "RUNNER_PLUGINS": "torch,data"},
        stderr=subprocess.DEVNULL,
    )


def wait_for_checkpoints(process, tmp_path, count):
    for _ in range(1200):
        if len(list(tmp_path.glob("killed/*/*/checkpoints/step_*"))) >= count:
            return
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.05)
    raise AssertionError("no checkpoint in a minute")


def finish_and_compare(tmp_path):
    """Finish the killed run, and compare it with one that was never disturbed."""
    environment = {**os.environ, "RUNNER_PLUGINS": "torch,data"}
    [run] = tmp_path.glob("killed/*/*")
    if not (run / "result.json").exists():
        subprocess.run(command("resume", run), env=environment, check=True, capture_output=True)
    train = command("train", "quickstart", *overrides(*SETTINGS))
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


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 3])
def test_kill_and_resume_is_bit_for_bit_the_straight_run(tmp_path, workers):
    process = start(tmp_path, f"loader.workers={workers}")
    wait_for_checkpoints(process, tmp_path, 2)
    time.sleep(random.uniform(0, 0.3))
    process.kill()
    process.wait()
    [run] = tmp_path.glob("killed/*/*")
    assert not (run / "result.json").exists(), "the run finished before it was killed"
    finish_and_compare(tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_ten_kills_at_random_moments_change_nothing(tmp_path):
    process = start(tmp_path)
    wait_for_checkpoints(process, tmp_path, 1)
    [run] = tmp_path.glob("killed/*/*")
    environment = {**os.environ, "RUNNER_PLUGINS": "torch,data"}
    for _ in range(10):
        time.sleep(random.uniform(0, 1.5))
        process.kill()
        process.wait()
        if (run / "result.json").exists():
            break
        process = subprocess.Popen(
            command("resume", run), env=environment, stderr=subprocess.DEVNULL
        )
        time.sleep(random.uniform(2, 6))  # importing torch takes seconds
    process.kill()
    process.wait()
    finish_and_compare(tmp_path)

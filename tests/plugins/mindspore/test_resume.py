"""A real MindSpore run that is killed and resumed ends with the weights of one that was not."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time

import pytest

from runner.storage import checkpoint

pytest.importorskip("mindspore")
pytest.importorskip("sklearn")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SETTINGS = [
    "train.epochs=2",
    "train.max_steps_per_epoch=8",
    "train.batch_size=32",
    "train.micro_batch_size=16",
    "checkpoint.every_steps=1",
    "train.ema_decay=0.9",
    "eval.every_epochs=2",
    "model={name: mobilenet_v2, dropout: 0.2}",
]
ENVIRONMENT = {**os.environ, "RUNNER_PLUGINS": "mindspore,data"}


def command(*arguments):
    return [sys.executable, "-m", "runner", *(str(item) for item in arguments)]


def train(folder):
    overrides = [part for setting in SETTINGS for part in ("--set", setting)]
    return command("train", "quickstart_mindspore", *overrides, "--runs-dir", folder)


def final_checkpoint(runs):
    [folder] = runs.glob("*/*/checkpoints")
    return checkpoint.latest(folder)


def wait_for_checkpoints(process, runs, count):
    for _ in range(4800):
        if len(list(runs.glob("*/*/checkpoints/step_*"))) >= count:
            return
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.05)
    raise AssertionError("no checkpoint in four minutes")


def test_kill_and_resume_is_bit_for_bit_the_straight_run(tmp_path):
    killed = tmp_path / "killed"
    process = subprocess.Popen(train(killed), env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    wait_for_checkpoints(process, killed, 2)
    time.sleep(random.uniform(0, 0.3))
    process.kill()
    process.wait()
    [run] = killed.glob("*/*")
    assert not (run / "result.json").exists(), "the run finished before it was killed"

    straight = tmp_path / "straight"
    for arguments in (command("resume", run), train(straight)):
        subprocess.run(arguments, env=ENVIRONMENT, check=True, capture_output=True)
    ours, theirs = final_checkpoint(killed), final_checkpoint(straight)
    for name in (checkpoint.WEIGHTS, checkpoint.STATE):
        assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name
    ours, theirs = checkpoint.load(ours).info, checkpoint.load(theirs).info
    assert ours.position == theirs.position
    assert ours.metrics["train.loss"] == theirs.metrics["train.loss"]
    assert ours.metrics["val.top1"] == theirs.metrics["val.top1"]

"""MindSpore on two machines with a network of their own."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys

import pytest

pytest.importorskip("mindspore")

pytestmark = pytest.mark.timeout(900)

RECIPE = """
summary: Two machines
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
ENVIRONMENT = {"RUNNER_PLUGINS": "mindspore,data", "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_two_machines_train_together(undisturbed):
    folder, (first, second) = undisturbed
    for rank, outcome in enumerate((first, second)):
        [command] = outcome.commands
        words = shlex.split(command)
        for option in ("--worker_num=2", "--local_worker_num=1", f"--node_rank={rank}"):
            assert option in words
        assert "--master_addr=10.77.0.1" in words
    assert "epoch 2/2" in first.err
    assert "epoch" not in second.err
    assert second.out == ""
    assert len(folder.events("epoch.finished")) == 2
    folder.assert_nothing_is_left()


@pytest.mark.slow
def test_two_machines_leave_what_one_machine_leaves(undisturbed, make_folder):
    alone = make_folder(RECIPE, **ENVIRONMENT)
    subprocess.run(
        [sys.executable, "-m", "runner", "train", "two.yaml"],
        cwd=alone.path,
        env={**os.environ, **ENVIRONMENT},
        check=True,
        capture_output=True,
    )
    assert undisturbed[0].last_files() == alone.last_files()


@pytest.mark.slow
def test_a_machine_that_loses_its_power_is_named_and_not_what_follows(folder):
    """Processes end soon, because the scheduler misses one; that does not say why."""
    soon = ("--set", "distributed.machine_timeout_s=12", "--set", "train.epochs=1000")
    first, _ = folder.start("train", "two.yaml", *soon)
    folder.wait_for_checkpoint(first)
    folder.machines.lose()
    [outcome] = folder.finish([first])
    assert outcome.code == 1
    assert outcome.error.startswith("machine 1 (machine-1) has given no sign of life for ")
    assert "continues the run" in outcome.error
    folder.assert_nothing_is_left()


@pytest.mark.slow
def test_a_killed_rank_is_named_by_both_and_both_start_again(folder, undisturbed):
    started = folder.start("train", "two.yaml", "--set", "distributed.restarts=1")
    folder.wait_for_checkpoint(*started)
    os.kill(folder.worker(1, "MS_NODE_ID"), signal.SIGKILL)
    outcomes = folder.finish(started)
    assert [outcome.code for outcome in outcomes] == [0, 0], [item.err for item in outcomes]
    for outcome in outcomes:
        assert "restart 1 of 1: rank 1 on machine-1 " in outcome.err
    assert folder.last_files() == undisturbed[0].last_files()
    folder.assert_nothing_is_left()


@pytest.mark.slow
def test_a_cut_cable_is_reported_by_both_and_resume_goes_on(folder, undisturbed):
    started = folder.start("train", "two.yaml", "--set", "distributed.timeout_s=60")
    folder.wait_for_checkpoint(*started)
    folder.machines.cut()
    outcomes = folder.finish(started)
    for outcome in outcomes:
        assert outcome.code == 1
        assert "continues the run" in outcome.error
    folder.assert_nothing_is_left()
    folder.machines.join()
    outcomes = folder.both("resume", folder.run)
    assert [outcome.code for outcome in outcomes] == [0, 0], [item.err for item in outcomes]
    assert folder.last_files() == undisturbed[0].last_files()
    folder.assert_nothing_is_left()

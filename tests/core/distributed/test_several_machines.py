"""Two machines, which are this one twice: each console tells what has happened on the other."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from runner.storage import checkpoint

SLOW = ("--set", "framework.seconds_per_step=0.1")
ONCE = ("--set", "distributed.restarts=1")


@pytest.mark.slow
def test_both_start_again_and_end_with_the_weights_of_one_process(project, launched, alone):
    first, second = launched.on_machines("--json", *SLOW, *ONCE)
    project.wait_for(project.checkpoints)
    os.kill(launched.rank(3), signal.SIGKILL)
    ended, other = launched.finish(first), launched.finish(second)
    assert (ended.code, other.code) == (0, 0), ended.err + other.err
    for console in (ended.err, other.err):
        assert "restart 1 of 1: rank 3 on " in console
    launched.assert_weights_of(alone)
    assert json.loads(ended.out)["world_size"] == 4
    assert other.out == ""
    logs = {path.parent.name for path in project.path.glob("runs/colours/*.launch/attempt_1")}
    assert [name.rpartition("-")[2] for name in sorted(logs)] == ["node0.launch", "node1.launch"]


@pytest.mark.slow
def test_a_rank_that_hangs_on_the_other_machine_is_named_on_both(project, launched):
    first, second = launched.on_machines(*SLOW, "--set", "distributed.timeout_s=5")
    project.wait_for(project.checkpoints)
    os.kill(launched.rank(2), signal.SIGSTOP)
    for ended in (launched.finish(first), launched.finish(second)):
        assert ended.code == 1
        [error] = ended.errors
        assert error.startswith("error: rank 2 on ")
        assert "is stopped" in error
        assert "node1.launch/attempt_0/rank_2.log" in error
    assert launched.none_left()


@pytest.mark.slow
def test_where_all_processes_only_wait_the_machine_that_is_behind_is_named(project, launched):
    hangs = ("--set", "dataset.hang_at_image=50", "--set", "distributed.timeout_s=5")
    started = launched.on_machines(*SLOW, *hangs, devices=2)
    outcomes = [launched.finish(process) for process in started]
    [log] = [
        path
        for path in project.path.glob("runs/colours/*.launch/attempt_0/rank_*.log")
        if "the fake dataset hangs" in path.read_text()
    ]
    for ended in outcomes:
        assert ended.code == 1
        [error] = ended.errors
        assert error.startswith(f"error: rank {log.stem.removeprefix('rank_')} on ")
        assert "hangs (training, epoch 1 step " in error
        assert str(log.relative_to(project.path)) in error
    assert launched.none_left()


def test_a_signal_to_either_saves_one_checkpoint_on_both(project, launched):
    first, second = launched.on_machines(*SLOW, "--set", "train.epochs=100")
    project.wait_for(project.checkpoints)
    second.send_signal(signal.SIGUSR1)  # as batch systems warn
    ended, other = launched.finish(first), launched.finish(second)
    assert (ended.code, other.code) == (128 + signal.SIGUSR1, 128 + signal.SIGUSR1)
    [interrupted] = [e for e in project.events() if e["event"] == "run.interrupted"]
    saved = checkpoint.load(project.path / interrupted["checkpoint"])
    step = saved.info.position.step
    assert step % 4 == 0 or step % 5 == 0  # where losses are read: to log them, or to save
    for left in (ended, other):
        [error] = left.errors
        assert error.startswith(f"error: stopped by signal {signal.SIGUSR1:d} after step {step}")


@pytest.mark.slow
def test_one_machine_goes_on_without_the_other_where_it_may(project, launched):
    soon = ("--set", "distributed.machine_timeout_s=6")
    first, second = launched.on_machines(*SLOW, *ONCE, *soon, "--json", nnodes="1:2")
    project.wait_for(project.checkpoints)
    launched.lose(second, 2, 3)
    launched.finish(second)
    ended = launched.finish(first)
    assert ended.code == 0, ended.err
    # the machine, and not what its loss made of the exchanges of the other
    [restart] = [line for line in ended.err.splitlines() if line.startswith("restart 1 of 1: ")]
    assert restart.startswith("restart 1 of 1: machine 1 (")
    assert " has given no sign of life for " in restart
    assert "devices: 2 of the 4 that the recipe asks for" in ended.err
    assert json.loads(ended.out)["world_size"] == 2


@pytest.mark.slow
def test_a_machine_whose_devices_do_not_divide_the_batch_is_left_out(project, launched):
    images = ("--set", "dataset.images=96")
    started = launched.on_machines(*SLOW, *ONCE, *images, "--json", nnodes="2:4")
    project.wait_for(project.checkpoints)
    launched.lose(started[2], 2)
    first, second, _, last = (launched.finish(process) for process in started)
    assert (first.code, second.code, last.code) == (0, 0, 4), first.err + last.err
    words = (
        "machine 3 is not needed: 3 devices are left on 3 machines, of which 2 can share a batch "
        "of 8 images evenly; machines 0 and 1 go on with these"
    )
    assert last.errors == [f"error: {words}"]
    assert words in first.err
    assert "devices: 2 of the 4 that the recipe asks for" in second.err
    assert json.loads(first.out)["world_size"] == 2
    assert json.loads(first.out)["steps"] == 36
    assert launched.none_left()


def test_a_machine_that_fails_alone_ends_the_others_with_its_words_and_status(project, launched):
    fails = ("--set", "framework.fail_after_steps=6", "--set", "framework.on_rank=3")
    first, second = launched.on_machines(*fails)
    for ended in (launched.finish(first), launched.finish(second)):
        assert ended.code == 1
        [error] = ended.errors
        assert error.startswith("error: rank 3 on ")
        assert "RuntimeError: the fake framework fails after 6 steps" in error
        path = error.partition("what it has printed is in ")[2].partition(";")[0]
        assert "Traceback" in Path(path).read_text()

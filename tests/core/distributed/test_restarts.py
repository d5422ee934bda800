"""Processes that are lost: what is told, and how the run goes on."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from runner.distributed import place
from runner.distributed.reporting import child
from runner.distributed.reporting.reporter import Reporter
from runner.errors import DeviceError
from runner.storage import checkpoint
from runner.testing import fake_group

SLOW = ("--set", "framework.seconds_per_step=0.1")
ONCE = ("--set", "distributed.restarts=1")


def launcher(launched):
    """Return the process that has started rank 0."""
    stat = Path(f"/proc/{launched.rank(0)}/stat").read_text()
    return int(stat.rpartition(") ")[2].split()[1])


def failures(project):
    lines = (project.run_folder() / "failures.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def restarts(project):
    return [event for event in project.events() if event["event"] == "run.restarted"]


def test_a_rank_that_is_killed_at_any_moment_changes_no_weight(project, launched, alone):
    process = launched.start("--json", *SLOW, *ONCE)
    project.wait_for(lambda: list(project.path.glob("runs/colours/*/events.jsonl")))
    moment = random.uniform(0, 1.5)
    time.sleep(moment)
    os.kill(launched.rank(1), signal.SIGKILL)
    ended = launched.finish(process)
    assert ended.code == 0, f"killed after {moment} s: {ended.err}"
    assert not ended.errors
    assert "restart 1 of 1: rank 1 on " in ended.err
    launched.assert_weights_of(alone)
    assert json.loads(ended.out)["world_size"] == 2
    [restarted] = restarts(project)
    assert (restarted["rank"], restarted["restart"], restarted["restarts"]) == (1, 1, 1)
    [failure] = failures(project)
    assert (failure["rank"], failure["machine"], failure["lost"]) == (1, 0, [1])
    assert launched.none_left()


@pytest.mark.slow
def test_a_launcher_that_is_killed_is_started_again(project, launched, alone):
    process = launched.start(*SLOW, *ONCE)
    project.wait_for(lambda: len(project.checkpoints()) > 1)  # so that the first was told
    os.kill(launcher(launched), signal.SIGKILL)
    ended = launched.finish(process)
    assert ended.code == 0, ended.err
    reason = "the launcher runner.testing.fake_group was killed by SIGKILL before the run was fin"
    assert f"restart 1 of 1: {reason}" in ended.err
    launched.assert_weights_of(alone)
    [restarted] = restarts(project)
    assert "/checkpoints/step_" in restarted["continues"]


def test_when_no_restart_is_left_the_rank_its_words_and_its_log_are_named(project, launched):
    # each attempt takes six steps, and the second one begins after the fifth
    fails = ("--set", "framework.fail_after_steps=6", "--set", "framework.on_rank=1")
    ended = launched.finish(launched.start(*fails, *ONCE))
    assert ended.code == 1
    [error] = ended.errors
    folder = project.run_folder().relative_to(project.path)
    assert error.startswith("error: rank 1 on ")
    assert "RuntimeError: the fake framework fails after 6 steps, as asked" in error
    assert "1 restart did not help" in error
    assert f"runner resume {folder} continues the run" in error
    [log] = project.path.glob("runs/colours/*.launch/attempt_1/rank_1.log")
    assert str(log.relative_to(project.path)) in error
    assert "Traceback" in log.read_text()
    assert checkpoint.load(project.checkpoints()[-1]).info.position.step == 10


def test_a_rank_that_hangs_is_named_in_the_time_that_the_recipe_states(project, launched):
    limits = ("--set", "distributed.timeout_s=5", "--set", "distributed.bind_cores=true")
    process = launched.start(*SLOW, *limits)
    project.wait_for(project.checkpoints)
    cores = sorted(os.sched_getaffinity(0))
    for rank in range(2):
        allowed = os.sched_getaffinity(launched.rank(rank))
        assert allowed == set(child.share(cores, rank, 2))
    os.kill(launched.rank(1), signal.SIGSTOP)
    ended = launched.finish(process)
    assert ended.code == 1
    [error] = ended.errors
    assert error.startswith("error: rank 1 on ")
    assert "hangs (training, epoch " in error
    assert "and is stopped: " in error
    assert "distributed.timeout_s allows 5 s" in error
    seen = [line for line in ended.err.splitlines() if "s without progress" in line][:2]
    assert [line.partition(" (")[0] for line in seen] == ["rank 0", "rank 1"]
    assert launched.none_left()


def test_a_rank_that_hangs_within_a_step_is_named_by_where_it_is(project, launched):
    stuck = ("--set", "framework.hang_at_step=7", "--set", "framework.on_rank=2")
    process = launched.start(*stuck, "--set", "distributed.timeout_s=5", devices=4)
    ended = launched.finish(process)
    assert ended.code == 1
    [error] = ended.errors
    assert error.startswith("error: rank 2 on ")
    assert "hangs (training, epoch 1 step 5)" in error
    seen = {line[:6]: line for line in ended.err.splitlines() if "s without progress" in line}
    assert ", at fake_engine.py:" in seen["rank 2"]
    assert " in _train_step, " in seen["rank 2"]
    assert ", at socket.py:" in seen["rank 3"]
    [stacks] = project.path.glob("runs/colours/*.launch/attempt_0/stacks.txt")
    assert [line for line in stacks.read_text().splitlines() if line in seen.values()] == [
        seen[f"rank {rank}"] for rank in range(4)
    ]


def test_cores_are_not_shared_where_something_else_has_started_the_processes(plan, monkeypatch):
    distributed = replace(plan.recipe.distributed, bind_cores=True)
    plan = replace(plan, recipe=replace(plan.recipe, distributed=distributed))
    child.begin(plan, place.rank_of(plan), Reporter())  # it starts the others itself
    for name, value in ((fake_group.LOCAL_RANK, "3"), (fake_group.WORLD_SIZE, "4")):
        monkeypatch.setenv(name, value)
    with pytest.raises(DeviceError, match=r"bind_cores is the work of runner .* srun --cpu-bind"):
        child.begin(plan, place.rank_of(plan), Reporter())


def test_lost_devices_are_left_out_where_the_recipe_says_so(project, launched):
    fewer = ("--set", "distributed.min_devices=2", "--set", "dataset.images=96")
    process = launched.start(*SLOW, *ONCE, *fewer, "--json", devices=4)
    project.wait_for(project.checkpoints)
    os.kill(launched.rank(2), signal.SIGKILL)
    ended = launched.finish(process)
    assert ended.code == 0, ended.err
    assert "devices: 2 of the 4 that the recipe asks for" in ended.err  # 3 do not divide a batch
    assert json.loads(ended.out)["world_size"] == 2
    assert json.loads(ended.out)["steps"] == 36


def test_fewer_devices_than_the_recipe_allows_end_the_run(project, launched):
    fewer = ("--set", "distributed.min_devices=2")
    process = launched.start(*SLOW, *ONCE, *fewer)
    project.wait_for(project.checkpoints)
    os.kill(launched.rank(0), signal.SIGKILL)
    ended = launched.finish(process)
    assert ended.code == 4
    [error] = ended.errors
    assert error.startswith("error: 1 of 2 devices are left")
    assert "runner resume" in error


def test_the_last_device_tells_why_it_fails_as_several_do(project, launched):
    fewer = ("--set", "distributed.min_devices=1", "--set", "framework.non_finite_at_step=20")
    process = launched.start(*SLOW, *ONCE, *fewer)
    project.wait_for(project.checkpoints)
    os.kill(launched.rank(0), signal.SIGKILL)
    ended = launched.finish(process)
    assert ended.code == 8, ended.err
    [error] = ended.errors
    assert error.startswith("error: the loss is nan at step 20")
    assert "devices: 1 of the 2 that the recipe asks for" in ended.err

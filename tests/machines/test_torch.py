"""PyTorch on two machines with a network of their own: one run, and what disturbs it."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("torch")

pytestmark = pytest.mark.timeout(900)

RECIPE = """
summary: Two machines
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
distributed: {rendezvous_s: 120}
"""
ENVIRONMENT = {"RUNNER_PLUGINS": "torch,data", "OMP_NUM_THREADS": "1"}


def assert_as_undisturbed(folder, undisturbed):
    assert folder.last_files() == undisturbed[0].last_files()
    assert json.loads((folder.run / "result.json").read_text("utf-8"))["steps"] == 24
    folder.assert_nothing_is_left()


@pytest.mark.slow
def test_two_machines_leave_what_one_machine_leaves(undisturbed, make_folder):
    folder, _ = undisturbed
    alone = make_folder(RECIPE, **ENVIRONMENT)
    subprocess.run(
        [sys.executable, "-m", "runner", "train", "two.yaml"],
        cwd=alone.path,
        env={**os.environ, **ENVIRONMENT},
        check=True,
        capture_output=True,
    )
    assert folder.last_files() == alone.last_files()
    assert [event["loss"] for event in folder.events("train.step")] == [
        event["loss"] for event in alone.events("train.step")
    ]


def test_the_machine_of_rank_0_alone_prints_and_writes(undisturbed):
    folder, (first, second) = undisturbed
    assert json.loads(first.out) == json.loads((folder.run / "result.json").read_text("utf-8"))
    assert second.out == ""
    assert first.err.count("epoch 2/2  train.loss") == 1
    assert "epoch" not in second.err
    assert len(folder.events("epoch.finished")) == 2
    assert [path.name for path in folder.path.glob("runs/two/*/result.json")] == ["result.json"]
    folder.assert_nothing_is_left()


def test_each_machine_shows_its_command_and_keeps_what_its_rank_prints(undisturbed):
    folder, outcomes = undisturbed
    for rank, outcome in enumerate(outcomes):
        [command] = outcome.commands
        words = shlex.split(command)
        assert words[0] == "GLOO_SOCKET_IFNAME=cable"
        for name, value in (
            ("--nnodes", "2"),
            ("--node-rank", str(rank)),
            ("--master-addr", "10.77.0.1"),
            ("--nproc-per-node", "1"),
        ):
            assert words[words.index(name) + 1] == value
        logs = folder.path / words[words.index("--log-dir") + 1]
        [printed] = logs.glob("**/0/stderr.log")
        assert ("epoch 2/2" in printed.read_text("utf-8")) == (rank == 0)
        assert (logs / "launcher.log").exists()


@pytest.mark.slow
def test_a_machine_that_loses_its_power_is_named_within_two_minutes(folder):
    """Nobody is told: what it would send when its processes end is lost."""
    first, _ = folder.start("train", "two.yaml", "--set", "train.epochs=1000")
    folder.wait_for_checkpoint(first)
    folder.machines.lose()
    begun = time.monotonic()
    [outcome] = folder.finish([first])
    assert time.monotonic() - begun < 120  # where exchanges may take half an hour
    assert outcome.code == 1
    assert outcome.error.startswith("machine 1 (machine-1) has given no sign of life for ")
    assert "continues the run" in outcome.error
    folder.assert_nothing_is_left()


@pytest.mark.slow
def test_a_killed_rank_is_named_by_both_and_both_start_again(folder, undisturbed):
    started = folder.start("train", "two.yaml", "--set", "distributed.restarts=1")
    folder.wait_for_checkpoint(*started)
    os.kill(folder.worker(1, "RANK"), signal.SIGKILL)
    outcomes = folder.finish(started)
    assert [outcome.code for outcome in outcomes] == [0, 0], [item.err for item in outcomes]
    for outcome in outcomes:
        [line] = [line for line in outcome.err.splitlines() if line.startswith("restart ")]
        assert line.startswith("restart 1 of 1: rank 1 on machine-1 ")
        assert len(outcome.commands) == 2
    [resumed] = folder.events("run.resumed")
    assert 2 <= resumed["step"] < 24
    assert_as_undisturbed(folder, undisturbed)


@pytest.mark.slow
def test_a_cut_cable_is_reported_in_time_by_both_and_resume_goes_on(folder, undisturbed):
    hurry = ("--set", "distributed.timeout_s=40")
    started = folder.start("train", "two.yaml", *hurry)
    folder.wait_for_checkpoint(*started)
    folder.machines.cut()
    outcomes = folder.finish(started)
    for outcome in outcomes:
        assert outcome.code == 1
        assert "continues the run" in outcome.error
    folder.assert_nothing_is_left()
    assert not (folder.run / "result.json").exists()
    folder.machines.join()
    outcomes = folder.both("resume", folder.run)
    assert [outcome.code for outcome in outcomes] == [0, 0], [item.err for item in outcomes]
    assert_as_undisturbed(folder, undisturbed)


@pytest.mark.slow
def test_a_signal_to_one_machine_stops_both_with_one_checkpoint(folder, undisturbed):
    started = folder.start("train", "two.yaml")
    folder.wait_for_checkpoint(*started)
    started[1].send_signal(signal.SIGTERM)
    first, second = folder.finish(started)
    assert (first.code, second.code) == (143, 143)
    assert first.error.startswith("stopped by signal 15 after step ")
    assert "continue with: runner resume " in first.error
    assert second.error.startswith("stopped by signal 15")
    folder.assert_nothing_is_left()
    [left] = folder.events("run.interrupted")
    assert folder.checkpoints()[-1].name in left["checkpoint"]
    outcomes = folder.both("resume", folder.run)
    assert [outcome.code for outcome in outcomes] == [0, 0], [item.err for item in outcomes]
    assert_as_undisturbed(folder, undisturbed)


@pytest.mark.slow
def test_a_signal_to_both_machines_stops_them_with_one_checkpoint(folder):
    started = folder.start("train", "two.yaml")
    folder.wait_for_checkpoint(*started)
    for process in started:
        process.send_signal(signal.SIGTERM)
    assert [outcome.code for outcome in folder.finish(started)] == [143, 143]
    assert len(folder.events("run.interrupted")) == 1
    folder.assert_nothing_is_left()


@pytest.mark.slow
def test_a_run_recovers_by_itself_when_the_cable_is_back(folder, undisturbed):
    options = ("distributed.timeout_s=40", "distributed.restarts=1")
    started = folder.start(
        "train", "two.yaml", *(word for option in options for word in ("--set", option))
    )
    folder.wait_for_checkpoint(*started)
    folder.machines.cut()
    # the processes are ended, and each machine waits for the other one
    folder.machines.wait_for(lambda: all(len(m.processes()) == 1 for m in folder.machines))
    folder.machines.join()
    outcomes = folder.finish(started)
    assert [outcome.code for outcome in outcomes] == [0, 0], [item.err for item in outcomes]
    for outcome in outcomes:
        assert "restart 1 of 1: " in outcome.err
    assert_as_undisturbed(folder, undisturbed)


@pytest.mark.slow
def test_where_what_started_a_rank_is_killed_both_save_and_leave(folder, undisturbed):
    started = folder.start("train", "two.yaml")
    folder.wait_for_checkpoint(*started)
    started[1].kill()
    first, _ = folder.finish(started)
    assert first.code == 130
    assert "continue with: runner resume " in first.error
    folder.assert_nothing_is_left()
    outcomes = folder.both("resume", folder.run)
    assert [outcome.code for outcome in outcomes] == [0, 0], [item.err for item in outcomes]
    assert_as_undisturbed(folder, undisturbed)


@pytest.mark.slow
def test_one_machine_goes_on_where_one_is_enough(folder):
    meeting = f"{folder.machines[0].address}:{next(folder.ports)}"
    options = ("--nnodes", "1:2", "--set", "distributed.restarts=1")
    started = [
        machine.runner(
            *("train", "two.yaml", *options, "--node-rank", str(machine.rank), "--rdzv", meeting),
            cwd=folder.path,
            **ENVIRONMENT,
        )
        for machine in folder.machines
    ]
    folder.wait_for_checkpoint(*started)
    folder.machines[1].clear()
    [outcome] = folder.finish(started[:1])
    assert outcome.code == 0, outcome.err
    assert "device" in outcome.err
    result = json.loads((folder.run / "result.json").read_text("utf-8"))
    assert (result["world_size"], result["steps"]) == (1, 24)
    folder.assert_nothing_is_left()


def torchrun(folder, rank, port):
    """Start the agent of torchrun on a machine; the run goes on with as few as one of them."""
    machine = folder.machines[rank]
    # an agent opens the store only where the host name stands for the address, unless it is told
    meeting = [
        *("--rdzv-backend", "c10d", "--rdzv-id", "night", "--local-addr", machine.address),
        *("--rdzv-endpoint", f"{folder.machines[0].address}:{port}"),
        *("--rdzv-conf", f"is_host={int(rank == 0)}"),
    ]
    launcher = ["torch.distributed.run", "--nnodes", "1:2", "--max-restarts", "3", *meeting]
    run = ("train", "two.yaml", "--set", "distributed.min_devices=1", "--set", "train.epochs=20")
    command = (sys.executable, "-m", *launcher, "-m", "--", "runner", *run)
    # an agent that has a store of its own does not tell a machine that comes later where it is
    own_stores = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    environment = {**ENVIRONMENT, **own_stores, "GLOO_SOCKET_IFNAME": "cable"}
    return machine.start(*command, cwd=folder.path, **environment)


@pytest.mark.slow
def test_a_run_belongs_to_its_job_where_torchrun_alone_is_elastic(folder):
    """A worker is killed, a machine goes, and another one comes."""
    port = next(folder.ports)
    started = [torchrun(folder, rank, port) for rank in range(2)]
    folder.wait_for_checkpoint(*started)

    places = {n: Path(f"/proc/{n}/environ").read_bytes() for n in folder.machines[1].processes()}
    [worker] = [number for number, environ in places.items() if b"\0LOCAL_RANK=0\0" in environ]
    os.kill(worker, signal.SIGKILL)
    folder.machines.wait_for(lambda: len(folder.events("run.resumed")) == 1)
    folder.machines[1].clear()
    folder.machines.wait_for(lambda: len(folder.events("run.resumed")) == 2)
    started[1] = torchrun(folder, 1, port)
    outcomes = folder.finish(started)
    assert [outcome.code for outcome in outcomes] == [0, 0], [item.err for item in outcomes]
    steps = [event["step"] for event in folder.events("run.resumed")]
    assert len(steps) == 3
    assert 0 < steps[0] <= steps[1] < steps[2]
    result = json.loads((folder.run / "result.json").read_text("utf-8"))
    assert (result["world_size"], result["steps"]) == (2, 240)

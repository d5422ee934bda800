"""Two processes that train together: what they leave, how they stop, and how they continue."""

from __future__ import annotations

import itertools
import json
import os
import shlex
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from runner import checkpoint, commands
from runner.contracts import Availability
from runner.entries import Command
from runner.errors import DeviceError, OtherRankError, UsageError
from runner.events import EventLog
from runner.launch import start as launch
from runner.testing import fake_group

MARK = "RUNNER_TEST_FOLDER"
EXTRA = "checkpoint: {every_steps: 5, keep: 9}\nexport:\n  - {name: fake_npz, verify_images: 4}\n"
"""The model without noise, so that ranks draw nothing of their own, on 99 and 33 images."""
OPTIONS = ("--set", "model.noise=0", "--set", "dataset.images=99")


def start(project, *arguments, command="run", recipe=None):
    target = recipe or project.write_recipe(EXTRA)
    options = () if command == "resume" else ("--devices", "2", *OPTIONS)
    return project.start(command, target, *options, *arguments, **{MARK: str(project.path)})


def finish(process):
    out, err = process.communicate(timeout=200)
    return process.returncode, out, err


def process_of_rank(project, rank):
    wanted = {f"{MARK}={project.path}".encode(), f"{fake_group.RANK}={rank}".encode()}
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if wanted <= set(path.read_bytes().split(b"\0")):
                return int(path.parent.name)
        except OSError:
            continue
    raise AssertionError(f"rank {rank} does not run")


def weights(folder):
    return load_file(checkpoint.latest(folder / "checkpoints") / checkpoint.WEIGHTS)


def assert_close(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-6, atol=1e-7, err_msg=name)


@pytest.fixture
def alone(project):
    """Provide weights and events of a run of one process."""
    outcome = project.runner("run", project.write_recipe(EXTRA), *OPTIONS, "--json")
    assert outcome.code == 0, outcome.err
    folder = project.run_folder()
    found = weights(folder), project.events(folder), outcome.json
    shutil.rmtree(project.path / "runs")
    return found


def test_two_processes_give_what_one_gives_and_only_one_of_them_speaks(project, alone):
    code, out, err = finish(start(project, "--json"))
    assert code == 0, err
    expected, before, result = alone
    folder = project.run_folder()
    assert_close(weights(folder), expected)
    events = project.events()
    assert [event["event"] for event in events] == [event["event"] for event in before]
    for one, other in zip(events, before, strict=True):
        for key in ("loss", "train.loss", "val.loss", "val.top1", "val.top5", "val.count"):
            assert one.get(key, 0) == pytest.approx(other.get(key, 0), rel=1e-7)
    two = json.loads(out)
    assert (two["world_size"], result["world_size"]) == (2, 1)
    assert two["metrics"]["val.count"] == 33  # which two ranks do not share evenly
    assert two["exports"][0]["verified"]
    assert json.loads((folder / "manifest.json").read_text())["world_size"] == 2
    first, *lines = err.splitlines()
    assert first.startswith("launch: ")
    assert shlex.split(first)[2:5] == ["-m", "runner.testing.fake_group", "2"]
    assert len([line for line in lines if line.startswith("epoch 1/3")]) == 1


def test_a_killed_rank_ends_the_run_which_continues_to_the_same_weights(project, alone):
    process = start(project, "--set", "framework.seconds_per_step=0.05")
    project.wait_for(lambda: len(project.checkpoints()) > 1)
    os.kill(process_of_rank(project, 1), signal.SIGKILL)
    code, _, err = finish(process)
    assert code == 1
    assert "a process of the group is gone" in err
    folder = project.run_folder()
    assert not (folder / "result.json").exists()
    code, _, err = finish(start(project, "--json", command="resume", recipe=folder))
    assert code == 0, err
    assert "launch: " in err
    assert_close(weights(folder), alone[0])
    resumed = [event for event in project.events() if event["event"] == "run.resumed"]
    assert len(resumed) == 1
    assert resumed[0]["step"] >= 5


def test_a_signal_to_one_rank_stops_all_at_the_same_step(project, alone):
    process = start(project, "--set", "framework.seconds_per_step=0.05")
    project.wait_for(project.checkpoints)
    os.kill(process_of_rank(project, 1), signal.SIGTERM)
    code, _, err = finish(process)
    assert code == 128 + signal.SIGTERM
    assert len([line for line in err.splitlines() if "error: " in line]) == 1
    folder = project.run_folder()
    assert f"continue with: runner resume {folder.relative_to(project.path)}" in err
    [left] = [event for event in project.events() if event["event"] == "run.interrupted"]
    step = checkpoint.load(project.path / left["checkpoint"]).info.position.step
    assert step % 4 == 0  # where losses are logged
    # one process may go on where two have stopped
    outcome = project.runner("resume", folder, "--set", "device.count=1", "--json")
    assert outcome.code == 0, outcome.err
    assert "world_size: 2 -> 1" in outcome.err
    assert_close(weights(folder), alone[0])


def test_ctrl_c_reaches_the_run_once_and_ends_it_the_second_time(project):
    process = start(project, "--set", "framework.seconds_per_step=0.05")
    project.wait_for(project.checkpoints)
    process.send_signal(signal.SIGINT)
    code, _, err = finish(process)
    assert code == 128 + signal.SIGINT
    assert "continue with: runner resume" in err

    process = start(project, "--set", "framework.hang_at_step=7")
    assert any("hangs" in line for line in process.stderr)
    ranks = [process_of_rank(project, rank) for rank in range(2)]
    process.send_signal(signal.SIGINT)
    with pytest.raises(Exception, match="timed out"):
        process.wait(timeout=1)
    process.send_signal(signal.SIGINT)
    code, _, _ = finish(process)
    assert code == 128 + signal.SIGINT
    assert not [rank for rank in ranks if Path(f"/proc/{rank}").exists()]


def test_nothing_trains_on_when_what_started_it_is_killed(project):
    process = start(project, "--set", "framework.hang_at_step=7")
    assert any("hangs" in line for line in process.stderr)
    ranks = [process_of_rank(project, rank) for rank in range(2)]
    process.kill()
    finish(process)
    project.wait_for(lambda: all(launch._state(rank) in {"", "Z"} for rank in ranks))


def test_a_loss_that_one_rank_loses_ends_all_with_one_message(project):
    lost = ("--set", "framework.non_finite_at_step=13", "--set", "framework.on_rank=1")
    code, _, err = finish(start(project, *lost))
    assert code == 8
    [line] = [line for line in err.splitlines() if "error: " in line]
    assert line.startswith("error: the loss is nan at step 13")
    assert checkpoint.load(project.checkpoints()[-1]).info.position.step == 12


def test_a_rank_that_fails_says_so_and_ends_the_run(project):
    fails = ("--set", "framework.fail_after_steps=6", "--set", "framework.on_rank=1")
    code, _, err = finish(start(project, *fails))
    assert code == 1
    assert "rank 1 fails:\nTraceback" in err
    assert "the fake framework fails after 6 steps, as asked" in err
    assert project.events()[-1]["event"] == "run.failed"


def test_what_is_wrong_for_all_is_said_once(project):
    code, _, err = finish(start(project, "--set", "dataset.val_images=50000"))
    assert code == 5
    assert len([line for line in err.splitlines() if "error: " in line]) == 1
    assert "has val_images 33, the recipe declares 50000" in err
    assert not (project.path / "runs").exists()


def test_every_rank_tells_which_images_it_has_skipped(project):
    folder = project.path / "photos"
    for split, name in itertools.product(("train", "val"), ("red", "blue")):
        (folder / split / name).mkdir(parents=True)
        for number in range(8):
            image = Image.new("RGB", (8, 8), name)
            image.save(folder / split / name / f"{number}.png")
    # Rank 0 has the first half of the split, blue, and rank 1 the second.
    for name in ("blue/3", "red/5"):
        (folder / "val" / f"{name}.png").write_bytes(b"no image")
    recipe = project.write_recipe().read_text()
    data = f"dataset: {{name: class_folders, root: {folder}}}"
    (project.path / "colours.yaml").write_text(recipe.replace("dataset: fake_colours", data))
    skip = ("--set", "loader.damaged_images=skip", "--set", "loader.max_damaged=1")
    process = project.start("run", "colours.yaml", "--devices", "2", "--json", *skip)
    code, out, err = finish(process)
    assert code == 0, err
    assert json.loads(out)["metrics"]["val.count"] == 14
    skipped = [line for line in err.splitlines() if "skipped" in line]
    assert sorted(line.partition("skipped")[0] for line in skipped) == ["", "rank 1: "]
    [event] = [event for event in project.events() if event["event"] == "data.damaged"]
    assert event["image"].endswith("blue/3.png")


def test_a_recipe_that_only_evaluates_shares_its_images(project, alone):
    first = start(project, command="train")
    assert finish(first)[0] == 0
    saved = checkpoint.latest(project.run_folder() / "checkpoints")
    file = project.path / "only_eval.yaml"
    file.write_text(
        "summary: Evaluate only\nframework: fake\ndevice: {name: fake_cpu, count: 2}\n"
        "dataset: {name: fake_colours, images: 99}\n"
        "transforms: {eval: [{name: resize, exact: [8, 8]}]}\nmodel: linear\n"
    )
    process = project.start("run", file, "--set", f"model.weights={saved}")
    code, _, err = finish(process)
    assert code == 0, err
    [done] = [e for e in project.events(project.run_folder("only_eval")) if "val.count" in e]
    assert (done["event"], done["val.count"]) == ("eval.finished", 33)
    assert done["val.loss"] == pytest.approx(alone[2]["metrics"]["val.loss"], rel=1e-6)


@pytest.mark.parametrize(("launched", "devices"), [("3", "2"), ("2", "1")])
def test_another_number_of_processes_than_devices_is_refused(
    project, monkeypatch, launched, devices
):
    monkeypatch.setenv(fake_group.WORLD_SIZE, launched)
    outcome = project.run("--devices", devices)
    assert outcome.code == 4
    assert f"started {launched} processes, and the recipe asks for {devices} dev" in outcome.err


@pytest.fixture
def plan(project):
    """Provide a plan for two devices."""
    changes = ("device.count=2", "train.last_batch=keep")
    return commands.load(str(project.write_recipe()), changes).plan


def with_framework(plan, **changes):
    entry = replace(plan.framework_entry, **changes)
    return replace(plan, framework=replace(plan.framework, entry=entry))


def test_a_framework_that_works_on_one_device_gives_the_way_out(plan):
    with pytest.raises(DeviceError, match=r"asks for 2 fake_cpu devices; .* add --devices 1"):
        launch.is_needed(with_framework(plan, join=None))
    with pytest.raises(DeviceError, match=r"no launcher .* start them yourself"):
        launch.commands(with_framework(plan, launch=None), ["run"], Path("logs"))


def test_commands_that_the_user_starts_are_shown(plan, monkeypatch):
    monkeypatch.setattr(launch, "probe", lambda *_: plan.device_entry.probe())
    told = []
    commands = [
        Command(arguments=["runner", "run", "r.yaml"], environment={"RANK": str(rank)})
        for rank in range(2)
    ]
    shown = with_framework(plan, launch=lambda request: commands)
    events = EventLog(lambda event, fields: told.append(fields))
    with pytest.raises(DeviceError, match="the 2 commands above start the processes"):
        launch.carry_out(shown, ["run", "r.yaml"], Path("runs"), events, exporting=False)
    assert told == [{"commands": ["RANK=0 runner run r.yaml", "RANK=1 runner run r.yaml"]}]


def test_a_launcher_that_is_not_there_is_named(plan, monkeypatch):
    monkeypatch.setattr(launch, "probe", lambda *_: plan.device_entry.probe())
    command = Command(arguments=["no-such-launcher", "run"])
    missing = with_framework(plan, launch=lambda request: [command])
    with pytest.raises(DeviceError, match="no-such-launcher cannot be started: No such file"):
        launch.carry_out(missing, ["run"], Path("runs"), EventLog(), exporting=False)


LOSES_RANK_1 = """
import os, subprocess, sys, time

rank = "from runner.launch import status; import time; status.tell_met({}); time.sleep(100)"
ranks = [subprocess.Popen([sys.executable, "-c", rank.format(number)]) for number in range(2)]
while len(open(os.environ["RUNNER_LAUNCH_STATUS"]).readlines()) < 2:
    time.sleep(0.05)
time.sleep(0.5)
ranks[1].kill()
ranks[1].wait()
# As a rank does that notices, and a launcher that waits for nothing.
from runner.launch import status

status.tell_left(0, 1, "a process is gone", again=True)
print(ranks[0].pid, file=open("rank0", "w"))
sys.exit(1)
"""


def test_more_devices_than_there_are_is_refused_once(plan, monkeypatch):
    found = Availability(available=True, count=1)
    monkeypatch.setattr(launch, "probe", lambda *_: found)
    with pytest.raises(DeviceError, match=r"asks for 2 fake_cpu devices, and 1 are .*devices 1"):
        launch.carry_out(plan, ["run"], Path("runs"), EventLog(), exporting=False)


def test_a_rank_that_dies_is_named_and_none_is_left(project, plan, monkeypatch):
    monkeypatch.setattr(launch, "probe", lambda *_: plan.device_entry.probe())
    command = Command(arguments=[sys.executable, "-c", LOSES_RANK_1])
    loses = with_framework(plan, launch=lambda request: [command])
    with pytest.raises(OtherRankError, match="rank 1 ended without saying why"):
        launch.carry_out(loses, ["run"], Path("runs"), EventLog(), exporting=False)
    left = int(Path("rank0").read_text())
    project.wait_for(lambda: launch._state(left) in {"", "Z"})  # gone, or dead


def test_a_last_batch_that_devices_cannot_share_is_refused(plan):
    plan.check_shares(96)
    plan.check_shares(98)
    with pytest.raises(UsageError, match="the last batch of an epoch has 3 images, which 2 dev"):
        plan.check_shares(99)
    assert plan.recipe.train is not None
    filled = replace(plan.recipe, train=replace(plan.recipe.train, last_batch="fill"))
    replace(plan, recipe=filled).check_shares(99)

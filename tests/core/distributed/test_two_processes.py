"""Two processes that train together: what they leave, how they stop, and how they continue."""

from __future__ import annotations

import itertools
import json
import os
import shlex
import shutil
import signal

import pytest
from PIL import Image

from runner.distributed.supervising.processes import GONE, state
from runner.storage import checkpoint
from runner.system.interpreter import BOOT

SLOW = ("--set", "framework.seconds_per_step=0.1")
HANGS = ("--set", "framework.hang_at_step=7")


def without_saving(events):
    """Return the events in an order that no thread decides."""
    return [event for event in events if event["event"] != "checkpoint.saved"]


def test_two_processes_give_what_one_gives_and_only_one_of_them_speaks(project, launched, alone):
    ended = launched.finish(launched.start("--json"))
    assert ended.code == 0, ended.err
    launched.assert_weights_of(alone)
    events, before = (without_saving(found) for found in (project.events(), alone.events))
    assert [event["event"] for event in events] == [event["event"] for event in before]
    for one, other in zip(events, before, strict=True):
        for key in ("loss", "train.loss", "val.loss", "val.top1", "val.count"):
            assert one.get(key, 0) == pytest.approx(other.get(key, 0), rel=1e-7)
    two = json.loads(ended.out)
    assert (two["world_size"], alone.result["world_size"]) == (2, 1)
    assert two["metrics"]["val.count"] == 33  # which two ranks do not share evenly
    assert two["exports"][0]["verified"]
    folder = project.run_folder()
    assert json.loads((folder / "manifest.json").read_text())["world_size"] == 2
    first, *lines = ended.err.splitlines()
    assert first.startswith("launch: RUNNER_FAKE_LOGS=")
    assert shlex.split(first)[3:6] == [BOOT, "runner.testing.fake_group", "2"]
    assert len([line for line in lines if line.startswith("epoch 1/3")]) == 1
    logs = {path.name for path in project.path.glob("runs/colours/*.launch/attempt_0/*.log")}
    assert logs == {"launcher.log", "rank_0.log", "rank_1.log", "rank_helper.log"}


@pytest.mark.slow
def test_a_killed_rank_ends_the_run_which_continues_to_the_same_weights(project, launched, alone):
    process = launched.start(*SLOW)
    project.wait_for(lambda: len(project.checkpoints()) > 1)
    os.kill(launched.rank(1), signal.SIGKILL)
    ended = launched.finish(process)
    assert ended.code == 1
    [error] = ended.errors
    assert error.startswith("error: rank 1 on ")
    assert "attempt_0/rank_1.log" in error
    folder = project.run_folder()
    assert f"runner resume {folder.relative_to(project.path)} continues the run" in error
    assert not (folder / "result.json").exists()
    ended = launched.finish(launched.start("--json", command="resume", recipe=folder))
    assert ended.code == 0, ended.err
    assert "launch: " in ended.err
    launched.assert_weights_of(alone)
    resumed = [event for event in project.events() if event["event"] == "run.resumed"]
    assert len(resumed) == 1
    assert resumed[0]["step"] >= 5


def test_a_signal_to_one_rank_stops_all_at_the_same_step(project, launched, alone):
    process = launched.start(*SLOW)
    project.wait_for(project.checkpoints)
    os.kill(launched.rank(1), signal.SIGTERM)
    ended = launched.finish(process)
    assert ended.code == 128 + signal.SIGTERM
    [error] = ended.errors
    folder = project.run_folder()
    assert f"continue with: runner resume {folder.relative_to(project.path)}" in error
    [left] = [event for event in project.events() if event["event"] == "run.interrupted"]
    step = checkpoint.load(project.path / left["checkpoint"]).info.position.step
    assert step % 4 == 0 or step % 5 == 0  # where losses are read: to log them, or to save
    # one process may go on where two have stopped
    outcome = project.runner("resume", folder, "--set", "device.count=1", "--json")
    assert outcome.code == 0, outcome.err
    assert "world_size: 2 -> 1" in outcome.err
    launched.assert_weights_of(alone)


@pytest.mark.slow
def test_where_two_processes_were_stopped_changes_no_bit(project, launched):
    """They save at a step where an undisturbed run does not; each has statistics of its own."""
    options = ("--set", "checkpoint.every_steps=null", "--set", "train.log_every_steps=3")
    ended = launched.finish(launched.start(*options))
    assert ended.code == 0, ended.err
    straight = project.run_folder()
    straight.rename(project.path / "straight")
    shutil.rmtree(project.path / "runs")
    process = launched.start(*options, "--set", "framework.seconds_per_step=0.2")
    project.wait_for(lambda: has_logged_a_step(project))
    os.kill(launched.rank(1), signal.SIGTERM)
    assert launched.finish(process).code == 128 + signal.SIGTERM
    folder = project.run_folder()
    ended = launched.finish(launched.start(command="resume", recipe=folder))
    assert ended.code == 0, ended.err
    one, other = (
        checkpoint.load(checkpoint.latest(place / "checkpoints"))
        for place in (folder, project.path / "straight")
    )
    assert any(name.startswith("own/") for name in one.state.tensors)
    assert what_it_holds(one) == what_it_holds(other)


def has_logged_a_step(project):
    logs = project.path.glob("runs/*/*/events.jsonl")
    return any('"train.step"' in file.read_text() for file in logs)


def what_it_holds(saved):
    arrays = {**saved.weights, **saved.state.tensors}
    return {name: array.tobytes() for name, array in arrays.items()}


def test_ctrl_c_reaches_the_run_once_and_ends_it_the_second_time(project, launched):
    process = launched.start(*SLOW)
    project.wait_for(project.checkpoints)
    process.send_signal(signal.SIGINT)
    ended = launched.finish(process)
    assert ended.code == 128 + signal.SIGINT
    assert "continue with: runner resume" in ended.err

    process = launched.start(*HANGS)
    assert any("hangs" in line for line in process.stderr)
    process.send_signal(signal.SIGINT)
    with pytest.raises(Exception, match="timed out"):
        process.wait(timeout=1)
    process.send_signal(signal.SIGINT)
    ended = launched.finish(process)
    assert ended.code == 128 + signal.SIGINT
    assert "error: stopped by signal 2 at once; continue with: runner resume" in ended.err
    assert launched.none_left()


def test_a_signal_during_an_export_tells_what_is_saved(project, launched):
    process = launched.start("--set", "export=[{name: fake_npz, seconds: 600}]")
    project.wait_for(lambda: list(project.path.glob("runs/*/*/exports/.fake_npz.tmp")))
    process.send_signal(signal.SIGTERM)
    ended = launched.finish(process)
    assert ended.code == 128 + signal.SIGTERM
    [error] = ended.errors
    assert ": interrupted by signal 15: saved runs/colours/" in error
    assert "and exports are made again; continue with: runner resume runs/colours/" in error


def test_a_stuck_process_does_not_outlive_what_started_it(project, launched):
    process = launched.start(*HANGS, "--set", "distributed.timeout_s=4")
    assert any("hangs" in line for line in process.stderr)
    ranks = [launched.rank(rank) for rank in range(2)]
    process.kill()
    launched.finish(process)
    project.wait_for(lambda: all(state(rank) in GONE for rank in ranks))


def test_a_loss_that_one_rank_loses_ends_all_with_one_message(project, launched):
    lost = ("--set", "framework.non_finite_at_step=13", "--set", "framework.on_rank=1")
    ended = launched.finish(launched.start(*lost, "--set", "distributed.restarts=1"))
    assert ended.code == 8
    [error] = ended.errors
    assert error.startswith("error: the loss is nan at step 13")
    assert "restart" not in ended.err.replace("distributed.restarts", "")
    assert checkpoint.load(project.checkpoints()[-1]).info.position.step == 12


def test_what_is_wrong_for_all_is_said_once(project, launched):
    ended = launched.finish(launched.start("--set", "dataset.val_images=50000"))
    assert ended.code == 5
    [error] = ended.errors
    assert "has val_images 33, the recipe declares 50000" in error
    assert [path.suffix for path in project.path.glob("runs/colours/*")] == [".launch"]


def test_every_rank_tells_which_images_it_has_skipped(project, launched):
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
    ended = launched.finish(project.start("run", "colours.yaml", "--devices", "2", "--json", *skip))
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["metrics"]["val.count"] == 14
    [skipped] = [line for line in ended.err.splitlines() if "skipped" in line]
    assert "blue/3.png" in skipped
    [log] = project.path.glob("runs/colours/*.launch/attempt_0/rank_1.log")
    assert "rank 1: skipped " in log.read_text()
    assert "red/5.png" in log.read_text()
    [event] = [event for event in project.events() if event["event"] == "data.damaged"]
    assert event["image"].endswith("blue/3.png")


def test_one_validation_image_is_evaluated_once(project, launched):
    folder = project.path / "photos"
    for split, name, count in (("train", "red", 8), ("train", "blue", 8), ("val", "red", 1)):
        (folder / split / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (8, 8), name).save(folder / split / name / f"{number}.png")
    (folder / "val/red/0.png").unlink()
    (folder / "val/red/0.png").hardlink_to(folder / "train/red/7.png")
    recipe = project.write_recipe().read_text()
    data = f"dataset: {{name: class_folders, root: {folder}, missing_classes: true}}"
    (project.path / "colours.yaml").write_text(recipe.replace("dataset: fake_colours", data))
    ended = launched.finish(project.start("run", "colours.yaml", "--devices", "2", "--json"))
    assert ended.code == 0, ended.err
    result = json.loads(ended.out)
    assert (result["metrics"]["val.count"], result["val_images_in_train"]) == (1, 1)
    assert ended.err.count("1 of 1 validation images are training images") == 1


def test_a_recipe_that_only_evaluates_shares_its_images(project, launched, alone):
    assert launched.finish(launched.start(command="train")).code == 0
    saved = checkpoint.latest(project.run_folder() / "checkpoints")
    file = project.path / "only_eval.yaml"
    file.write_text(
        "summary: Evaluate only\nframework: fake\ndevice: {name: fake_cpu, count: 2}\n"
        "dataset: {name: fake_colours, images: 99}\n"
        "transforms: {eval: [{name: resize, exact: [8, 8]}]}\nmodel: linear\n"
    )
    ended = launched.finish(project.start("run", file, "--set", f"model.weights={saved}"))
    assert ended.code == 0, ended.err
    [done] = [e for e in project.events(project.run_folder("only_eval")) if "val.count" in e]
    assert (done["event"], done["val.count"]) == ("eval.finished", 33)
    assert done["val.loss"] == pytest.approx(alone.result["metrics"]["val.loss"], rel=1e-6)


def test_what_fails_after_the_others_have_left_is_said_once(project, launched):
    ended = launched.finish(launched.start("--set", "export.0.tolerance=1e-30"))
    assert ended.code == 7, ended.err
    [error] = ended.errors
    assert error.startswith("error: rank 0 on ")

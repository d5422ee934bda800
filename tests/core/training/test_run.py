"""Whole runs of the fake framework: what they leave, and how they continue."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest
from safetensors.numpy import load_file

from runner.artifacts import export
from runner.errors import DataError
from runner.session import opening
from runner.session.evaluate import evaluate
from runner.storage import checkpoint, files
from runner.testing.fake_engine import FakeEngine
from runner.training.loggers import Loggers

if TYPE_CHECKING:
    from pathlib import Path

EXPORT = "export:\n  - {name: fake_npz, verify_images: 4}\n"


def final_weights(folder):
    return load_file(checkpoint.latest(folder / "checkpoints") / checkpoint.WEIGHTS)


def assert_same_weights(one, other):
    assert one.keys() == other.keys()
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name])


def test_a_run_trains_evaluates_exports_and_leaves_everything(project):
    reference = "reference:\n  - {metric: val.top1, value: 0.9, source: a paper}\n"
    outcome = project.run(extra=EXPORT + reference)
    assert outcome.code == 0, outcome.err
    result = outcome.json
    folder = project.run_folder()
    assert sorted(path.name for path in folder.iterdir()) == [
        "checkpoints",
        "events.jsonl",
        "exports",
        "manifest.json",
        "recipe.yaml",
        "result.json",
    ]
    assert result == json.loads((folder / "result.json").read_text())
    assert (result["epochs"], result["steps"]) == (3, 36)
    assert result["metrics"]["val.top1"] == 1.0
    assert result["metrics"]["val.count"] == 32
    [export] = result["exports"]
    assert export["verified"] is True
    assert export["metrics"]["val.top1"] == 1.0
    assert result["reference"][0]["measured"] == 1.0
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["data"]["train"]["images"] == 96
    assert manifest["environment"]["packages"]["numpy"] == np.__version__
    names = [event["event"] for event in project.events()]
    assert names[:4] == ["data.opened", "data.opened", "engine.opened", "run.started"]
    assert names.count("epoch.finished") == 3
    assert names[-3:] == ["export.written", "export.verified", "run.finished"]


def test_the_resolved_recipe_starts_the_same_run(project):
    assert project.run().code == 0
    first = project.run_folder()
    again = project.runner("train", first / "recipe.yaml")
    assert again.code == 0, again.err
    assert_same_weights(final_weights(first), final_weights(project.run_folder("recipe")))


@pytest.mark.parametrize("workers", [1, 3])
def test_an_interrupted_run_continues_to_the_same_weights(project, workers):
    assert project.run().code == 0
    straight = final_weights(project.run_folder())
    straight_loss = [e["train.loss"] for e in project.events() if e["event"] == "epoch.finished"]
    shutil.rmtree(project.path / "runs")

    broken = project.write_recipe("checkpoint: {every_steps: 5, keep: 1}\n")
    with pytest.raises(RuntimeError, match="fake"):
        project.runner("run", broken, "--set", "framework.fail_after_steps=17")
    folder = project.run_folder()
    project.monkeypatch.setenv("RUNNER_FAKE_SOUND", "1")
    outcome = project.runner("resume", folder, "--set", f"loader.workers={workers}", "--json")
    assert outcome.code == 0, outcome.err
    assert_same_weights(straight, final_weights(folder))
    events = project.events(folder)
    assert [e["step"] for e in events if e["event"] == "run.resumed"] == [15]
    losses = [e["train.loss"] for e in events if e["event"] == "epoch.finished"]
    assert losses == straight_loss


def test_two_processes_never_continue_one_run(project):
    project.run()
    folder = project.run_folder()
    (folder / "result.json").unlink()
    with files.lock(folder):
        outcome = project.runner("resume", folder)
    assert outcome.code == 2
    assert "another process is working in" in outcome.err


def test_a_run_can_go_back_to_an_earlier_checkpoint(project):
    project.run("--set", "checkpoint.keep=3")
    folder = project.run_folder()
    straight = final_weights(folder)
    (folder / "result.json").unlink()
    [first, *_] = checkpoint.listing(folder / "checkpoints")
    assert project.runner("resume", first).code == 0
    assert_same_weights(straight, final_weights(folder))
    removed = [e for e in project.events() if e["event"] == "checkpoint.removed"]
    assert [e["path"][-2:] for e in removed] == ["36"]  # 24 was written again first


def test_a_finished_run_is_not_continued_and_has_its_result(project):
    result = project.run().json
    folder = project.run_folder()
    outcome = project.runner("resume", folder, "--set", "loader.workers=1", "--json")
    assert (outcome.code, outcome.json) == (0, result)
    assert [e["event"] for e in project.events()].count("run.resumed") == 0
    [*_, last] = checkpoint.listing(folder / "checkpoints")
    outcome = project.runner("resume", last)
    assert outcome.code == 2
    assert f"to go back to {last}, remove {folder / 'result.json'} first" in outcome.err


def test_a_finished_run_whose_export_has_failed_says_so_again(project):
    assert project.run(extra=EXPORT.replace("verify_images: 4", "error: 0.5")).code == 7
    outcome = project.runner("resume", project.run_folder())
    assert outcome.code == 7
    assert "differ from the live model's" in outcome.err


@pytest.mark.parametrize("content", [(), ("recipe.yaml",)])
def test_a_folder_of_a_run_that_never_began_is_named(project, content):
    (folder := project.path / "runs" / "colours" / "20260131-120000").mkdir(parents=True)
    for name in content:
        (folder / name).write_text("summary: x\n")
    outcome = project.runner("resume", folder)
    assert outcome.code == 2
    assert "was ended before the run had begun" in outcome.err
    assert "start the run again, and remove the folder" in outcome.err


def test_what_a_killed_process_left_of_a_run_folder_goes(project):
    runs = project.path / "runs" / "colours"
    for name in ("old", "new"):
        (runs / f".{name}.unfinished").mkdir(parents=True)
    os.utime(runs / ".old.unfinished", (0, 0))
    assert project.run().code == 0
    assert [path.name for path in runs.glob(".*")] == [".new.unfinished"]
    (runs / ".new.unfinished").rmdir()
    assert checkpoint.listing(project.run_folder() / "checkpoints")


EDITS = {
    "learning_rate: 0.05": ("learning_rate: 0.5", "optimizer.learning_rate: 0.05 -> 0.5"),
    "epochs: 3": ("epochs: 4", "train.epochs: 3 -> 4"),
    "seed: 7": ("seed: 8", "seed: 7 -> 8"),
    "size: 8": ("size: 7", "dataset.size: 8 -> 7"),
}


@pytest.mark.parametrize("steps", [4, 17])  # before and after the first checkpoint
def test_a_recipe_edited_by_hand_is_refused_and_the_key_named(project, steps):
    with pytest.raises(RuntimeError, match="fake"):
        project.run("--set", f"framework.fail_after_steps={steps}", "--set", "seed=7")
    folder = project.run_folder()
    text = (folder / "recipe.yaml").read_text()
    project.monkeypatch.setenv("RUNNER_FAKE_SOUND", "1")
    for old, (new, named) in EDITS.items():
        (folder / "recipe.yaml").write_text(text.replace(old, new, 1))
        outcome = project.runner("resume", folder)
        assert outcome.code == 2
        assert f"{folder / 'recipe.yaml'} was changed" in outcome.err
        assert named in outcome.err
        assert ("--set train.epochs=4" in outcome.err) == ("epochs" in old)
    (folder / "recipe.yaml").write_text(text)
    assert project.runner("resume", folder).code == 0


def test_an_edited_recipe_of_a_finished_run_is_named(project):
    project.run()
    file = project.run_folder() / "recipe.yaml"
    text = file.read_text()
    saved = checkpoint.of_run(file.parent / "checkpoints")
    file.write_text(text.replace("learning_rate: 0.05", "learning_rate: 0.5", 1))
    edit = "optimizer.learning_rate: 0.05 -> 0.5"
    outcome = project.runner("resume", file.parent)
    assert outcome.code == 2
    assert f"{file} was changed since the run's checkpoint was written: {edit}" in outcome.err
    outcome = project.runner("eval", file.parent)
    assert outcome.code == 0
    told = f"warning: {file} was changed since {saved} was written, whose own recipe counts: {edit}"
    assert told in outcome.err
    assert "was changed" not in project.runner("eval", saved).err
    for harmless in (text.replace("epochs: 3", "epochs: 5"), f"{text}# mine\n", f"{text}: : :"):
        file.write_text(harmless)
        assert "was changed" not in project.runner("eval", file.parent).err


def test_what_changes_no_number_may_be_edited_and_is_told(project):
    with pytest.raises(RuntimeError, match="fake"):
        project.run("--set", "framework.fail_after_steps=17")
    file = project.run_folder() / "recipe.yaml"
    file.write_text(file.read_text().replace("log_every_steps: 4", "log_every_steps: 6"))
    project.monkeypatch.setenv("RUNNER_FAKE_SOUND", "1")
    outcome = project.runner("resume", project.run_folder(), "--set", "checkpoint.keep=9")
    assert outcome.code == 0, outcome.err
    [resumed] = [e for e in project.events() if e["event"] == "run.resumed"]
    assert resumed["changed"] == ["checkpoint.keep: 2 -> 9", "train.log_every_steps: 4 -> 6"]
    assert "changed: checkpoint.keep: 2 -> 9; train.log_every_steps: 4 -> 6" in outcome.err


def test_a_finished_run_trains_longer_on_request(project):
    project.run()
    folder = project.run_folder()
    outcome = project.runner("resume", folder, "--set", "train.epochs=4", "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["epochs"] == 4
    [resumed] = [e for e in project.events() if e["event"] == "run.resumed"]
    assert (resumed["step"], resumed["changed"]) == (36, ["train.epochs: 3 -> 4"])
    again = project.runner("resume", folder, "--json")
    assert (again.code, again.json) == (0, outcome.json)
    assert "epochs: 4" in (folder / "recipe.yaml").read_text()


@pytest.mark.parametrize("value", ["train.epochs=2", "export=[{name: fake_npz}]"])
def test_what_a_finished_run_has_no_use_for_is_refused(project, value):
    result = project.run().json
    folder = project.run_folder()
    assert project.runner("resume", folder, "--set", "train.epochs=3", "--json").json == result
    outcome = project.runner("resume", folder, "--set", value)
    assert outcome.code == 2
    assert f"{folder} is finished after 3 epochs, so this has no effect: {value[:6]}" in outcome.err
    assert "set train.epochs to more than 3" in outcome.err
    assert json.loads((folder / "result.json").read_text()) == result


def test_an_unfinished_run_cannot_end_before_what_it_has_trained(project):
    with pytest.raises(RuntimeError, match="fake"):
        project.run("--set", "framework.fail_after_steps=30")
    project.monkeypatch.setenv("RUNNER_FAKE_SOUND", "1")
    folder = project.run_folder()
    outcome = project.runner("resume", folder, "--set", "train.epochs=1")
    assert outcome.code == 2
    assert "is in epoch 2, so the run cannot end after 1" in outcome.err
    assert "epochs: 3" in (folder / "recipe.yaml").read_text()
    outcome = project.runner("resume", folder, "--set", "train.epochs=2", "--json")
    assert (outcome.code, outcome.json["epochs"], outcome.json["steps"]) == (0, 2, 24)


@pytest.mark.parametrize("fault", ["classes", "state"])
def test_a_refused_resume_has_changed_nothing(project, monkeypatch, fault):
    project.run()
    folder = project.run_folder()
    if fault == "classes":
        names = project.path / "names.txt"
        names.write_text("red\ngreen\nblue\n")
        assert project.runner("relabel", folder, names).code == 0
    records = [folder / name for name in ("recipe.yaml", "manifest.json", "result.json")]
    before = [path.read_bytes() for path in records]

    def fail(*_):
        raise KeyError("momentum")

    with monkeypatch.context() as patch:
        if fault == "state":
            patch.setattr(FakeEngine, "load_state", fail)
        outcome = project.runner("resume", folder, "--set", "train.epochs=4")
    assert outcome.code == 6, outcome.err
    assert (f"runner relabel {folder} NAMES" in outcome.err) == (fault == "classes")
    assert before == [path.read_bytes() for path in records]
    assert project.runner("resume", folder).code == 0


def test_ctrl_c_says_what_is_saved_and_how_to_continue(project, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(opening, "calling", interrupt)
        outcome = project.run()
    assert outcome.code == 130
    assert outcome.err.endswith("interrupted: no run was begun\n")
    with monkeypatch.context() as patch:
        patch.setattr(export, "carry_out", interrupt)
        outcome = project.run(extra=EXPORT)
    folder = project.run_folder().relative_to(project.path)
    [*_, last] = (path.relative_to(project.path) for path in project.checkpoints())
    assert outcome.code == 130
    assert outcome.err.endswith(
        f"interrupted: saved {last}, and exports are made again; "
        f"continue with: runner resume {folder}\n"
    )
    with monkeypatch.context() as patch:
        patch.setattr(opening, "calling", interrupt)
        outcome = project.runner("resume", folder)
    assert outcome.code == 130
    assert f"nothing of the run was changed; continue with: runner resume {folder}" in outcome.err
    [record] = project.runner("resume", folder, "--json").json["exports"]
    assert record["verified"]


@pytest.mark.parametrize("epoch", [1, 3])
def test_an_epoch_is_on_the_disk_before_it_is_evaluated(project, monkeypatch, epoch):
    result = project.run().json
    straight = project.path / "straight"
    project.run_folder().rename(straight)
    eval_step = FakeEngine.eval_step

    def fail(engine, batch):
        [*_, last] = project.checkpoints()  # the disk of a process that is killed here
        if last.name == f"step_{12 * epoch:08}":
            position = checkpoint.load(last).info.position
            assert (position.epoch, position.step_in_epoch) == (epoch - 1, 12)
            raise DataError("an image cannot be read")
        return eval_step(engine, batch)

    with monkeypatch.context() as patch:
        patch.setattr(FakeEngine, "eval_step", fail)
        outcome = project.run()
    folder = project.run_folder()
    assert outcome.code == 5
    [*_, last] = (path.relative_to(project.path) for path in project.checkpoints())
    run = folder.relative_to(project.path)
    assert f"saved {last}; continue with: runner resume {run}" in outcome.err
    outcome = project.runner("resume", folder, "--json")
    assert outcome.code == 0, outcome.err
    for name in ("best_top1", "best_epoch", "epochs", "steps"):
        assert outcome.json[name] == result[name]
    assert what_stays(folder) == what_stays(straight)


def test_an_epoch_that_is_not_due_is_saved_when_its_evaluation_fails(project, monkeypatch):
    def fail(*_):
        raise DataError("an image cannot be read")

    with monkeypatch.context() as patch:
        patch.setattr(FakeEngine, "eval_step", fail)
        outcome = project.run("--set", "checkpoint.every_epochs=2")
    assert outcome.code == 5
    [last] = project.checkpoints()
    assert f"saved {last.relative_to(project.path)}; continue with: runner resume" in outcome.err
    assert project.runner("resume", project.run_folder()).code == 0


def is_figure(metric):
    return metric == "train.loss" or (metric.startswith("val.") and "_per_s" not in metric)


def what_stays(folder):
    """Return what the checkpoints of a run say, and which is the best, without speeds."""
    best = checkpoint.best(folder / "checkpoints")
    found = [checkpoint.load(path) for path in checkpoint.listing(folder / "checkpoints")]
    return best and best.name, [
        (
            saved.path.name,
            saved.info.position,
            {name: value for name, value in saved.info.metrics.items() if is_figure(name)},
            {name: array.tobytes() for name, array in saved.weights.items()},
            {name: array.tobytes() for name, array in saved.state.tensors.items()},
        )
        for saved in found
    ]


def test_resume_refuses_what_would_change_the_experiment(project):
    project.run()
    outcome = project.runner("resume", project.run_folder(), "--set", "optimizer.momentum=0")
    assert outcome.code == 2


def test_only_recent_and_best_checkpoints_stay(project):
    project.run("--set", "train.epochs=6", "--set", "checkpoint.keep=2")
    folder = project.run_folder() / "checkpoints"
    best = checkpoint.best(folder)
    assert best is not None
    assert checkpoint.listing(folder) == sorted({best, *checkpoint.listing(folder)[-2:]})
    steps = {e["step"] for e in project.events() if e["event"] == "checkpoint.saved"}
    assert steps == {12, 24, 36, 48, 60, 72}


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_last_checkpoint(project):
    outcome = project.run("--set", "framework.non_finite_at_step=14")
    assert outcome.code == 8
    [saved] = checkpoint.listing(project.run_folder() / "checkpoints")
    assert "the loss is nan at step 14" in outcome.err
    assert f"the last good checkpoint is {saved.relative_to(project.path)}" in outcome.err
    assert checkpoint.load(saved).info.position.step == 12
    assert project.events()[-1]["event"] == "run.failed"


def test_an_overflow_is_skipped_and_counted(project):
    outcome = project.run("--set", "framework.overflow_at_step=5")
    assert outcome.code == 0
    assert outcome.json["skipped_steps"] == 1
    assert [e["step"] for e in project.events() if e["event"] == "train.overflow"] == [5]


def test_the_target_accuracy_ends_the_run(project):
    outcome = project.run("--set", "train.target_top1=0.5")
    assert outcome.json["reached_target"]
    assert outcome.json["epochs"] < 3


def test_evaluation_starts_and_repeats_as_asked_and_never_misses_the_end(project):
    project.run("--set", "train.epochs=5", "--set", "eval.every_epochs=2")
    evaluated = [
        e["epoch"] for e in project.events() if e["event"] == "epoch.finished" and "val.top1" in e
    ]
    assert evaluated == [2, 4, 5]


def test_a_failed_verification_fails_the_run(project):
    outcome = project.run(extra=EXPORT.replace("verify_images: 4", "error: 0.5"))
    assert outcome.code == 7
    assert "differ from the live model's" in outcome.err
    result = json.loads((project.run_folder() / "result.json").read_text())
    assert result["exports"][0]["verified"] is False
    assert result["metrics"]["val.top1"] == 1.0


def test_a_recipe_without_train_evaluates_its_weights(project):
    project.run()
    saved = checkpoint.latest(project.run_folder() / "checkpoints")
    trained = project.runner("eval", saved, "--json").json[0]["metrics"]
    file = project.path / "only_eval.yaml"
    file.write_text(
        "summary: Evaluate only\nframework: fake\ndevice: fake_cpu\ndataset: fake_colours\n"
        "transforms: {eval: [{name: resize, exact: [8, 8]}]}\nmodel: linear\n"
    )
    outcome = project.runner("run", file, "--set", f"model.weights={saved}", "--json")
    assert outcome.code == 0, outcome.err
    metrics = outcome.json["metrics"]
    assert metrics.pop("val.images_per_s") > 0
    # the matrix product of another batch may round its last bit otherwise
    assert metrics == pytest.approx(trained, rel=1e-12)


def test_smoke_takes_a_few_steps_on_synthetic_images(project):
    published = "reference:\n  - {metric: val.top1, value: 0.9, source: a paper}\n"
    recipe = project.write_recipe(EXPORT + published)
    outcome = project.runner("run", recipe, "--smoke", "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["reference"] == []
    assert outcome.json["steps"] == 3
    assert outcome.json["exports"][0]["verified"]


def test_a_wrong_split_leaves_no_run_folder(project):
    outcome = project.run("--set", "train.batch_size=97")
    assert outcome.code == 5
    assert "96 training images cannot fill one batch of 97" in outcome.err
    assert not (project.path / "runs").exists()


def test_declared_sizes_are_checked(project):
    outcome = project.run("--set", "dataset.val_images=50000")
    assert outcome.code == 5
    assert "has val_images 32, the recipe declares 50000" in outcome.err


def test_a_full_disk_leaves_the_last_good_checkpoint(project, monkeypatch):
    saved: list[Path] = []
    real = files.sync

    def full_after_the_first(path):
        if saved and path.parent.name.startswith(".step"):
            raise OSError(28, "No space left on device")
        if path.name == "checkpoints":
            saved.append(path)
        real(path)

    monkeypatch.setattr(files, "sync", full_after_the_first)
    outcome = project.run()
    assert outcome.code == 9
    assert "No space left on device" in outcome.err
    [good] = checkpoint.listing(project.run_folder() / "checkpoints")
    assert checkpoint.load(good).info.position.step == 12
    assert f"runner resume {good.relative_to(project.path)}" in outcome.err
    assert not list((project.run_folder() / "checkpoints").glob(".*"))


def test_a_runs_dir_that_cannot_be_made_is_named(project):
    (project.path / "runs").write_text("in the way")
    outcome = project.run()
    assert outcome.code == 9
    assert "runs" in outcome.err
    assert "--runs-dir" in outcome.err


def test_what_is_not_installed_is_named_before_anything_is_opened(project, monkeypatch):
    monkeypatch.setattr("runner.plugins.loading._is_installed", lambda module: module != "numpy")
    outcome = project.run()
    assert outcome.code == 3
    assert "framework 'fake' cannot be used: numpy is not installed" in outcome.err
    assert not (project.path / "runs").exists()


def test_resume_from_inside_a_checkpoint_folder_loses_nothing(project, monkeypatch):
    project.run("--set", "checkpoint.keep=3")
    folder = project.run_folder()
    straight = final_weights(folder)
    (folder / "result.json").unlink()
    monkeypatch.chdir(checkpoint.listing(folder / "checkpoints")[0])
    assert project.runner("resume", ".").code == 0
    assert_same_weights(straight, final_weights(folder))
    assert checkpoint.load(checkpoint.listing(folder / "checkpoints")[0])


def test_a_resumed_run_exports_only_if_it_was_started_to(project):
    assert project.runner("train", project.write_recipe(EXPORT)).code == 0
    folder = project.run_folder()
    (folder / "result.json").unlink()
    assert project.runner("resume", folder).code == 0
    assert not (folder / "exports").exists()


def test_a_damaged_manifest_is_named(project):
    project.run()
    folder = project.run_folder()
    (folder / "result.json").unlink()
    (folder / "manifest.json").write_text("{")
    outcome = project.runner("resume", folder)
    assert outcome.code == 6
    assert "manifest.json is damaged" in outcome.err


def after_each_epoch(do):
    """Return a method of loggers that does something when an epoch was told."""
    tell = Loggers.event

    def event(self, name, fields):
        tell(self, name, fields)
        if name == "epoch.finished":
            do()

    return event


@pytest.mark.parametrize("epoch", [1, 3])
@pytest.mark.parametrize("moment", ["epoch_finished", "evaluation"])
def test_a_folder_that_is_removed_during_the_run_is_written_again(
    project, monkeypatch, epoch, moment
):
    calls = []

    def remove():
        calls.append(1)
        if len(calls) == epoch:
            shutil.rmtree(project.run_folder())

    if moment == "evaluation":
        monkeypatch.setattr(
            "runner.training.loop.evaluate",
            lambda *a, **named: (remove(), evaluate(*a, **named))[1],
        )
    else:
        monkeypatch.setattr(Loggers, "event", after_each_epoch(remove))
    monkeypatch.setenv("RUNNER_PLUGINS", "fake,data,logs")
    outcome = project.run(extra="loggers: [{name: step_csv}]\n")
    assert outcome.code == 0, outcome.err
    folder = project.run_folder()
    missing = outcome.json["folder_lost"][0]["missing"]
    # a checkpoint may have been written there again before it was looked
    assert missing[:3] == ["recipe.yaml", "manifest.json", "events.jsonl"]
    assert json.loads((folder / "result.json").read_text())["folder_lost"][0]["missing"] == missing
    assert "was removed or moved away" in outcome.err
    events = project.events()
    names = [event["event"] for event in events]
    assert names.count("run.folder_lost") == 1
    assert names.count("epoch.finished") == 3  # those before it as well
    assert (names[0], names[-1]) == ("data.opened", "run.finished")
    found = [checkpoint.load(path) for path in project.checkpoints()]
    assert found[-1].info.position.epoch == 3
    again = project.runner("resume", folder, "--json")
    assert (again.code, again.json) == (0, outcome.json)


def test_a_log_that_is_moved_away_is_written_again(project, monkeypatch):
    def move():
        file = project.run_folder() / "events.jsonl"
        if not file.with_suffix(".1").exists():
            file.rename(file.with_suffix(".1"))

    monkeypatch.setattr(Loggers, "event", after_each_epoch(move))
    outcome = project.run()
    assert outcome.code == 0, outcome.err
    assert outcome.json["folder_lost"] == [{"missing": ["events.jsonl"]}]
    assert [e["event"] for e in project.events()].count("epoch.finished") == 3


def test_a_folder_that_goes_while_a_checkpoint_is_written_does_not_end_the_run(
    project, monkeypatch
):
    real, calls = checkpoint._file_record, []

    def remove(path):
        calls.append(path)
        if len(calls) == 4:
            shutil.rmtree(project.run_folder())
        return real(path)

    monkeypatch.setattr(checkpoint, "_file_record", remove)
    outcome = project.run()
    assert outcome.code == 0, outcome.err
    assert [path.name for path in project.checkpoints()] == ["step_00000024", "step_00000036"]
    assert len(outcome.json["folder_lost"]) == 1

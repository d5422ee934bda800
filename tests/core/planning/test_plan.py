"""How a batch is split, and what a plan knows before a framework is imported."""

from __future__ import annotations

import pytest


def explain(project, *arguments, extra=""):
    outcome = project.runner("explain", project.write_recipe(extra), "--json", *arguments)
    assert outcome.code == 0, outcome.err
    return outcome.json


def test_the_global_batch_is_devices_times_micro_times_accumulation(project):
    plan = explain(project, "--devices", "2", "--set", "train.micro_batch_size=2")
    assert plan["batch"] == {"global": 8, "devices": 2, "per_pass": 2, "accumulation": 2}
    assert plan["steps_per_epoch"] == 12


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["--devices", "3"],
            "8 images cannot be split evenly by devices = 3; nearest that divide ",
        ),
        (["--set", "train.micro_batch_size=5"], "train.micro_batch_size = 5; .* 4 or 8"),
    ],
)
def test_an_impossible_split_names_the_nearest(project, overrides, message):
    outcome = project.run(*overrides)
    assert outcome.code == 2
    assert pytest.importorskip("re").search(message, outcome.err)


@pytest.mark.parametrize(
    ("change", "steps"),
    [
        ([], 12),
        (["--set", "train.batch_size=10"], 9),
        (["--set", "train.batch_size=10", "--set", "train.last_batch=keep"], 10),
        (["--set", "train.max_steps_per_epoch=3"], 3),
    ],
)
def test_steps_per_epoch(project, change, steps):
    assert explain(project, *change)["steps_per_epoch"] == steps


def test_rates_at_the_start_the_peak_and_the_end(project):
    rates = explain(
        project, "--set", "schedule={name: cosine, warmup_epochs: 1, warmup: from_zero}"
    )["learning_rate"]
    assert rates["start"] == 0
    assert rates["peak"] == 0.05
    assert 0 < rates["end"] < 0.001


def test_declared_sizes_plan_a_run_whose_data_is_elsewhere(project):
    extra = "extends: colours_base.yaml\n"
    (project.path / "colours_base.yaml").write_text(project.write_recipe().read_text())
    data = "{name: class_folders, root: '${NOWHERE}', train_images: 1281167, val_images: 50000}"
    recipe = project.path / "imagenet.yaml"
    recipe.write_text(f"{extra}summary: x\ndataset: {data}\n")
    plan = project.runner("explain", recipe, "--json").json
    assert (plan["train_images"], plan["val_images"]) == (1281167, 50000)
    assert plan["steps_per_epoch"] == 160145
    text = project.runner("explain", recipe).out
    assert "environment variable NOWHERE is not set" in text
    outcome = project.runner("run", recipe)
    assert outcome.code == 2
    assert "NOWHERE" in outcome.err


def test_every_value_has_an_origin(project):
    plan = explain(project, "--set", "train.epochs=7")
    assert plan["origins"]["train.epochs"] == "--set train.epochs=7"
    assert plan["origins"]["train.batch_size"] == "colours.yaml:13:32"
    assert plan["origins"]["seed"] == "default"


def test_explain_says_what_it_reads_and_writes(project):
    text = project.runner("explain", project.write_recipe()).out
    assert "trains on 96 images (found in the data)" in text
    assert "global batch 8 = 1 fake_cpu x 8 images per pass x 1 accumulation" in text
    assert "12 steps per epoch x 3 epochs = 36" in text
    assert "runner run colours.yaml" in text.replace(str(project.path) + "/", "")

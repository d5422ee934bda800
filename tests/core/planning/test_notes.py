"""What is worth knowing of a plan is said by explain, and by a run before it starts."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from tests.core.conftest import RECIPE

if TYPE_CHECKING:
    from tests.core.conftest import Project


def notes(project: Project, *overrides: str) -> list[str]:
    arguments = [part for text in overrides for part in ("--set", text)]
    outcome = project.runner("explain", project.write_recipe(), "--json", *arguments)
    assert outcome.code == 0, outcome.err
    found: list[str] = outcome.json["notes"]
    return found


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (
            "schedule={name: cosine, warmup_epochs: 5}",
            "the warm-up takes 5 epochs and the training 3, so the learning rate never reaches",
        ),
        (
            "schedule={name: cosine, warmup_epochs: 3}",
            "the warm-up takes the whole training (3 epochs), so cosine never begins",
        ),
        (
            "schedule={name: multistep, milestones: [30, 60]}",
            "schedule.milestones 30, 60 come after the last of 3 epochs: the learning rate never",
        ),
        (
            "schedule={name: multistep, milestones: [1, 3]}",
            "schedule.milestones 3 come after the last of 3 epochs: the learning rate does not",
        ),
        ("schedule={name: step}", "schedule.every_epochs is 30 and the training takes 3 epochs"),
        (
            "schedule={name: cosine, warmup_epochs: 1, decay_epochs: 90}",
            "schedule.decay_epochs is 90 and the training takes 3 epochs",
        ),
        ("eval.start_epoch=3", "only the last one is evaluated"),
        ("train.batch_size=4", "train.batch_size is 4 (--set train.batch_size=4), and optimizer"),
    ],
)
def test_what_cannot_be_meant(project: Project, override: str, words: str) -> None:
    [found] = notes(project, override)
    assert words in found


@pytest.mark.parametrize(
    "override",
    [
        "schedule={name: cosine, warmup_epochs: 2}",
        "schedule={name: multistep, milestones: [1, 2]}",
        "schedule={name: step, every_epochs: 2}",
        "schedule={name: cosine, decay_epochs: 2}",
        "schedule={name: constant, warmup_epochs: 3}",
        "train.batch_size=6",
        "seed=3",
    ],
)
def test_what_can_be_meant(project: Project, override: str) -> None:
    assert notes(project, override) == []


def test_a_batch_of_another_size_than_the_learning_rate_was_written_for(project: Project) -> None:
    base = RECIPE.replace("learning_rate: 0.05", "learning_rate: 2.0")
    (project.path / "base.yaml").write_text(base.replace("batch_size: 8", "batch_size: 4096"))
    (project.path / "small.yaml").write_text("extends: base.yaml\ntrain: {batch_size: 32}\n")
    [found] = project.runner("explain", "small.yaml", "--json").json["notes"]
    assert found == (
        "train.batch_size is 32 (small.yaml:2:21), and optimizer.learning_rate 2 was written for "
        "4096 (base.yaml:11:44); in proportion it would be 0.0156: set optimizer.learning_rate, "
        "or keep the batch and set train.micro_batch_size"
    )
    both = "extends: base.yaml\ntrain: {batch_size: 32}\noptimizer: {learning_rate: 0.1}\n"
    (project.path / "small.yaml").write_text(both)
    assert project.runner("explain", "small.yaml", "--json").json["notes"] == []


def test_they_are_told_at_the_start_and_by_explain_as_text(project: Project) -> None:
    words = "the warm-up takes 9 epochs and the training 1"
    change = ("--set", "schedule={name: cosine, warmup_epochs: 9}", "--set", "train.epochs=1")
    text = project.runner("explain", project.write_recipe(), *change).out
    assert words in text.partition("worth knowing\n")[2]
    outcome = project.run(*change)
    assert outcome.code == 0, outcome.err
    assert f"warning: {words}" in outcome.err
    before = [event["event"] for event in project.events()]
    assert before.index("warning") < before.index("run.started")


def test_a_smoke_test_is_silent_of_what_it_changes(project: Project) -> None:
    change = ("--smoke", "--set", "schedule={name: cosine, warmup_epochs: 9}")
    done = project.runner("explain", project.write_recipe(), "--json", *change)
    assert done.json["notes"] == []


def test_the_first_step_is_told_whatever_the_log_shows(project: Project) -> None:
    outcome = project.run("--set", "train.log_every_steps=1000", "--set", "train.epochs=1")
    assert outcome.code == 0, outcome.err
    told = [event for event in project.events() if event["event"] == "train.first_step"]
    assert [(event["step"], event["steps_per_epoch"]) for event in told] == [(1, 12)]
    assert "  epoch 1/1  first step of 12 took " in outcome.err


@pytest.mark.parametrize(
    ("images", "change", "smallest"),
    [
        (96, (), 8),
        (97, (), 8),
        (97, ("train.last_batch=keep",), 1),
        (98, ("train.last_batch=keep",), 2),
        (101, ("train.last_batch=keep", "train.micro_batch_size=4"), 1),
        (97, ("train.last_batch=fill", "device.count=2"), 1),
        (97, ("train.last_batch=fill", "device.count=2", "train.sync_batch_norm=true"), 2),
        (96, ("train.micro_batch_size=1",), 1),
        (97, ("train.last_batch=keep", "train.max_steps_per_epoch=12"), 8),
    ],
)
def test_the_smallest_pass(
    project: Project, images: int, change: tuple[str, ...], smallest: int
) -> None:
    from runner.planning.loading import load

    loaded = load(str(project.write_recipe()), change)
    assert loaded.plan.smallest_pass(images) == smallest


def test_a_pass_of_one_image_is_told(project: Project) -> None:
    data = "{name: class_folders, root: '${NOWHERE}', train_images: 97, val_images: 2}"
    found = notes(project, f"dataset={data}", "train.last_batch=keep")
    assert (
        "the last pass of each epoch has one image (97 images, train.last_batch: keep)"
        in (found[0])
    )


def write(folder, count: int) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        pixels = np.full((8, 8, 3), number, np.uint8)
        Image.fromarray(pixels).save(folder / f"{folder.name}{number}.png")


def test_a_damaged_validation_image_is_found_before_the_first_step(project: Project) -> None:
    for name in "ab":
        write(project.path / "data/train" / name, 8)
        write(project.path / "data/val" / name, 2)
    damaged = project.path / "data/val/b/b1.png"
    damaged.write_bytes(damaged.read_bytes()[:40])
    text = RECIPE.replace("fake_colours", "{name: class_folders, root: data}")
    (project.path / "photos.yaml").write_text(text)
    outcome = project.runner("run", "photos.yaml")
    assert outcome.code == 5
    assert "b1.png: not an image (40 bytes" in outcome.err
    assert not (project.path / "runs").exists(), "nothing was begun"
    skip = ("--set", "loader.damaged_images=skip", "--set", "loader.max_damaged=1")
    outcome = project.runner("run", "photos.yaml", *skip)
    assert outcome.code == 0, outcome.err
    assert outcome.err.count("skipped data/val/b/b1.png") == 1
    assert "damaged   1 image skipped\n" in outcome.out
    [result] = (project.path / "runs/photos").glob("*/result.json")
    assert json.loads(result.read_text())["damaged_images"] == 1

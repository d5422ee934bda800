"""Weights of runs as other runs and commands take them: the same set, with the names of classes."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from runner.storage import checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    from tests.core.conftest import Project

EVALUATION = """\
summary: Only evaluates
framework: fake
device: fake_cpu
dataset: fake_colours
transforms:
  eval:
    - {name: resize, exact: [8, 8]}
model: {name: linear, noise: 0.05, weights: WEIGHTS}
eval: {batch_size: 5}
"""
COLOURS = {"red": (220, 20, 20), "green": (20, 220, 20), "blue": (20, 20, 220)}


def write_images(root: Path, names: tuple[str, ...]) -> None:
    """Write folders of classes, each in a colour of its own."""
    random = np.random.default_rng(1)
    for split, count in (("train", 8), ("val", 4)):
        for name, colour in zip(names, COLOURS.values(), strict=True):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = random.normal(colour, 5, (8, 8, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{split}{number}.png")


@pytest.fixture
def averaged(project: Project) -> Path:
    """A run whose average is far behind its weights; both are in its checkpoint."""
    assert project.run("--set", "train.ema_decay=0.99", "--set", "train.epochs=1").code == 0
    return project.run_folder()


def loss_of(project: Project, *arguments: str | Path) -> float:
    [result] = project.runner("eval", *arguments, "--json").json
    loss: float = result["metrics"]["val.loss"]
    return loss


def test_every_path_takes_the_average(project: Project, averaged: Path) -> None:
    [saved] = project.checkpoints()
    recipe = project.path / "evaluation.yaml"
    recipe.write_text(EVALUATION)
    average = loss_of(project, averaged)
    raw = loss_of(project, averaged, "--weights", "raw")
    assert abs(average - raw) > 0.01
    assert loss_of(project, averaged, "--weights", "ema") == average
    file = saved / "weights.safetensors"
    assert loss_of(project, file) == average
    for path, key, expected in (
        (averaged, "null", average),
        (file, "ema", average),
        (saved, "raw", raw),
    ):
        given = [f"model.weights={path}", f"model.weights_key={key}"]
        outcome = project.runner("run", recipe, *(f"--set={text}" for text in given), "--json")
        assert outcome.json["metrics"]["val.loss"] == expected
        assert "took " in outcome.err
    exported = project.runner("export", saved, "--format", "fake_npz", "--json").json
    assert exported[0]["metrics"]["val.loss"] == pytest.approx(average, rel=1e-5)


def test_what_is_said_of_an_average(project: Project, averaged: Path) -> None:
    err = project.runner("eval", averaged).err
    assert "took the average ema; there is also raw (model.weights_key, --weights)" in err
    wrong = project.runner("eval", averaged, "--weights", "student")
    assert wrong.code == 6
    assert "there are no weights 'student'; expected one of: ema" in wrong.err


@pytest.mark.parametrize("key", ["model.weights", "model.weights_key"])
def test_a_command_for_a_model_takes_no_weights_beside_it(
    project: Project, averaged: Path, key: str
) -> None:
    outcome = project.runner("eval", averaged, "--set", f"{key}=x")
    assert outcome.code == 2
    assert "model.weights has no effect; of several sets in it, --weights" in outcome.err


@pytest.fixture
def trained(project: Project) -> Path:
    """A run over folders of images."""
    write_images(project.path / "data", ("red", "green", "blue"))
    recipe = project.write_recipe(name="folders")
    dataset = f"dataset={{name: class_folders, root: {project.path / 'data'}}}"
    outcome = project.runner("run", recipe, "--set", dataset, "--json")
    assert outcome.json["metrics"]["val.top1"] == 1.0
    return project.run_folder("folders")


def start_from(project: Project, run: Path, root: Path, *more: str) -> list[str | Path]:
    dataset = f"dataset={{name: class_folders, root: {root}}}"
    recipe = project.write_recipe(name="next")
    return ["run", recipe, "--set", dataset, "--set", f"model.weights={run}", *more]


def test_other_classes_are_refused_where_a_run_starts_from_another(
    project: Project, trained: Path
) -> None:
    write_images(project.path / "other", ("ant", "bee", "wasp"))
    command = start_from(project, trained, project.path / "other")
    outcome = project.runner(*command)
    assert outcome.code == 6
    assert "missing blue, green, red (3); unknown ant, bee, wasp (3)" in outcome.err
    assert "set model.fresh_classifier=true" in outcome.err
    explained = project.runner("explain", *command[1:], "--json").json
    assert explained["classes"] == ["ant", "bee", "wasp"]
    assert f"error: {explained['refusals'][0]}" in outcome.err, "what the run has said"
    saved = next((trained / "checkpoints").glob("step_*"))
    for path in (saved, saved / "weights.safetensors"):
        there = start_from(project, path, project.path / "data")
        assert project.runner("explain", *there[1:], "--json").json["refusals"] == []
    fresh = ("--set", "model.fresh_classifier=true", "--set", "train.epochs=1")
    outcome = project.runner(*start_from(project, trained, project.path / "other", *fresh))
    assert outcome.code == 0
    assert "head.bias, head.weight stay fresh, for 3 classes" in outcome.err
    [event] = [
        item for item in project.events(project.run_folder("next")) if "weights" in item["event"]
    ]
    assert event["notes"]


def test_classes_in_another_order_are_followed_by_name(project: Project, trained: Path) -> None:
    """Lists of images may have another order than folders, whose names are sorted."""
    folder = project.path / "lists"
    write_images(folder, ("red", "green", "blue"))
    order = ("red", "blue", "green")
    (folder / "names.txt").write_text("".join(f"{name}\n" for name in order))
    for split in ("train", "val"):
        lines = [
            f"{path.relative_to(folder)} {order.index(path.parent.name)}\n"
            for path in sorted((folder / split).rglob("*.png"))
        ]
        (folder / f"{split}.txt").write_text("".join(lines))
    files = "train_list: train.txt, val_list: val.txt, class_names: names.txt"
    dataset = f"dataset={{name: list_file, root: {folder}, {files}}}"
    outcome = project.runner("eval", trained, "--set", dataset, "--json")
    assert outcome.json[0]["metrics"]["val.top1"] == 1.0
    assert "the classes have another order, so the last layer is ordered by name" in outcome.err
    recipe, copy = project.path / "evaluation.yaml", copied(project, trained)
    recipe.write_text(EVALUATION)
    outcome = project.runner("eval", copy, "--recipe", recipe, "--set", dataset, "--json")
    assert outcome.json[0]["metrics"]["val.top1"] == 1.0
    assert f"weights: {copy}: the classes have another order" in outcome.err


def copied(project: Project, run: Path) -> Path:
    """Copy the weights of a run's last checkpoint, and nothing else of it."""
    copy = project.path / "copied.safetensors"
    shutil.copy(checkpoint.latest(run / "checkpoints") / checkpoint.WEIGHTS, copy)
    return copy


def test_a_copy_of_weights_has_the_names_of_its_classes(project: Project, trained: Path) -> None:
    write_images(project.path / "other", ("Blau", "Grün", "Rot"))
    copy = copied(project, trained)
    outcome = project.runner(*start_from(project, copy, project.path / "other"))
    assert outcome.code == 6
    assert "missing blue, green, red (3); unknown Blau, Grün, Rot (3)" in outcome.err
    names = project.path / "names.txt"
    names.write_text("Blau\nGrün\nRot\n")
    assert "is neither a checkpoint" in project.runner("relabel", copy, names).err
    before = checkpoint.load(checkpoint.latest(trained / "checkpoints"))
    assert project.runner("relabel", trained, names).code == 0
    after = checkpoint.load(checkpoint.latest(trained / "checkpoints"))
    assert after.info == replace(before.info, classes=("Blau", "Grün", "Rot"))
    assert after.state.tensors.keys() == before.state.tensors.keys()
    outcome = project.runner(*start_from(project, copied(project, trained), project.path / "other"))
    assert outcome.code == 0, outcome.err
    copy.write_bytes(copy.read_bytes().replace(b"Blau", b"Grau", 1))
    outcome = project.runner(*start_from(project, copy, project.path / "other"))
    assert outcome.code == 6
    assert "copied.safetensors is damaged: it was changed after it was written" in outcome.err


def test_a_copy_of_weights_says_that_they_are_no_average(project: Project, averaged: Path) -> None:
    recipe, copy = project.path / "evaluation.yaml", copied(project, averaged)
    recipe.write_text(EVALUATION)
    raw = loss_of(project, averaged, "--weights", "raw")
    assert loss_of(project, copy, "--recipe", recipe) == raw
    assert (
        "copied.safetensors: these are not the average, which"
        in project.runner("eval", copy, "--recipe", recipe).err
    )


def test_keys_that_need_weights(project: Project) -> None:
    for key in ("weights_key=ema", "fresh_classifier=true"):
        outcome = project.run("--set", f"model.{key}")
        assert outcome.code == 2
        assert f"model.{key.partition('=')[0]} has no effect without model.weights" in outcome.err


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("missing.pth", "missing.pth does not exist; expected a run"),
        ("pipe", "pipe is a named pipe; expected a run"),
        ("loop", "loop cannot be looked at (Too many levels of symbolic links); expected a run"),
        ("n" * 256, "n cannot be looked at (File name too long); expected a run"),
        ("https://host/w.pth", "; nothing is downloaded, so fetch the file first"),
        ("~/w.pth", "; ~ stands for a home directory in a shell only, unquoted"),
    ],
)
def test_a_path_without_weights_says_why(project: Project, name: str, found: str) -> None:
    project.monkeypatch.chdir(project.path)
    os.mkfifo("pipe")
    (project.path / "loop").symlink_to("loop")
    recipe = project.path / "evaluation.yaml"
    recipe.write_text(EVALUATION.replace("WEIGHTS", "null"))
    commands = [
        ("eval", name),
        ("eval", name, "--recipe", recipe),
        ("resume", name),
        ("export", name, "--format", "fake_npz"),
        ("predict", name, recipe),
        ("run", recipe, "--set", f"model.weights={name}"),
    ]
    for command in commands:
        outcome = project.runner(*command)
        assert outcome.code == (6 if command[0] == "run" else 2), command
        if command[0] == "run" and name.startswith("~"):  # a recipe's own paths may begin with it
            continue
        assert found in " ".join(outcome.err.split()), command

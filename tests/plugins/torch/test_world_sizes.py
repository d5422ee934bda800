"""One recipe on one, two and three processes, and runs that go on with another number of them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from runner.storage import checkpoint

pytest.importorskip("torch")

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.plugins.conftest import Machine, RecipeFolder

STEPS = 24
CONTINUED = 12
"""Step from which a run goes on with another number of processes."""
RECIPE = """
summary: Several processes
framework: torch
device: {{name: cpu, count: {count}}}
dataset: {{name: synthetic, train_count: 98, val_count: 7, size: [40, 40], class_count: 3}}
transforms:
  train: [{{name: random_crop, size: 40, padding: 4}}, {{name: horizontal_flip}}]
  eval: [{{name: center_crop, size: 40}}]
model: {model}
optimizer: {{name: sgd, learning_rate: 0.02, momentum: 0.9}}
schedule: {{name: cosine}}
train: {{epochs: 3, batch_size: 12, log_every_steps: 1, ema_decay: 0.9, {train}}}
eval: {{batch_size: 2}}
checkpoint: {{every_steps: 4, keep: 10}}
"""


@pytest.fixture(scope="module")
def make_folder(
    make_recipe_folder: Callable[..., RecipeFolder], make_machine: Callable[..., Machine]
) -> Callable[..., RecipeFolder]:
    """Make folders with a recipe for a number of processes; the example's model can be named."""
    environment = make_machine(plugins="", plugged_in=False).environment

    def make(count: int, model: str, train: str) -> RecipeFolder:
        recipe = RECIPE.format(count=count, model=f"{{name: {model}}}", train=train)
        return make_recipe_folder(recipe, **{**environment, "RUNNER_PLUGINS": "torch,data,blobs"})

    return make


@pytest.fixture(scope="module")
def synchronised(make_folder: Callable[..., RecipeFolder]) -> Mapping[int, RecipeFolder]:
    """A run of one process, and one of two that share the statistics of batch normalisation."""
    folders = {n: make_folder(n, "tiny_cnn", "sync_batch_norm: true") for n in (1, 2)}
    for folder in folders.values():
        folder.finish("train", "two.yaml")
    return folders


def losses(folder: RecipeFolder) -> dict[int, float]:
    """Return the loss of each step; of one that was taken again, the later one."""
    return {event["step"]: event["loss"] for event in folder.events("train.step")}


def compare(first: RecipeFolder, second: RecipeFolder) -> None:
    """Compare what two runs end with, statistics and averages included."""
    one, other = (checkpoint.load(folder.checkpoints()[-1]) for folder in (first, second))
    for name, array in one.weights.items():
        np.testing.assert_allclose(other.weights[name], array, atol=1e-4, err_msg=name)
    for name in (name for name in one.state.tensors if not name.startswith("random/")):
        expected: Any = one.state.tensors[name]
        np.testing.assert_allclose(other.state.tensors[name], expected, atol=1e-4, err_msg=name)
    assert one.info.position.step == other.info.position.step == STEPS


@pytest.mark.slow
def test_two_passes_of_one_process_and_two_processes_have_the_same_loss_curve(
    make_folder: Callable[..., RecipeFolder],
) -> None:
    """To rounding, with batch normalisation; its running statistics alone differ."""
    curves = []
    for count in (1, 2):
        folder = make_folder(count, "resnet18", "micro_batch_size: 6")
        folder.finish("train", "two.yaml")
        curves.append(losses(folder))
    one, two = curves
    assert list(one) == list(two) == list(range(1, STEPS + 1))
    np.testing.assert_allclose(list(two.values()), list(one.values()), rtol=1e-4)


@pytest.mark.slow
def test_synchronised_batch_norm_gives_two_processes_the_loss_curve_of_one(
    synchronised: Mapping[int, RecipeFolder],
) -> None:
    one, two = synchronised[1], synchronised[2]
    assert len(losses(one)) == STEPS
    np.testing.assert_allclose(list(losses(two).values()), list(losses(one).values()), rtol=1e-4)
    compare(one, two)
    for name in ("val.loss", "val.top1", "val.count"):
        values = [folder.result["metrics"][name] for folder in (one, two)]
        assert values[0] == pytest.approx(values[1], abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (2, 3)])
def test_a_run_goes_on_with_another_number_of_processes(
    synchronised: Mapping[int, RecipeFolder],
    make_folder: Callable[..., RecipeFolder],
    before: int,
    after: int,
) -> None:
    undisturbed = synchronised[before]
    folder = make_folder(before, "tiny_cnn", "sync_batch_norm: true")
    unfinished = shutil.ignore_patterns("result.json")
    shutil.copytree(undisturbed.path / "runs", folder.path / "runs", ignore=unfinished)
    saved = next(path for path in folder.checkpoints() if path.name.endswith(f"{CONTINUED:02d}"))
    folder.finish(
        "resume", Path("runs") / saved.relative_to(folder.path / "runs"), "--devices", str(after)
    )
    steps = [event["step"] for event in folder.events("train.step")]
    assert steps == [*range(1, STEPS + 1), *range(CONTINUED + 1, STEPS + 1)]
    expected = losses(undisturbed)
    assert losses(folder) == pytest.approx(expected, rel=1e-4)
    compare(undisturbed, folder)
    result = folder.result
    assert result["world_size"] == after
    assert result["metrics"]["val.count"] == 7  # which neither two nor three can share evenly
    [warning] = (w["message"] for w in folder.events("warning") if "world_size" in w["message"])
    assert f"world_size: {before} -> {after}" in warning

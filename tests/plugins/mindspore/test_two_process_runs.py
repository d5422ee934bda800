"""Runs of two processes on the CPU, from the command line: they do what one does, and survive."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.conftest import TRAPS

pytest.importorskip("mindspore")

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.plugins.conftest import RecipeFolder

RECIPE = """
summary: Two processes
framework: mindspore
device: {name: cpu, count: 2}
dataset: {name: synthetic, train_count: 24, val_count: 7, size: [16, 16], class_count: 3}
transforms:
  train: [{name: random_crop, size: 16, padding: 2}]
  eval: [{name: center_crop, size: 16}]
model: {name: resnet18, stem: small}
optimizer: {name: sgd, learning_rate: 0.001, momentum: 0.9}
schedule: {name: cosine}
train: {epochs: 2, batch_size: 8, micro_batch_size: 4, log_every_steps: 1}
eval: {batch_size: 2}
checkpoint: {every_steps: 2, keep: 2}
"""
ALONE = ("--devices", "1")
"""One process works on as many images at a time as each of two, and so twice as often."""
WORKER = "MS_ROLE=MS_WORKER"


def losses(folder: RecipeFolder) -> list[float]:
    """The loss of each step; of one that was repeated, the last."""
    by_step = {(e["epoch"], e["step_in_epoch"]): e["loss"] for e in folder.events("train.step")}
    return [by_step[step] for step in sorted(by_step)]


def left_behind(folder: RecipeFolder) -> list[str]:
    """Command lines of the processes that still work in a folder."""
    left = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink() == folder.path:
                left.append((process / "cmdline").read_text("utf-8").replace("\0", " "))
        except OSError:
            continue
    return left


@pytest.fixture(scope="module")
def undisturbed(
    make_recipe_folder: Callable[..., RecipeFolder], set_traps: Callable[[Path], Path]
) -> RecipeFolder:
    """The folder in which a run of two processes has come to its end."""
    folder = make_recipe_folder(RECIPE)
    executed = set_traps(folder.path)
    # what msrun and the processes print is elsewhere
    assert json.loads(folder.finish("train", "two.yaml", "--json")) == folder.result
    assert not executed.exists()
    return folder


@pytest.mark.slow
def test_two_processes_leave_what_one_leaves(
    undisturbed: RecipeFolder, make_recipe_folder: Callable[..., RecipeFolder]
) -> None:
    result = undisturbed.result
    assert (result["world_size"], result["steps"]) == (2, 6)
    assert result["metrics"]["val.count"] == 7  # which two cannot share evenly
    assert len(undisturbed.events("epoch.finished")) == 2
    [opened] = undisturbed.events("engine.opened")
    assert opened["micro_batch_size"] == 4
    assert opened["group"] == {"world_size": 2, "backend": "mccl"}
    saved = undisturbed.events("checkpoint.saved")
    assert [event["step"] for event in saved] == [2, 3, 4, 6]
    traps = {f"{name}.py" for name in TRAPS}
    assert {path.name for path in undisturbed.path.iterdir()} == {"runs", "two.yaml", *traps}
    alone = make_recipe_folder(RECIPE)
    alone.finish("train", "two.yaml", *ALONE)
    np.testing.assert_allclose(losses(undisturbed), losses(alone), rtol=1e-5)
    assert alone.result["metrics"]["val.count"] == 7


@pytest.mark.slow
def test_sigterm_leaves_a_checkpoint_from_which_one_process_continues(
    undisturbed: RecipeFolder, make_recipe_folder: Callable[..., RecipeFolder]
) -> None:
    folder = make_recipe_folder(RECIPE)
    process = folder.start("train", "two.yaml")
    folder.wait_for_checkpoint(process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM, err
    assert err.splitlines()[-1].startswith("error: stopped by signal 15 after step ")
    assert "Traceback" not in err
    assert not left_behind(folder)
    folder.finish("resume", folder.run, *ALONE)
    assert folder.result["steps"] == 6
    assert folder.result["metrics"]["val.count"] == 7
    np.testing.assert_allclose(losses(folder), losses(undisturbed), rtol=1e-5)


@pytest.mark.slow
def test_processes_save_and_leave_when_who_started_them_is_killed(
    make_recipe_folder: Callable[..., RecipeFolder],
) -> None:
    """Their launcher would kill them if it were interrupted."""
    folder = make_recipe_folder(RECIPE)
    process = folder.start("train", "two.yaml", "--set", "train.epochs=100")
    folder.wait_for_checkpoint(process)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 60
    while left_behind(folder) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not left_behind(folder)
    [interrupted] = folder.events("run.interrupted")
    assert interrupted["signal"] == signal.SIGINT
    assert folder.checkpoints()[-1].name == Path(interrupted["checkpoint"]).name
    assert folder.events("checkpoint.saved")[-1]["path"] == interrupted["checkpoint"]


@pytest.mark.slow
def test_a_killed_rank_is_replaced_and_the_run_ends_with_the_same_weights(
    undisturbed: RecipeFolder, make_recipe_folder: Callable[..., RecipeFolder]
) -> None:
    folder = make_recipe_folder(RECIPE)
    process = folder.start("train", "two.yaml", "--set", "distributed.restarts=1")
    folder.wait_for_checkpoint(process)
    os.kill(folder.worker(WORKER, "MS_NODE_ID=1"), signal.SIGKILL)
    _, err = process.communicate()
    assert process.returncode == 0, err
    [restarted] = folder.events("run.restarted")
    assert "rank 1" in json.dumps(restarted)
    assert folder.last_files() == undisturbed.last_files()


@pytest.mark.slow
def test_a_rank_that_hangs_is_named_and_nothing_is_left_behind(
    make_recipe_folder: Callable[..., RecipeFolder],
) -> None:
    folder = make_recipe_folder(RECIPE)
    process = folder.start("train", "two.yaml", "--set", "distributed.timeout_s=60")
    folder.wait_for_checkpoint(process)
    os.kill(folder.worker(WORKER, "MS_NODE_ID=1"), signal.SIGSTOP)
    _, err = process.communicate()
    assert process.returncode == 1
    last = err.splitlines()[-1]
    assert last.startswith("error: ")
    assert "rank 1" in last
    assert not left_behind(folder)

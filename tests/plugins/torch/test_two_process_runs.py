"""Runs of two processes on the CPU, from the command line: they finish, stop and continue."""

from __future__ import annotations

import json
import os
import re
import signal
from itertools import islice
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("torch")

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    from tests.plugins.conftest import RecipeFolder

RECIPE = """
summary: Two processes
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
"""
ENVIRONMENT = {"RUNNER_PLUGINS": "torch,data", "PYTHONWARNINGS": "default"}


@pytest.fixture(scope="module")
def undisturbed(
    make_recipe_folder: Callable[..., RecipeFolder], set_traps: Callable[[Path], Path]
) -> RecipeFolder:
    """The folder in which a run of two processes has come to its end."""
    folder = make_recipe_folder(RECIPE, **ENVIRONMENT)
    executed = set_traps(folder.path)
    process = folder.start("train", "two.yaml", "--json")
    out, err = process.communicate()
    assert process.returncode == 0, out + err
    assert not executed.exists()
    # of Python; torch 2.11 logs others, and the oldest typer uses what the newest click deprecates
    assert not re.search(r"(?<!Deprecation)(?<=\w)Warning: ", err)
    assert json.loads(out) == folder.result
    return folder


def test_two_processes_leave_what_one_leaves(undisturbed: RecipeFolder) -> None:
    result = undisturbed.result
    assert result["world_size"] == 2
    assert result["steps"] == 24
    assert result["metrics"]["val.count"] == 7  # which two cannot share evenly
    assert len(undisturbed.events("train.step")) == 6
    assert len(undisturbed.events("epoch.finished")) == 2
    [opened] = undisturbed.events("engine.opened")
    assert opened["micro_batch_size"] == 4
    assert opened["group"] == {"world_size": 2, "backend": "cpu:gloo"}


@pytest.mark.slow
@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGINT])
def test_a_disturbed_run_says_why_and_continues_to_the_same_weights(
    undisturbed: RecipeFolder,
    make_recipe_folder: Callable[..., RecipeFolder],
    by: signal.Signals,
) -> None:
    folder = make_recipe_folder(RECIPE, **ENVIRONMENT)
    process = folder.start("train", "two.yaml")
    folder.wait_for_checkpoint(process)
    os.kill(folder.worker("RANK=1") if by == signal.SIGKILL else process.pid, by)
    _, err = process.communicate()
    if by == signal.SIGKILL:
        assert process.returncode == 1
        assert re.match(r"error: rank 1 on \S+ was killed by SIGKILL", err.splitlines()[-1])
    else:
        assert process.returncode == 128 + signal.SIGINT
        assert err.splitlines()[-1].startswith("error: stopped by signal 2 after step ")
        assert "Traceback" not in err
    assert not (folder.run / "result.json").exists()
    folder.finish("resume", folder.run)
    assert len(folder.events("run.resumed")) == 1
    assert folder.last_files() == undisturbed.last_files()


def torchrun(
    folder: RecipeFolder, *arguments: str | Path, restarts: int = 0
) -> subprocess.Popen[str]:
    """Start two processes of ``runner`` with torchrun alone."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    again = ("--max-restarts", str(restarts))
    return folder.start_program(*launcher, *again, "-m", "--", "runner", *arguments)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_what_torchrun_starts_again_continues_the_run_of_its_job(
    undisturbed: RecipeFolder, make_recipe_folder: Callable[..., RecipeFolder]
) -> None:
    folder = make_recipe_folder(RECIPE, **ENVIRONMENT)
    process = torchrun(folder, "train", "two.yaml", restarts=3)
    folder.wait_for_checkpoint(process)
    os.kill(folder.worker("LOCAL_RANK=1"), signal.SIGKILL)
    out, err = process.communicate()
    assert process.returncode == 0, out + err
    assert len(folder.events("run.resumed")) == 1  # in the one run folder
    assert folder.last_files() == undisturbed.last_files()


@pytest.mark.slow
def test_torchrun_alone_starts_stops_and_continues_a_run(
    undisturbed: RecipeFolder, make_recipe_folder: Callable[..., RecipeFolder]
) -> None:
    """It passes SIGTERM on, and all ranks leave after one checkpoint."""
    folder = make_recipe_folder(RECIPE, **ENVIRONMENT)
    process = torchrun(folder, "train", "two.yaml")
    folder.wait_for_checkpoint(process)
    process.terminate()
    _, err = process.communicate()
    assert process.returncode != 0
    assert "error: stopped by signal 15 after step " in err
    [interrupted] = folder.events("run.interrupted")
    assert interrupted["checkpoint"] == str(folder.checkpoints()[-1].relative_to(folder.path))
    resumed = torchrun(folder, "resume", folder.run)
    out, err = resumed.communicate()
    assert resumed.returncode == 0, out + err
    assert folder.last_files() == undisturbed.last_files()


@pytest.mark.slow
def test_a_process_that_hangs_under_torchrun_alone_is_named_in_time(
    make_recipe_folder: Callable[..., RecipeFolder],
) -> None:
    """Nobody else watches it, so the others' exchanges have a limit."""
    folder = make_recipe_folder(RECIPE, **ENVIRONMENT)
    process = torchrun(folder, "train", "two.yaml", "--set", "distributed.timeout_s=20")
    folder.wait_for_checkpoint(process)
    hanging = folder.worker("RANK=1")
    os.kill(hanging, signal.SIGSTOP)
    assert process.stderr is not None
    [line] = islice((line for line in process.stderr if "in vain" in line), 1)
    os.kill(hanging, signal.SIGCONT)  # or torchrun waits for it in turn
    process.communicate()
    assert line.startswith("rank 0: error: waited 20 s for rank 1 in vain")
    assert process.returncode != 0


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_four_processes_that_were_killed_continue_to_the_same_weights(
    make_recipe_folder: Callable[..., RecipeFolder],
) -> None:
    """Of more than two gradients the sum depends on the order, which must be that of before."""
    settings = ("--devices", "4", "--set", "train.batch_size=16")
    straight, folder = (make_recipe_folder(RECIPE, **ENVIRONMENT) for _ in range(2))
    straight.finish("train", "two.yaml", *settings)
    process = folder.start("train", "two.yaml", *settings)
    folder.wait_for_checkpoint(process)
    os.kill(folder.worker("RANK=3"), signal.SIGKILL)
    process.communicate()
    assert not (folder.run / "result.json").exists()
    folder.finish("resume", folder.run)
    assert folder.last_files() == straight.last_files()

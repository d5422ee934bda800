"""SIGTERM and SIGKILL on a real process, and what resume makes of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
from safetensors.numpy import load_file

from runner import checkpoint
from runner.train import Trainer

RUN = [sys.executable, "-m", "runner"]


def start(project, recipe):
    environment = {**os.environ, "PYTHONPATH": sys.path[0]}
    command = [*RUN, "run", str(recipe)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def wait_for(condition):
    for _ in range(600):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("nothing happened in 30 s")


def checkpoints(project):
    return list(project.path.glob("runs/colours/*/checkpoints/step_*"))


def slow_recipe(project):
    text = project.write_recipe("checkpoint: {every_steps: 7}\n").read_text()
    file = project.path / "colours.yaml"
    slow = "framework: {name: fake, seconds_per_step: 0.05}"
    file.write_text(text.replace("framework: fake", slow))
    return file


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_polite_signal_saves_and_says_how_to_continue(project, number):
    process = start(project, slow_recipe(project))
    wait_for(lambda: checkpoints(project))
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert "continue with: runner resume runs/colours/" in err
    names = [event["event"] for event in project.events()]
    assert names[-2:] == ["run.interrupted", "run.failed"]
    outcome = project.runner("resume", project.run_folder(), "--json")
    assert outcome.code == 0
    assert outcome.json["steps"] == 36


def test_a_killed_run_continues_to_the_weights_of_one_that_was_not(project):
    process = start(project, slow_recipe(project))
    wait_for(lambda: len(checkpoints(project)) > 1)
    process.kill()
    process.communicate(timeout=30)
    folder = project.run_folder()
    assert project.runner("resume", folder).code == 0
    straight = project.runner("run", folder / "recipe.yaml", "--runs-dir", "straight", "--json")
    [other] = (project.path / "straight" / "recipe").iterdir()
    assert straight.json["steps"] == 36
    killed, whole = (
        load_file(checkpoint.latest(path / "checkpoints") / checkpoint.WEIGHTS)
        for path in (folder, other)
    )
    assert all((killed[name] == whole[name]).all() for name in whole)


def test_a_signal_while_the_last_epoch_ends_is_not_lost(project, monkeypatch):
    finish = Trainer._finish_epoch

    def finish_and_be_told_to_stop(trainer, epoch):
        finish(trainer, epoch)
        if epoch == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_finish_epoch", finish_and_be_told_to_stop)
        outcome = project.run()
    assert outcome.code == 128 + signal.SIGTERM, outcome.err
    assert not (project.run_folder() / "result.json").exists()
    again = project.runner("resume", project.run_folder(), "--json")
    assert (again.code, again.json["steps"]) == (0, 36)

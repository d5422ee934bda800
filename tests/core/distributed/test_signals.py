"""Signals that ask to stop, and SIGKILL, on a real process, and what resume makes of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from safetensors.numpy import load_file

from runner.distributed import signals
from runner.distributed.reporting import channel
from runner.distributed.signals import Signals
from runner.storage import checkpoint
from runner.testing import fake_group
from runner.testing.fake_engine import FakeEngine
from runner.training.loop import Trainer

if TYPE_CHECKING:
    from collections.abc import Sequence

PYTHON: dict[str, str] = {}
FRAMEWORK = {"RUNNER_FAKE_SIGNALS": "1"}
"""Whose handlers answer signals; the framework's end the process at once."""

both = pytest.mark.parametrize("handlers", [PYTHON, FRAMEWORK], ids=["python", "framework"])
either_signal = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])


def slow_recipe(project):
    text = project.write_recipe("checkpoint: {every_steps: 7}\n").read_text()
    file = project.path / "colours.yaml"
    slow = "framework: {name: fake, seconds_per_step: 0.05}"
    file.write_text(text.replace("framework: fake", slow))
    return file


@both
@either_signal
def test_a_polite_signal_saves_and_says_how_to_continue(project, number, handlers):
    process = project.start("run", slow_recipe(project), **handlers)
    project.wait_for(project.checkpoints)
    process.send_signal(number)
    _, err = process.communicate(timeout=150)
    assert process.returncode == 128 + number
    assert "continue with: runner resume runs/colours/" in err
    names = [event["event"] for event in project.events()]
    assert names[-2:] == ["run.interrupted", "run.failed"]
    outcome = project.runner("resume", project.run_folder(), "--json")
    assert outcome.code == 0
    assert outcome.json["steps"] == 36


@both
def test_a_request_that_is_repeated_to_a_launched_process_is_one_request(project, handlers):
    place = str(project.path / "socket")
    launched = {fake_group.RANK: "0", fake_group.WORLD_SIZE: "1", fake_group.SOCKET: place}
    process = project.start("run", slow_recipe(project), **handlers, **launched)
    project.wait_for(project.checkpoints)
    process.send_signal(signal.SIGTERM)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
        time.sleep(0.2)
        process.send_signal(number)
    _, err = process.communicate(timeout=150)
    assert process.returncode in (128 + signal.SIGTERM, 128 + signal.SIGINT), err
    assert "continue with: runner resume runs/colours/" in err
    assert [event["event"] for event in project.events()][-2:] == ["run.interrupted", "run.failed"]


@pytest.fixture
def handlers_put_back():
    """Put the handlers back that a launched process has no use for when it leaves."""
    former = {number: signal.getsignal(number) for number in signals.SIGNALS}
    yield
    for number, handler in former.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers_put_back")
def test_a_launched_process_that_leaves_is_not_asked_again():
    with Signals() as held:
        held.release()
        with held.polite(launched=True) as request:
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)
            assert request.signal_number == signal.SIGTERM
        signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGTERM)


@pytest.mark.usefixtures("handlers_put_back")
def test_a_launched_process_that_does_not_leave_is_ended(monkeypatch):
    monkeypatch.setattr(signals, "REPEAT_S", 1e-9)

    def ask_twice():
        with held.polite(launched=True):
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    with Signals() as held:
        held.release()
        with pytest.raises(KeyboardInterrupt):
            ask_twice()


@pytest.mark.parametrize(
    ("number", "handlers"),
    [(signal.SIGHUP, PYTHON), (signal.SIGXCPU, PYTHON), (signal.SIGXCPU, FRAMEWORK)],
)
def test_a_terminal_that_closes_and_a_limit_that_warns_ask_as_well(project, number, handlers):
    process = project.start("run", slow_recipe(project), **handlers)
    project.wait_for(project.checkpoints)
    process.send_signal(number)
    while process.poll() is None and number in signals.WARNINGS:
        process.send_signal(number)
        time.sleep(0.02)
    _, err = process.communicate(timeout=150)
    assert process.returncode == 128 + number
    assert "continue with: runner resume runs/colours/" in err


@pytest.mark.usefixtures("handlers_put_back")
@pytest.mark.parametrize("number", signals.SIGNALS)
def test_every_signal_that_asks_is_taken_once(number):
    former = signal.getsignal(number)
    with Signals() as held:
        held.release()
        with held.polite() as request:
            signal.raise_signal(number)
            assert request.signal_number == number
            # its usual effect comes next, unless it only warns
            assert (signal.getsignal(number) == former) == (number in signals.INSISTING)


@pytest.mark.usefixtures("handlers_put_back")
def test_after_a_warning_the_first_request_is_no_second():
    with Signals() as held:
        held.release()
        with held.polite() as request:
            for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT, signal.SIGUSR1):
                signal.raise_signal(number)
            assert request.signal_number == signal.SIGUSR1
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("number", sorted(set(signals.SIGNALS) - signals.ALWAYS_HEARD))
def test_what_a_process_was_started_to_ignore_stays_ignored(number):
    former = signal.signal(number, signal.SIG_IGN)
    try:
        assert set(signals.SIGNALS) - set(signals.heard()) == {number}
    finally:
        signal.signal(number, former)


@pytest.mark.usefixtures("handlers_put_back")
@pytest.mark.parametrize("command", ["run", "eval"])
def test_a_job_in_the_background_is_interrupted_where_nothing_is_trained(
    project, monkeypatch, command
):
    """A shell has started it to ignore SIGINT and SIGQUIT."""
    recipe = project.write_recipe()
    assert project.runner("run", recipe).code == 0
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGQUIT, signal.SIG_IGN)

    def be_interrupted(*_, **__):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("runner.training.context.check_runnable", be_interrupted)
    monkeypatch.setattr("runner.api.open_device", be_interrupted)
    outcome = project.runner(command, recipe if command == "run" else project.run_folder())
    assert outcome.code == 130
    assert "interrupted" in outcome.err
    assert signal.getsignal(signal.SIGQUIT) == signal.SIG_DFL


@pytest.mark.usefixtures("handlers_put_back")
def test_a_signal_during_an_evaluation_saves_the_epoch(project, monkeypatch):
    step = FakeEngine.eval_step

    def be_warned(engine, batch):
        signal.raise_signal(signal.SIGUSR2)
        return step(engine, batch)

    with monkeypatch.context() as patch:
        patch.setattr(FakeEngine, "eval_step", be_warned)
        outcome = project.run()
    assert outcome.code == 128 + signal.SIGUSR2, outcome.err
    [saved] = project.checkpoints()
    assert saved.name.endswith("12")
    again = project.runner("resume", project.run_folder(), "--json")
    assert (again.code, again.json["steps"]) == (0, 36)


CONTAINER = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")


@pytest.fixture
def container() -> Sequence[str]:
    """Provide what starts a program as the first of its processes."""
    made = shutil.which("unshare") and subprocess.run([*CONTAINER, "true"], check=False)
    if not made or made.returncode:
        pytest.skip("no namespace of processes can be made here")
    return CONTAINER


@pytest.mark.parametrize("when", ["training", "exporting"])
def test_the_first_process_of_a_container_ends_by_a_signal(project, container, when):
    export = "export:\n  - {name: fake_npz, seconds: 600}\n" if when == "exporting" else ""
    slow = "framework.seconds_per_step=0.05" if when == "training" else "train.epochs=1"
    program = [sys.executable, "-m", "runner", "run", project.write_recipe(export), "--set", slow]
    process = subprocess.Popen([*container, *map(str, program)], env=project.environment)
    begun = "checkpoints/*" if when == "training" else "exports/.fake_npz.tmp"
    project.wait_for(lambda: list(project.path.glob(f"runs/*/*/{begun}")))
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    os.kill(int(children), signal.SIGTERM)
    assert process.wait(timeout=150) == 128 + signal.SIGTERM
    assert project.events()[-1]["event"] == "run.failed"


@both
def test_nohup_keeps_its_meaning(project, handlers):
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process = project.start("run", slow_recipe(project), **handlers)
    finally:
        signal.signal(signal.SIGHUP, former)
    project.wait_for(project.checkpoints)
    process.send_signal(signal.SIGHUP)
    _, err = process.communicate(timeout=150)
    assert process.returncode == 0, err


@both
@either_signal
def test_a_second_signal_ends_what_hangs(project, number, handlers):
    process = project.start(
        "train", project.write_recipe(), "--set", "framework.hang_at_step=7", **handlers
    )
    assert any("hangs" in line for line in process.stderr)
    process.send_signal(number)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=1)
    process.send_signal(number)
    _, err = process.communicate(timeout=150)
    ended_by_default = number == signal.SIGTERM and handlers is PYTHON
    assert process.returncode == (-number if ended_by_default else 128 + number)
    if number == signal.SIGINT:
        # what the run holds is put away
        assert project.events()[-1]["event"] == "run.failed", err


@both
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_during_an_export_ends_it_and_says_how_to_continue(project, number, handlers):
    export = "export:\n  - {name: fake_npz, seconds: 600}\n"
    process = project.start("run", project.write_recipe(export), **handlers)
    project.wait_for(lambda: list(project.path.glob("runs/*/*/exports/.fake_npz.tmp")))
    process.send_signal(number)
    while process.poll() is None and number in signals.WARNINGS:
        process.send_signal(number)
        time.sleep(0.02)
    _, err = process.communicate(timeout=150)
    assert process.returncode == 128 + number
    by = "" if number == signal.SIGINT else f" by signal {int(number)}"
    saved = project.checkpoints()[-1].relative_to(project.path)
    ways = f"saved {saved}, and exports are made again; continue with: runner resume runs/colours/"
    assert f"interrupted{by}: {ways}" in err
    assert "Traceback" not in err
    assert project.events()[-1]["event"] == "run.failed"
    assert not list(project.path.glob("runs/*/*/exports/.fake_npz.tmp"))
    assert not (project.run_folder() / "result.json").exists()


def test_signals_are_received_as_before_when_a_run_is_over(project, monkeypatch):
    monkeypatch.setenv("RUNNER_FAKE_SIGNALS", "1")
    try:
        assert project.run().code == 0
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):  # the framework's handlers go
            signal.signal(number, signal.getsignal(number))
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, [])
    assert "signals" not in [thread.name for thread in threading.enumerate()]


def test_a_signal_is_held_back_until_it_is_known_who_receives_it():
    with Signals() as signals:
        signal.raise_signal(signal.SIGINT)  # to this thread; others may not hold it back
        with pytest.raises(KeyboardInterrupt):
            signals.release()


def test_a_killed_run_continues_to_the_weights_of_one_that_was_not(project):
    process = project.start("run", slow_recipe(project))
    project.wait_for(lambda: len(project.checkpoints()) > 1)
    process.kill()
    process.communicate(timeout=150)
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
    saved = [event["step"] for event in project.events() if event["event"] == "checkpoint.saved"]
    assert saved == [12, 24, 36]  # each once
    again = project.runner("resume", project.run_folder(), "--json")
    assert (again.code, again.json["steps"]) == (0, 36)


def test_a_framework_that_ends_its_process_does_not_ask_it_to_stop(tmp_path):
    program = """
import os, signal, threading
from runner.distributed.signals import Signals
with Signals() as signals:
    signals.watch()
    with signals.polite(launched=True):
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait()
"""
    told = tmp_path / "status"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, channel.STATUS: str(told)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("leaves: the framework ends this process, as it does when it ")
    [left] = map(json.loads, told.read_text(encoding="utf-8").splitlines())
    assert (left["what"], left["again"], left["follows"]) == ("left", True, True)

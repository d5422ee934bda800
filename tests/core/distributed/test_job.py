"""A run belongs to its job, where a launcher of somebody else's starts processes again; pods."""

from __future__ import annotations

import os

import pytest
from tests.core.distributed.conftest import OPTIONS

from runner.distributed import job
from runner.entries import Attempt
from runner.testing import fake_group
from runner.testing.fake_engine import FakeEngine

EVERY = ("--set", "checkpoint.every_steps=5", *OPTIONS)


@pytest.fixture
def attempt(project, monkeypatch):
    """Start one process of a job, in this one; the launcher is what has started the tests."""
    recipe = project.write_recipe()

    def start(restarts, *arguments, name="night"):
        monkeypatch.setenv(fake_group.JOB, f"{name}:{restarts}")
        for variable, value in (("RANK", 0), ("LOCAL_RANK", 0), ("WORLD_SIZE", 1)):
            monkeypatch.setenv(f"RUNNER_FAKE_{variable}", str(value))
        monkeypatch.setenv(fake_group.SOCKET, str(project.path / "socket"))
        (project.path / "socket").unlink(missing_ok=True)
        return project.runner("train", recipe, *EVERY, "--json", *arguments)

    return start


@pytest.fixture
def lost(attempt, monkeypatch):
    """Lose the process of the first attempt after its first checkpoint."""
    steps = iter(range(100))
    step = FakeEngine.train_step

    def fail(engine, *arguments):
        if next(steps) == 7:
            raise RuntimeError("lost")
        return step(engine, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(FakeEngine, "train_step", fail)
        with pytest.raises(RuntimeError, match="lost"):
            attempt(0)


def test_a_further_attempt_continues_in_the_folder_of_the_job(project, attempt, lost):
    outcome = attempt(1)
    assert outcome.code == 0, outcome.err
    [resumed] = [e for e in project.events(project.run_folder()) if e["event"] == "run.resumed"]
    assert resumed["step"] == 5


def test_processes_that_are_started_again_uncounted_do_so_too(project, attempt, lost):
    """As when a machine joins: they have the same launcher."""
    assert attempt(0).code == 0
    assert len(list(project.path.glob("runs/colours/*/"))) == 1


@pytest.mark.parametrize(("known_by", "runs"), [("id", 1), ("launcher", 2), ("count", 2)])
def test_a_job_with_an_id_of_its_own_is_continued_by_whichever_launcher(
    project, attempt, lost, monkeypatch, known_by, runs
):
    """As when another machine's agent of torchrun comes to have rank 0."""
    told = Attempt(job="night", known_by=known_by)
    monkeypatch.setattr(fake_group, "attempt", lambda _environ: told)
    monkeypatch.setattr(job, "_launcher", lambda: "another")
    assert attempt(0).code == 0
    assert len(list(project.path.glob("runs/colours/*/"))) == runs


def test_another_job_begins_a_run_of_its_own(project, attempt, lost):
    assert attempt(1, name="other").code == 0
    assert len(list(project.path.glob("runs/colours/*/"))) == 2


def test_an_attempt_after_the_end_has_the_result(project, attempt):
    first, again = attempt(0), attempt(1)
    assert (again.code, again.json) == (0, first.json)
    assert attempt(0).json["folder"] != first.json["folder"]


def test_a_recipe_that_was_changed_in_between_is_refused(project, attempt, lost):
    outcome = attempt(1, "--set", "optimizer.learning_rate=0.5")
    assert outcome.code == 2
    assert "optimizer.learning_rate: 0.05 -> 0.5" in outcome.err


def test_a_launcher_is_known_by_more_than_its_number():
    host, parent, started = job._launcher().split()
    assert int(parent) == os.getppid()
    assert int(started) > 0
    assert host


def test_a_pod_works_on_its_own_machine_and_says_so(project, monkeypatch):
    monkeypatch.setenv(fake_group.POD, "1/2 at job-0:23456")
    outcome = project.runner("train", project.write_recipe(), *OPTIONS)
    assert outcome.code == 0
    [line] = [line for line in outcome.err.splitlines() if line.startswith("warning: ")]
    assert "--nnodes 2 --node-rank 1 --rdzv job-0:23456" in line

"""Machines that give signs of life, and one that does not any more."""

from __future__ import annotations

import os
import signal
from types import SimpleNamespace

import pytest

from runner.distributed.machines import Machines
from runner.distributed.reporting import channel, orphan
from runner.distributed.supervising import heartbeat
from runner.distributed.supervising.heartbeat import Life


@pytest.fixture
def clock(monkeypatch):
    """Provide the time, which stands still unless it is changed."""
    now = [1000.0]
    monkeypatch.setattr(heartbeat, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


@pytest.fixture
def machine(tmp_path):
    """Provide a way to make one of three machines."""

    def make(rank, attempt="first attempt", number=None, seconds=60.0):
        machines = Machines(count=3, rank=rank, host="10.0.0.1", port=29500)
        return Life(tmp_path, attempt, machines, rank if number is None else number, seconds)

    return make


def pass_time(clock, seconds, *lives):
    """Let machines live for a while, and return what each has noticed."""
    for _ in range(0, seconds, 5):
        for life in lives:
            clock[0] += 5.0 / len(lives)
            life.look()
    return [life.lost() for life in lives]


def test_a_machine_that_is_gone_is_missed_by_machine_0(clock, machine):
    first, second, third = machine(0), machine(1), machine(2, number=7)
    assert pass_time(clock, 300, first, second, third) == [None, None, None]
    assert pass_time(clock, 15, first, second) == [None, None]
    assert first.missed() is not None  # where some process is known to be lost
    assert second.missed() is None
    assert pass_time(clock, 40, first, second) == [None, None]
    failure, other = pass_time(clock, 15, first, second)
    assert other is None  # machine 0 tells it
    assert str(failure).startswith("machine 7 (")
    assert " has given no sign of life for 6" in str(failure)
    assert (failure.again, failure.follows) == (True, False)


def test_of_two_the_one_that_has_been_quiet_longer_is_named(clock, machine):
    first, second, third = machine(0), machine(1), machine(2)
    pass_time(clock, 10, first, second, third)
    pass_time(clock, 20, first, second)
    pass_time(clock, 15, first)
    assert str(first.missed()).startswith("machine 2 (")


def test_machine_0_is_missed_by_the_others(clock, machine):
    first, second = machine(0), machine(1)
    assert pass_time(clock, 10, first, second) == [None, None]
    [failure] = pass_time(clock, 80, second)
    assert str(failure).startswith("machine 0 (")


def test_an_attempt_that_was_killed_says_nothing_of_the_next(clock, machine):
    pass_time(clock, 5, machine(1, attempt="an earlier attempt"))
    assert pass_time(clock, 300, machine(0)) == [None]


def test_one_that_stood_still_itself_gives_the_others_time(clock, machine):
    first, second = machine(0), machine(1)
    assert pass_time(clock, 10, first, second) == [None, None]
    for _ in range(20):
        clock[0] += 100.0  # as when a file system does not answer anybody for long
        first.look()
        assert first.lost() is None
    assert pass_time(clock, 100, second, first) == [None, None]


def test_who_leaves_is_not_missed_and_who_is_killed_is(machine, project, tmp_path, monkeypatch):
    with machine(0, seconds=0.6) as first:
        first.begin()
        with machine(1) as second:
            second.begin()
            project.wait_for(lambda: first.sign.exists() and second.sign.exists())
        assert not second.sign.exists()
        machine(2).look()  # and never again
        project.wait_for(first.lost)
        assert str(first.lost()).startswith("machine 2 (")
        monkeypatch.setenv(channel.SIGN, str(machine(2).sign))
        orphan.take_sign_away()  # as its processes do, which save and leave
        project.wait_for(lambda: first.lost() is None)
    assert not list(tmp_path.glob(".alive*"))


def test_one_machine_alone_shows_nothing(tmp_path):
    with Life(tmp_path, "first attempt", Machines(), 0, 60.0) as life:
        life.begin()
        assert life.lost() is None
        assert not list(tmp_path.iterdir())


def test_a_machine_that_stands_still_is_named_and_the_run_ends(project, launched):
    """Its connections stay, so that nobody else is told."""
    slow = ("--set", "framework.seconds_per_step=0.1")
    first, second = launched.on_machines(*slow, "--set", "distributed.machine_timeout_s=6")
    project.wait_for(project.checkpoints)
    stopped = [second.pid, launched.rank(2), launched.rank(3)]
    for process in stopped:
        os.kill(process, signal.SIGSTOP)
    ended = launched.finish(first)
    for process in stopped:
        os.kill(process, signal.SIGKILL)
    second.communicate()
    assert ended.code == 1
    [error] = ended.errors
    assert error.startswith("error: machine 1 (")
    assert " has given no sign of life for " in error
    assert "runner resume runs/colours/" in error

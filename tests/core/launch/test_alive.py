"""Machines that give signs of life, and one that does not any more."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from runner.launch import alive
from runner.launch.alive import Life
from runner.machines import Machines


@pytest.fixture
def clock(monkeypatch):
    """Provide the time, which stands still unless it is changed."""
    now = [1000.0]
    monkeypatch.setattr(alive, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


@pytest.fixture
def machine(tmp_path):
    """Provide a way to make one of three machines."""

    def make(rank, attempt="first attempt", number=None):
        machines = Machines(count=3, rank=rank, host="10.0.0.1", port=29500)
        return Life(tmp_path, attempt, machines, rank if number is None else number)

    return make


def pass_time(clock, seconds, *lives):
    """Let machines live for a while, and return what each has noticed."""
    found = [None] * len(lives)
    for _ in range(int(seconds)):
        clock[0] += 1.0
        found = [life.lost() for life in lives]
    return found


def test_a_machine_that_is_gone_is_missed_by_machine_0(clock, machine):
    first, second, third = machine(0), machine(1), machine(2, number=7)
    assert pass_time(clock, 300, first, second, third) == [None, None, None]
    noticed = pass_time(clock, 50, first, second)
    assert noticed == [None, None]
    failure, other = pass_time(clock, 16, first, second)
    assert other is None  # machine 0 tells it
    assert str(failure).startswith("machine 7 (")
    assert " has given no sign of life for 65 s" in str(failure)
    assert (failure.again, failure.follows) == (True, False)


def test_machine_0_is_missed_by_the_others(clock, machine):
    first, second = machine(0), machine(1)
    assert pass_time(clock, 10, first, second) == [None, None]
    [failure] = pass_time(clock, 80, second)
    assert str(failure).startswith("machine 0 (")


def test_who_leaves_or_has_not_come_is_not_missed(clock, machine):
    with machine(1, attempt="an earlier attempt") as before:
        pass_time(clock, 1, before)
    first = machine(0)
    with machine(1) as second:
        assert pass_time(clock, 10, first, second) == [None, None]
    assert pass_time(clock, 300, first) == [None]


def test_an_attempt_that_was_killed_says_nothing_of_the_next(clock, machine):
    pass_time(clock, 1, machine(1, attempt="an earlier attempt"))
    assert pass_time(clock, 300, machine(0)) == [None]


def test_one_that_stood_still_itself_gives_the_others_time(clock, machine):
    first, second = machine(0), machine(1)
    assert pass_time(clock, 10, first, second) == [None, None]
    clock[0] += 1000.0  # as when a file system does not answer anybody
    assert first.lost() is None
    assert pass_time(clock, 100, second, first) == [None, None]


def test_one_machine_alone_shows_nothing(clock, tmp_path):
    with Life(tmp_path, "first attempt", Machines(), 0) as life:
        assert pass_time(clock, 100, life) == [None]
        assert not list(tmp_path.iterdir())

"""What processes decide together, with two of them as threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from runner.errors import DataError, NonFiniteError, OtherRankError, StorageError
from runner.launch import status
from runner.ranks import AgreedStop, Ranks
from runner.signals import StopRequest
from runner.testing.fake_group import FakeGroup


@pytest.fixture
def on_two_ranks(tmp_path):
    """Provide a way to run something on two ranks; it returns what each returned or raised."""

    def run(action):
        path = str(tmp_path / "socket")

        def work(rank):
            try:
                with Ranks(FakeGroup(rank, 2, path)) as ranks:
                    return action(ranks)
            except BaseException as error:  # noqa: BLE001  it is what the test looks at
                return error

        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(work, range(2)))

    return run


def raises(error):
    raise error


def test_numbers_are_added_and_what_each_rank_does_is_returned(on_two_ranks):
    def act(ranks):
        led = ranks.lead(lambda: "made")
        done = ranks.everyone(lambda: ranks.rank)
        return ranks.sum([ranks.rank + 1, 0.5]), led, done

    assert on_two_ranks(act) == [([3, 1.0], "made", 0), ([3, 1.0], None, 1)]


def test_what_fails_on_rank_0_ends_all_and_is_told_once(on_two_ranks):
    def act(ranks):
        ranks.lead(lambda: raises(StorageError("the disk is full")))

    first, second = on_two_ranks(act)
    assert isinstance(first, StorageError)
    assert first.rank is None
    assert isinstance(second, SystemExit)
    assert second.code == OtherRankError.exit_code


def test_what_fails_on_another_rank_is_told_there_and_rank_0_points_to_it(on_two_ranks):
    def act(ranks):
        ranks.everyone(lambda: raises(DataError("no image")) if ranks.rank else None)

    first, second = on_two_ranks(act)
    assert isinstance(first, OtherRankError)
    assert "rank 1 has failed" in str(first)
    assert isinstance(second, DataError)
    assert second.rank == 1


def test_what_fails_on_all_is_told_once(on_two_ranks):
    def act(ranks):
        ranks.everyone(lambda: raises(DataError("no folder")))

    first, second = on_two_ranks(act)
    assert isinstance(first, DataError)
    assert isinstance(second, SystemExit)


def test_an_error_that_all_raise_together_is_told_once_with_its_status(on_two_ranks):
    def act(ranks):
        raise ranks.together(NonFiniteError("the loss is nan"))

    first, second = on_two_ranks(act)
    assert (type(first), first.rank) == (NonFiniteError, None)
    assert (type(second), second.code) == (SystemExit, NonFiniteError.exit_code)


def test_who_launched_is_told_the_status_and_the_launcher_hears_none(
    on_two_ranks, tmp_path, monkeypatch
):
    file = tmp_path / "status"
    monkeypatch.setenv(status.STATUS, str(file))

    def act(ranks):
        raise ranks.together(NonFiniteError("the loss is nan"))

    first, second = on_two_ranks(act)
    assert (first.exit_code, second.code) == (0, 0)
    told = list(status.read(file))
    assert sorted(note.what for note in told) == ["done", "done", "left", "met", "met"]
    [left] = [note.fields for note in told if note.what == "left"]
    assert left == {
        "rank": 0,
        "code": NonFiniteError.exit_code,
        "reason": "the loss is nan",
        "again": False,
    }


def test_an_error_of_one_rank_alone_names_it_and_the_other_notices(on_two_ranks):
    def act(ranks):
        if ranks.rank == 1:
            ranks.group._peers[0].close()  # as when the process ends
            raise DataError("no image")
        ranks.sum([0.0])

    first, second = on_two_ranks(act)
    assert "gone" in str(first)
    assert (type(second), second.rank) == (DataError, 1)


def test_a_request_to_one_rank_stops_all(on_two_ranks):
    def act(ranks):
        request = StopRequest(signal_number=15 if ranks.rank else None)
        stop = AgreedStop(request, ranks)
        before = stop.signal_number
        stop.agree()
        return before, stop.signal_number

    assert on_two_ranks(act) == [(None, 15), (None, 15)]


def test_alone_nothing_is_asked_of_anybody():
    with Ranks() as ranks:
        stop = AgreedStop(StopRequest(signal_number=2), ranks)
        stop.agree()
        assert stop.signal_number == 2
        assert ranks.lead(lambda: 5) == 5
        assert ranks.sum([1, 2]) == [1, 2]
    with pytest.raises(DataError), Ranks() as ranks:
        raise ranks.together(DataError("none"))

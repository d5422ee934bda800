"""What processes decide together, with a few of them as threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from socket import gethostname

import pytest

from runner.distributed.ranks import AgreedStop, Ranks, telling_alone
from runner.distributed.reporting import channel, reporter
from runner.distributed.signals import StopRequest
from runner.errors import DataError, NonFiniteError, OtherRankError, StorageError
from runner.testing.fake_group import FakeGroup


@pytest.fixture
def on_ranks(tmp_path):
    """Provide a way to run something on some ranks; it returns what each returned or raised."""

    def run(action, count=2):
        path = str(tmp_path / "socket")

        def work(rank):
            try:
                group = FakeGroup(rank, count, path, 60.0)
                with Ranks(group, reporter.of_process()) as ranks, ranks.telling():
                    return action(ranks)
            except BaseException as error:  # noqa: BLE001  it is what the test looks at
                return error

        with ThreadPoolExecutor(count) as pool:
            return list(pool.map(work, range(count)))

    return run


@pytest.fixture
def told(tmp_path, monkeypatch):
    """Provide a way to read what was told to who has launched the processes."""
    file = tmp_path / "status"
    monkeypatch.setenv(channel.STATUS, str(file))
    return lambda what: [note.fields for note in channel.read(file) if note.what == what]


def raises(error):
    raise error


def test_numbers_are_added_and_what_each_rank_does_is_returned(on_ranks):
    def act(ranks):
        led = ranks.lead(lambda: "made")
        done = ranks.everyone(lambda: ranks.rank)
        return ranks.sum([ranks.rank + 1, 0.5]), led, done

    assert on_ranks(act) == [([3, 1.0], "made", 0), ([3, 1.0], None, 1)]


@pytest.mark.parametrize("text", ["", "a", "12345", "/dätä/\udcff/run-7", "long " * 5000])
def test_a_text_reaches_every_rank_byte_by_byte(on_ranks, text):
    def act(ranks):
        return ranks.share_text(text if ranks.rank == 1 else "not this one", 1)

    assert on_ranks(act, 3) == [text] * 3


def test_the_lowest_rank_that_says_yes_is_found(on_ranks):
    def act(ranks):
        return ranks.lowest(ranks.rank > 0), ranks.lowest(answer=False), ranks.lowest(answer=True)

    assert on_ranks(act, 3) == [(1, None, 0)] * 3


def test_where_all_is_well_no_more_than_a_number_is_exchanged(on_ranks):
    def act(ranks):
        exchanged = []
        whole = ranks.group.sum

        def counted(values):
            exchanged.append(len(values))
            return whole(values)

        ranks.group.sum = counted
        ranks.everyone(lambda: None)
        return list(exchanged)  # the group says goodbye with another

    assert on_ranks(act, 3) == [[1]] * 3


def test_what_fails_on_rank_0_ends_all_with_its_status_and_is_said_once(on_ranks):
    def act(ranks):
        ranks.lead(lambda: raises(StorageError("the disk is full")))

    first, second = on_ranks(act)
    assert isinstance(first, StorageError)
    assert first.rank is None
    assert isinstance(second, SystemExit)
    assert second.code == StorageError.exit_code


def test_rank_0_says_what_has_failed_on_another_and_all_leave_with_its_status(on_ranks):
    def act(ranks):
        ranks.everyone(lambda: raises(DataError("no image")) if ranks.rank else None)

    first, second, third = on_ranks(act, 3)
    assert isinstance(first, OtherRankError)
    assert str(first) == f"rank 1 on {gethostname()}: no image"
    assert (first.exit_code, first.rank) == (DataError.exit_code, None)
    assert isinstance(second, DataError)
    assert second.rank == 1
    assert (type(third), third.code) == (SystemExit, DataError.exit_code)


def test_an_error_that_nobody_foresaw_is_named_by_its_class(on_ranks):
    def act(ranks):
        ranks.everyone(lambda: raises(KeyError("labels")) if ranks.rank else None)

    first, second = on_ranks(act)
    assert str(first).endswith(": KeyError: 'labels'")
    assert isinstance(second, KeyError)


def test_what_fails_on_all_is_said_once(on_ranks):
    def act(ranks):
        ranks.everyone(lambda: raises(DataError("no folder")))

    first, second = on_ranks(act)
    assert isinstance(first, DataError)
    assert isinstance(second, SystemExit)


def test_an_error_that_all_raise_together_is_said_once_with_its_status(on_ranks):
    def act(ranks):
        raise ranks.together(NonFiniteError("the loss is nan"))

    first, second = on_ranks(act)
    assert (type(first), first.rank) == (NonFiniteError, None)
    assert (type(second), second.code) == (SystemExit, NonFiniteError.exit_code)


def test_who_launched_is_told_the_status_and_the_launcher_hears_none(on_ranks, told):
    def act(ranks):
        raise ranks.together(NonFiniteError("the loss is nan"))

    first, second = on_ranks(act)
    assert (first.exit_code, second.code) == (0, 0)
    assert len(told("done")) == 2
    assert sorted(met["rank"] for met in told("met")) == [0, 1]
    left = sorted(told("left"), key=lambda fields: fields["rank"])
    assert left == [
        {
            "rank": rank,
            "code": NonFiniteError.exit_code,
            "reason": "the loss is nan",
            "again": False,
            "follows": False,
            "agreed": True,
        }
        for rank in range(2)
    ]


def test_every_machine_is_told_what_has_failed_on_one(on_ranks, told):
    def act(ranks):
        ranks.everyone(lambda: raises(DataError("no image")) if ranks.rank else None)

    on_ranks(act)
    assert len(told("left")) == 2
    assert {left["reason"] for left in told("left")} == {f"rank 1 on {gethostname()}: no image"}


def test_an_error_of_one_rank_alone_names_it_and_the_other_notices(on_ranks, told):
    def act(ranks):
        if ranks.rank == 1:
            try:
                with ranks.telling():
                    raise DataError("no image")
            finally:
                assert [left["reason"] for left in told("left")] == ["no image"]
                ranks.group._peers[0].close()  # as when the process ends
        ranks.sum([0.0])

    first, second = on_ranks(act)
    assert "gone" in str(first)
    assert (type(second), second.rank) == (DataError, 1)
    assert {left["rank"]: left["again"] for left in told("left")} == {0: True, 1: False}


def test_who_launched_is_told_of_what_fails_before_all_have_met(told):
    with pytest.raises(DataError), telling_alone(reporter.of_process()):
        raise DataError("no device")
    [left] = told("left")
    assert (left["rank"], left["code"], left["reason"]) == (None, 5, "no device")
    with pytest.raises(SystemExit), telling_alone(reporter.of_process()):
        raise SystemExit(0)  # as a process does that only helps the others to meet
    assert len(told("left")) == 1


def test_a_request_to_one_rank_stops_all(on_ranks):
    def act(ranks):
        request = StopRequest(signal_number=15 if ranks.rank else None)
        stop = AgreedStop(request, ranks)
        before = stop.signal_number
        stop.agree()
        return before, stop.signal_number

    assert on_ranks(act) == [(None, 15), (None, 15)]


def test_alone_nothing_is_asked_of_anybody():
    with Ranks() as ranks:
        stop = AgreedStop(StopRequest(signal_number=2), ranks)
        stop.agree()
        assert stop.signal_number == 2
        assert ranks.lead(lambda: 5) == 5
        assert ranks.sum([1, 2]) == [1, 2]
        assert ranks.share_text("text", 0) == "text"
    with pytest.raises(DataError), Ranks() as ranks:
        raise ranks.together(DataError("none"))

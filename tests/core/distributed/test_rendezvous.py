"""Machines that meet, all of them on this one, and those that do not."""

from __future__ import annotations

import os
import socket
import threading
import time
from contextlib import closing, suppress
from dataclasses import replace

import pytest

from runner.distributed.machines import Machines
from runner.distributed.meeting import host, network, rendezvous
from runner.distributed.supervising.elastic import Choice
from runner.errors import DeviceError


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number: int = free.getsockname()[1]
        return number


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(host, "RETRY_S", 0.02)
    monkeypatch.setattr(host, "FREED_S", 0.1)
    monkeypatch.setattr(host, "LAST_CALL_S", 1.0)
    monkeypatch.setattr(host, "CONNECT_S", 2.0)


def everybody(told):
    return Choice(ranks=tuple(sorted(told)), devices=1, why="")


def meet_all(machines, seconds=20.0, choose=everybody):
    """Let machines meet, and return by their position what each has found, or its error."""
    found: dict[int, object] = {}

    def meet(position, machine):
        try:
            found[position] = rendezvous.meet(
                machine, seconds, {"from": machine.rank}, lambda _text: None, choose
            )
        except DeviceError as error:
            found[position] = str(error)

    threads = [
        threading.Thread(target=meet, args=(position, machine))
        for position, machine in enumerate(machines)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found[position] for position in range(len(machines))]


def prepare(machines, seconds, report=lambda _text: None):
    return rendezvous.meet(machines, seconds, {}, report, everybody).machines


def machines_of(count, port, ranks=None, **fields):
    return [
        Machines(count=count, rank=rank, host="127.0.0.1", port=port, **fields)
        for rank in (ranks or range(count))
    ]


def test_machines_meet_in_any_order_and_again_at_the_same_place(port):
    for ranks in ((0, 1, 2), (2, 1, 0)):
        found = meet_all(machines_of(3, port, ranks))
        for rank, meeting in zip(ranks, found, strict=True):
            assert meeting.told == ({"from": 0}, {"from": 1}, {"from": 2})
            assert (meeting.machines.count, meeting.machines.rank) == (3, rank)
            assert (meeting.machines.address, meeting.machines.interface) == ("127.0.0.1", "lo")
    socket.create_server(("", port)).close()  # nothing keeps the port from a launcher


def test_one_machine_meets_nobody():
    alone = Machines()
    assert prepare(alone, 1.0) == alone


def test_a_machine_that_does_not_come_is_named_on_all_others(port):
    found = meet_all(machines_of(3, port, (0, 1)), seconds=2.0)
    for error in found:
        assert f"machine 2 of 3 has not come to 127.0.0.1:{port} within 2 s" in error
        assert "--node-rank 2" in error


def test_one_that_has_come_early_learns_from_machine_0_who_is_missing(port, monkeypatch):
    monkeypatch.setattr(host, "CONNECT_S", 1.0)
    early, found = machines_of(3, port)[1], []

    def come():
        try:
            prepare(early, 3.0)
        except DeviceError as error:
            found.append(str(error))

    other = threading.Thread(target=come)
    other.start()
    time.sleep(1.5)
    with pytest.raises(DeviceError, match="machine 2 of 3 has not come to"):
        prepare(machines_of(3, port)[0], 3.0)
    other.join()
    [error] = found
    assert "machine 2 of 3 has not come to" in error


def test_a_run_that_may_goes_on_with_those_that_have_come(port):
    found = meet_all(machines_of(4, port, (0, 1, 3), least=2))
    assert [(item.machines.count, item.machines.rank) for item in found] == [(3, 0), (3, 1), (3, 2)]
    assert not any(item.machines.elastic for item in found)
    assert found[2].told == ({"from": 0}, {"from": 1}, {"from": 3})


def test_a_machine_that_is_not_needed_is_told_so(port):
    chosen = Choice(ranks=(0, 3), devices=8, why="machines 0 and 3 go on")
    found = meet_all(machines_of(4, port, (0, 1, 3), least=2), choose=lambda _told: chosen)
    for place, meeting in enumerate((found[0], found[2])):
        assert (meeting.machines.count, meeting.machines.rank) == (2, place)
        assert meeting.devices == 8
        assert meeting.told == ({"from": 0}, {"from": 3})
    assert found[1] == "machine 1 is not needed: machines 0 and 3 go on"


def test_where_nothing_can_be_chosen_all_learn_why(port):
    def refuse(told):
        raise DeviceError(f"{len(told)} machines cannot share it")

    assert meet_all(machines_of(3, port), choose=refuse) == ["3 machines cannot share it"] * 3


def test_where_nobody_is_there_the_place_is_named(port):
    [error] = meet_all(machines_of(2, port, (1,)), seconds=0.3)
    assert f"machine 1 has not met the others at 127.0.0.1:{port}" in error
    assert "Connection refused" in error
    assert "--node-rank 0" in error
    [error] = meet_all([replace(machines_of(2, port, (1,))[0], host="nowhere.invalid")], 0.3)
    assert "nowhere.invalid" in error


def test_who_waits_says_how_long_and_what_is_in_the_way(port):
    told: list[str] = []
    with pytest.raises(DeviceError):
        prepare(machines_of(2, port)[1], 1.0, told.append)
    place = f"127.0.0.1:{port}"
    assert told == [f"waiting for machine 0 at {place}, up to 1 s: Connection refused"]


def test_a_launchers_store_is_not_taken_for_a_machine(port):
    store = socket.create_server(("127.0.0.1", port))
    with closing(store):
        [error] = meet_all(machines_of(2, port, (1,)), seconds=0.3)
    assert "has not met the others" in error


def test_who_comes_by_does_not_disturb(port):
    first, second = machines_of(2, port)
    stop = threading.Event()

    def disturb():
        while not stop.is_set():
            with socket.socket() as other:
                other.settimeout(1.0)
                if other.connect_ex(("127.0.0.1", port)) == 0:
                    with suppress(OSError):  # they have met
                        other.send(b"GET / HTTP/1.0\r\n\r\n")
            time.sleep(0.01)

    stranger = threading.Thread(target=disturb)
    stranger.start()
    late = threading.Timer(0.5, lambda: found.append(prepare(second, 20.0)))
    found: list[Machines] = []
    late.start()
    try:
        assert prepare(first, 20.0).count == 2
    finally:
        late.join()
        stop.set()
        stranger.join()
    assert found[0].rank == 1


def test_a_machine_that_goes_again_is_waited_for(port):
    first, second = machines_of(2, port)
    told: list[str] = []
    found: list[object] = []

    def leave_and_come_again():
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with socket.socket() as visitor:
                if visitor.connect_ex(("127.0.0.1", port)):
                    continue
                visitor.recv(len(host.GREETING), socket.MSG_WAITALL)
                visitor.send(b'{"rank": 1, "count": 2, "news": {')  # it is killed half-way
                break
        found.append(prepare(second, 20.0))

    other = threading.Thread(target=leave_and_come_again)
    other.start()
    assert prepare(first, 20.0, told.append).count == 2
    other.join()
    assert told == [f"waiting for machine 1 of 2 at 127.0.0.1:{port}, up to 20 s"]


def test_two_machines_with_one_number_are_refused(port):
    ranks = (0, 1, 1)
    found = meet_all(machines_of(3, port, ranks))
    assert all("two machines have number 1" in error for error in found)


def test_another_number_of_machines_is_refused_on_both(port):
    first, _ = machines_of(2, port)
    _, second, _ = machines_of(3, port)
    found = meet_all([first, second])
    assert all("was started for 2 machines, and machine 1 at 127.0.0.1 for 3" in e for e in found)


def test_a_port_in_use_is_refused_with_the_process_that_has_it(port):
    with closing(socket.create_server(("127.0.0.1", port))):
        with pytest.raises(DeviceError, match=rf"port {port} of 127\.0\.0\.1 is taken by process "):
            prepare(machines_of(2, port)[0], 1.0)
        assert f"process {os.getpid()} " in (network.listener(port) or "")
    assert network.listener(port) is None


def test_the_first_machine_is_the_one_that_is_named(port):
    other = Machines(count=2, host="192.0.2.99", port=port)
    with pytest.raises(DeviceError, match=r"192\.0\.2\.99 is not an address of this machine"):
        prepare(other, 1.0)


def test_a_name_that_others_cannot_reach_is_refused(port, monkeypatch):
    monkeypatch.setattr(network, "addresses", lambda _host: [(socket.AF_INET, "127.0.1.1")])
    here = Machines(count=2, host="node-0", port=port)
    with pytest.raises(DeviceError, match=r"node-0 is 127\..* where no other one reaches it"):
        prepare(here, 1.0)


def test_the_address_towards_a_host_and_its_interface_are_found():
    assert network.address_towards("127.0.0.1") == "127.0.0.1"
    assert network.interface_of("127.0.0.1") == "lo"
    assert network.interface_of("192.0.2.99") == ""
    with pytest.raises(DeviceError, match=r"address of nowhere\.invalid is not known here"):
        network.address_towards("nowhere.invalid")

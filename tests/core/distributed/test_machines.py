"""Which machines a command is for."""

from __future__ import annotations

import pytest

from runner.cli.options import overrides
from runner.distributed.machine_options import from_options
from runner.distributed.machines import Machines, as_machine
from runner.errors import UsageError

PLACE = "10.0.0.7:29500"
ON_TWO_NODES = {
    "SLURM_JOB_ID": "12345",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_NODELIST": "node-a",
    "SLURM_NODEID": "1",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
}


def test_without_options_it_is_this_machine_alone():
    machines = from_options("", None, "", {})
    assert machines == Machines()
    assert not machines.several
    assert from_options("1", None, "", {}) == Machines()


def test_the_options_say_which_machine_this_is_and_where_all_meet():
    machines = from_options("4", 1, PLACE, {})
    assert (machines.count, machines.rank, machines.host, machines.port) == (
        4,
        1,
        "10.0.0.7",
        29500,
    )
    assert machines.several
    assert not machines.elastic
    fewer = from_options("2:4", 0, PLACE, {})
    assert (fewer.least, fewer.count, fewer.elastic) == (2, 4, True)


@pytest.mark.parametrize(
    ("place", "host", "port"),
    [
        ("node-0.cluster:1", "node-0.cluster", 1),
        ("[fd00::7]:29500", "fd00::7", 29500),
    ],
)
def test_the_meeting_point_may_be_a_name_or_an_address(place, host, port):
    machines = from_options("2", 0, place, {})
    assert (machines.host, machines.port) == (host, port)
    assert machines.endpoint == place


@pytest.mark.parametrize(
    ("nnodes", "rank", "place", "words"),
    [
        ("", 1, "", "--node-rank without --nnodes: add --nnodes N"),
        ("", None, PLACE, "--rdzv without --nnodes"),
        ("", 0, PLACE, "--node-rank and --rdzv without --nnodes"),
        ("2", None, PLACE, "needs the number of this machine: add --node-rank"),
        ("2", 2, PLACE, "--node-rank 2 is none of 2 machines: they are numbered from 0 to 1"),
        ("2", -1, PLACE, "--node-rank -1 is none of 2 machines"),
        ("1", 1, "", "--node-rank 1 is none of 1 machine"),
        ("2", 0, "", "--nnodes 2 needs the place where the machines meet: add --rdzv HOST:PORT"),
        ("two", 0, PLACE, "--nnodes two: expected a number of machines such as 4, or 2:4"),
        ("4:2", 0, PLACE, "--nnodes 4:2: expected at least 1 machine, and the smaller number"),
        ("0", 0, PLACE, "--nnodes 0: expected at least 1 machine"),
        ("0:2", 0, PLACE, "--nnodes 0:2: expected at least 1 machine"),
        ("2", 0, "node-0", "--rdzv node-0: expected HOST:PORT"),
        ("2", 0, "fd00::7:29500", r"\[fd00::7\]:29500 for an address with colons"),
        ("2", 0, "http://a:1", "--rdzv http://a:1: expected HOST:PORT"),
        ("2", 0, "[fe80::1%eth0]:1", "expected HOST:PORT"),  # of no use to the frameworks
        ("2", 0, "node-0:70000", "expected a port from 1 to 65535"),
        ("2", 0, "node-0:0", "expected a port from 1 to 65535"),
    ],
)
def test_what_does_not_fit_is_refused(nnodes, rank, place, words):
    with pytest.raises(UsageError, match=words):
        from_options(nnodes, rank, place, {})


def test_slurm_says_what_the_options_do_not():
    machines = from_options("", None, "", ON_TWO_NODES)
    assert (machines.count, machines.rank, machines.endpoint) == (2, 1, "node-a:22345")
    given = from_options("1:2", 0, PLACE, ON_TWO_NODES)
    assert (given.least, given.rank, given.endpoint) == (1, 0, PLACE)
    assert not from_options("1", None, "", ON_TWO_NODES).several


def test_a_shell_that_slurm_has_given_is_this_machine_alone():
    alone = {**ON_TWO_NODES, "SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_NUM_TASKS": "1"}
    assert from_options("", None, "", alone) == Machines()
    batch = {name: ON_TWO_NODES[name] for name in ("SLURM_JOB_ID", "SLURM_NODEID")}
    assert from_options("", None, "", batch) == Machines()


def test_every_machine_has_the_same_number_of_devices():
    machines = Machines(count=4, port=1)
    assert machines.share(32) == 8
    with pytest.raises(UsageError, match=r"30 devices on 4 machines .* use 28 or 32"):
        machines.share(30)
    with pytest.raises(UsageError, match=r"3 devices on 4 machines .* use 4"):
        machines.share(3)


@pytest.mark.parametrize("given", [[], ["--node-rank", "0"], ["--node-rank=0"]])
def test_another_machine_has_the_same_command_with_its_own_number(given):
    assert as_machine(["run", *given, "a.yaml"], 3) == ["run", "a.yaml", "--node-rank", "3"]


@pytest.mark.parametrize(
    ("text", "nodes", "changes"),
    [
        ("", 1, []),
        ("0", 1, []),
        ("8", 2, ["device.count=8", "device.cards=[]"]),
        ("0,2,5", 1, ["device.count=3", "device.cards=[0, 2, 5]"]),
        ("0,2,5", 4, ["device.count=12", "device.cards=[0, 2, 5]"]),
        ("5,", 1, ["device.count=1", "device.cards=[5]"]),
    ],
)
def test_devices_are_a_number_or_cards(text, nodes, changes):
    assert overrides(None, devices=text, nodes=nodes) == changes


def test_a_smoke_test_is_on_one_device():
    assert overrides(None, devices="1", smoke=True) == ["device.count=1", "device.cards=[]"]
    assert overrides(None, devices="5,", smoke=True) == ["device.count=1", "device.cards=[5]"]
    with pytest.raises(UsageError, match=r"--smoke runs on one device: leave out --devices 2$"):
        overrides(None, devices="2", smoke=True)
    with pytest.raises(UsageError, match=r"leave out --devices 3,4, or .* --devices 3,$"):
        overrides(None, devices="3,4", smoke=True)


@pytest.mark.parametrize("text", ["two", "-1", "1-3", "0,,1", ","])
def test_devices_that_are_neither_are_refused(text):
    with pytest.raises(UsageError, match=f"--devices {text}: expected"):
        overrides(None, devices=text)

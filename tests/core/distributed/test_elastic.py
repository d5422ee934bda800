"""Which devices go on where some are lost."""

from __future__ import annotations

import pytest

from runner.distributed.launching.request import Launch
from runner.distributed.launching.task import Task
from runner.distributed.machines import Machines
from runner.distributed.supervising import elastic
from runner.errors import DeviceError
from runner.planning.loading import load


@pytest.fixture
def choose(project):
    """Provide the choice for 4 machines with 8 devices each, of which some have come."""

    def choice(left, *changes, least=2, batch=4096, images=None):
        changes = ("device.count=32", f"train.batch_size={batch}", *changes)
        plan = load(str(project.write_recipe()), changes).plan
        told = {rank: {"devices": devices, "images": images} for rank, devices in left.items()}
        return elastic.choose(plan, Machines(count=4, least=least, port=1), told)

    return choice


def test_where_nothing_is_lost_all_go_on(choose):
    every = choose(dict.fromkeys(range(4), 8))
    assert (every.ranks, every.devices) == ((0, 1, 2, 3), 8)


def test_machines_that_were_started_for_something_else_are_named(project):
    changes = ("device.count=4", "train.batch_size=8")
    plan = load(str(project.write_recipe()), changes).plan
    own = Machines(count=2, least=1, port=1)
    task = Task.of(plan, ["run"], project.path, export=False)
    launch = Launch(plan=plan, task=task, folder=project.path, machines=own)
    told = {"asks": launch.asks, "devices": 2}
    assert launch.choose({0: told, 1: told}).ranks == (0, 1)
    other = {**told, "asks": {**launch.asks, "--devices": "2"}}
    with pytest.raises(DeviceError, match=r"--devices 4, and machine 1 with --devices 2"):
        launch.choose({0: told, 1: other})
    other = {**told, "asks": {**launch.asks, "--nnodes": "2"}}
    with pytest.raises(DeviceError, match=r"--nnodes 1:2, and machine 1 with --nnodes 2; give all"):
        launch.choose({0: told, 1: other})


def test_a_batch_that_is_a_power_of_two_leaves_a_machine_out(choose):
    three = choose({0: 8, 2: 8, 3: 8})
    assert (three.ranks, three.devices) == ((0, 2), 8)
    assert three.why == (
        "24 devices are left on 3 machines, of which 16 can share a batch of 4,096 images evenly; "
        "machines 0 and 2 go on with these"
    )


def test_as_many_devices_on_more_machines_are_chosen(choose):
    less = choose({0: 8, 1: 7, 2: 8, 3: 8}, "distributed.min_devices=8")
    assert (less.ranks, less.devices) == ((0, 1, 2, 3), 4)


def test_machines_with_more_devices_are_chosen_beside_the_first_one(choose):
    less = choose({0: 8, 1: 3, 2: 8}, "distributed.min_devices=8")
    assert (less.ranks, less.devices) == ((0, 2), 8)
    none = choose({0: 2, 1: 0, 2: 8}, "distributed.min_devices=1")
    assert (none.ranks, none.devices) == ((0, 2), 2)


def test_all_machines_are_needed_where_no_smaller_number_is_given(choose):
    less = choose({0: 8, 1: 8, 2: 8, 3: 1}, "distributed.min_devices=1", least=None)
    assert (less.ranks, less.devices) == ((0, 1, 2, 3), 1)


def test_a_last_batch_must_be_shared_as_well(choose):
    left = {0: 8, 1: 8, 2: 8}
    keep = ("train.last_batch=keep", "distributed.min_devices=8")
    assert choose(left, *keep, images=4096 + 16).devices * 2 == 16
    rest_of_8 = choose(left, *keep, images=4096 + 8)
    assert (rest_of_8.ranks, rest_of_8.devices) == ((0, 1), 4)


@pytest.mark.parametrize(
    ("left", "least", "changes", "words"),
    [
        (
            {0: 8, 1: 8},
            2,
            ["train.batch_size=96", "distributed.min_devices=20"],
            r"16 of 32 devices are left, .* go on with 20 \(distributed\.min_devices\)",
        ),
        (
            {0: 8, 1: 8},
            3,
            [],
            r"16 of 32 devices are left, .* go on with 24 \(--nnodes 3:4\)",
        ),
        (
            {0: 8, 1: 8, 2: 8},
            3,
            [],
            r"24 of 32 devices are left, and no number of them from 24 \(--nnodes 3:4\) on, the "
            r"same on each machine, can share a batch of 4,096 images evenly",
        ),
        (
            {0: 8, 1: 8, 2: 8, 3: 4},
            None,
            [],
            r"28 of 32 devices are left, .* go on with 32 \(device\.count\)",
        ),
    ],
)
def test_what_is_not_enough_is_refused_in_the_words_of_the_user(
    choose, left, least, changes, words
):
    with pytest.raises(DeviceError, match=words):
        choose(left, *changes, least=least)

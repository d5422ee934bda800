"""What keeps two machines from beginning a run is said on both, and nothing is left running."""

from __future__ import annotations

import itertools
import re
import sys
from pathlib import Path

import pytest
from PIL import Image

from runner.storage import checkpoint

FAKE_DISTRIBUTION = Path(__file__).parents[1] / "data" / "third_party" / "fake_framework"
ENVIRONMENT = {"RUNNER_PLUGINS": "fake,data", "PYTHONPATH": str(FAKE_DISTRIBUTION)}
RECIPE = """
summary: Two machines with the fake framework
framework: fake
device: {name: fake_cpu, count: 2}
dataset: {name: fake_colours, images: 99}
transforms:
  train: [{name: random_crop, size: 8, padding: 1}]
  eval: [{name: resize, exact: [8, 8]}]
model: {name: linear}
optimizer: {name: fake_sgd, learning_rate: 0.05}
schedule: {name: cosine}
train: {epochs: 1, batch_size: 8, log_every_steps: 4}
eval: {batch_size: 5}
distributed: {rendezvous_s: 60}
"""
SOON = ("--set", "distributed.rendezvous_s=2")
LISTEN = """
import socket
server = socket.create_server(("", {port}))
print("listens", flush=True)
server.accept()
server.accept()
"""


def apart(folder, first, second):
    """Run a command on each machine, with arguments of its own; they meet at the same place."""
    meeting = f"{folder.machines[0].address}:{next(folder.ports)}"
    commands = (first, second)
    started = [
        folder.start_one(rank, meeting, "train", "two.yaml", *arguments)
        for rank, arguments in enumerate(commands)
    ]
    return folder.finish(started)


@pytest.mark.parametrize(
    ("rank", "reason"),
    [
        (0, r"machine 1 of 2 has not come to 10\.77\.0\.1:\d+ within 2 s; start the same command"),
        (1, r"machine 1 has not met .* at 10\.77\.0\.1:\d+ within 2 s: Connection refused; "),
    ],
)
def test_a_machine_that_is_alone_says_who_is_missing(folder, rank, reason):
    [outcome] = folder.finish(folder.start("train", "two.yaml", *SOON, ranks=[rank]))
    assert outcome.code == 4
    assert re.match(reason, outcome.error)
    folder.assert_nothing_is_left()
    assert not (folder.path / "runs").exists()


@pytest.mark.parametrize(
    ("meeting", "first", "second"),
    [
        # nobody has this address; machine 0 has another one; there is no way to it
        ("10.77.0.77:29400", "not an address of this machine, which has 10.77.0.1", "No route to"),
        ("10.77.0.2:29400", "not an address of this machine", "is an address of this machine its"),
        ("10.99.0.1:29400", "not an address of this machine", "Network is unreachable"),
    ],
)
def test_a_meeting_point_that_is_not_machine_0_is_refused(folder, meeting, first, second):
    soon = ("--set", "distributed.rendezvous_s=5")
    started = [folder.start_one(rank, meeting, "train", "two.yaml", *soon) for rank in range(2)]
    outcomes = folder.finish(started)
    assert [outcome.code for outcome in outcomes] == [4, 4]
    assert first in outcomes[0].error
    assert f"machine 1 has not met the others at {meeting}" in outcomes[1].error
    assert second in outcomes[1].error
    folder.assert_nothing_is_left()


def test_a_port_in_use_is_named_with_who_uses_it(folder, machines):
    port = next(folder.ports)
    other = machines[0].start(sys.executable, "-c", LISTEN.format(port=port), cwd=folder.path)
    assert other.stdout.readline() == "listens\n"
    meeting = f"{machines[0].address}:{port}"
    [outcome] = folder.finish([folder.start_one(0, meeting, "train", "two.yaml")])
    assert outcome.code == 4
    assert f"port {port} of 10.77.0.1 is taken by process {other.pid} " in outcome.error
    assert "choose another port with --rdzv" in outcome.error


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ("optimizer.learning_rate=0.1", "optimizer.learning_rate: 0.05 on rank 0, 0.1 on rank 1"),
        ("dataset.images=98", "dataset.images: 99 on rank 0, 98 on rank 1"),
    ],
)
def test_another_recipe_on_one_machine_is_refused_on_both(folder, change, difference):
    outcomes = apart(folder, (), ("--set", change))
    assert [outcome.code for outcome in outcomes] == [2, 2]
    for outcome in outcomes:
        assert difference in outcome.error
        assert "rank 1 on machine-1" in outcome.error
    folder.assert_nothing_is_left()


def test_other_data_under_the_same_recipe_are_refused_on_both(folder):
    for rank in range(2):
        for split, name, number in itertools.product(("train", "val"), ("blue", "red"), range(8)):
            place = folder.path / f"images{rank}" / split / name
            place.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), name).save(place / f"{number}.png")
    moved = folder.path / "images1" / "val" / "blue" / "7.png"
    moved.rename(moved.parents[1] / "red" / "8.png")
    data = "dataset={{name: class_folders, root: images{}}}"
    outcomes = apart(folder, *[("--set", data.format(rank)) for rank in range(2)])
    assert [outcome.code for outcome in outcomes] == [5, 5]
    for outcome in outcomes:
        assert "rank 1 on machine-1 differs from rank 0 on machine-0" in outcome.error
        assert "val.digest of labels" in outcome.error
        assert "train." not in outcome.error


def test_another_number_of_machines_on_one_is_refused_on_both(folder):
    meeting = f"{folder.machines[0].address}:{next(folder.ports)}"
    other = folder.machines[1].runner(
        *("train", "two.yaml", "--devices", "4", "--nnodes", "4", "--node-rank", "1"),
        *("--rdzv", meeting),
        cwd=folder.path,
        **ENVIRONMENT,
    )
    outcomes = folder.finish([folder.start_one(0, meeting, "train", "two.yaml"), other])
    assert [outcome.code for outcome in outcomes] == [4, 4]
    for outcome in outcomes:
        assert "machine 0 was started for 2 machines, and machine 1 at 10.77.0.2 for 4" in (
            outcome.error
        )


def test_a_run_folder_that_one_machine_does_not_see_is_refused_on_both(folder, machines):
    (runs := folder.path / "runs").mkdir()
    machines[1].do("mount", "-t", "tmpfs", "none", runs)
    try:
        outcomes = folder.both("train", "two.yaml")
    finally:
        machines[1].do("umount", runs)
    assert [outcome.code for outcome in outcomes] == [9, 9]
    for outcome in outcomes:
        assert "rank 1 on machine-1: " in outcome.error
        assert "expected a file system that all machines share" in outcome.error
    assert not [path for path in runs.glob("two/*/checkpoints/*") if checkpoint.INFO in str(path)]
    folder.assert_nothing_is_left()


def test_two_machines_begin_where_nothing_of_this_is_wrong(folder):
    first, second = folder.both("train", "two.yaml", "--json")
    assert (first.code, second.code) == (0, 0), first.err + second.err
    assert second.out == ""
    folder.assert_nothing_is_left()

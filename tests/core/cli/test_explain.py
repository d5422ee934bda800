"""What explain and doctor say of several devices and machines."""

from __future__ import annotations

import os
import resource

import pytest

from runner.cli import doctor
from runner.distributed.meeting import network

TWO = ("--nnodes", "2", "--rdzv", "10.0.0.7:29500")


def section(text: str, title: str) -> list[str]:
    _, _, rest = text.partition(f"{title}\n")
    return [line.strip() for line in rest.partition("\n\n")[0].splitlines()]


def test_explain_shows_what_each_machine_starts(project):
    recipe = project.write_recipe()
    done = project.runner("explain", recipe, "--devices", "4", *TWO)
    lines = section(done.out, "starts with")
    given = f"runner run {recipe} --devices 4 --nnodes 2 --rdzv 10.0.0.7:29500 --node-rank"
    assert lines[0] == f"{given} 0  # on machine 0, starts"
    assert lines[2] == f"{given} 1  # on machine 1, starts"
    assert "RUNNER_FAKE_FIRST_RANK=0 " in lines[1]
    assert "RUNNER_FAKE_FIRST_RANK=2 " in lines[3]
    assert lines[3].endswith("--node-rank 1")
    data = project.runner("explain", recipe, "--devices", "4", *TWO, "--json").json
    assert data["refused"] is None
    assert "--json" not in data["command"]
    assert len(data["command"].splitlines()) == 4


def test_explain_says_that_weights_are_not_there(project):
    given = ("explain", project.write_recipe(), "--json", "--set")
    outcome = project.runner(*given, "model.weights=nowhere.pth")
    [refused] = outcome.json["refusals"]
    assert refused.startswith("no weights: nowhere.pth does not exist; expected a run")
    assert outcome.code == 0
    [refused] = project.runner(*given, f"model.weights={project.path}").json["refusals"]
    assert refused.startswith(f"{project.path} is not a checkpoint")
    [refused] = project.runner(*given, f"model.weights={'n' * 256}").json["refusals"]
    assert "File name too long" in refused


def test_explain_says_what_will_be_refused(project):
    recipe = project.write_recipe()
    for devices, words in (("4", "4 devices on 3 machines"), ("1", "1 device on 3 machines")):
        done = project.runner("explain", recipe, "--devices", devices, "--nnodes", "3", *TWO[2:])
        assert done.code == 0
        assert words in "".join(section(done.out, "starts with"))


def test_explain_counts_the_threads_that_read_images(project):
    recipe = project.write_recipe("loader: {workers: 3}\n")
    cores = len(os.sched_getaffinity(0))
    here = f"this machine has {cores} core{'s' if cores > 1 else ''}"
    done = project.runner("explain", recipe)
    assert f"reads images with 3 threads; {here}" in section(done.out, "data and steps")
    done = project.runner("explain", recipe, "--devices", "4", *TWO)
    each = "3 threads in each of 2 processes, 6 on each machine"
    assert f"reads images with {each}; {here}" in section(done.out, "data and steps")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), None),
        (
            ("--set", "distributed.restarts=2", "--set", "distributed.min_devices=1"),
            "distributed.restarts and distributed.min_devices have no effect on one device",
        ),
        (
            ("--set", "distributed.bind_cores=true"),
            "distributed.bind_cores has no effect on one device",
        ),
        (("--smoke", "--set", "distributed.restarts=2"), None),
        (("--devices", "2", "--set", "distributed.restarts=2"), None),
        (
            ("--devices", "2", "--set", "distributed.min_devices=1"),
            "distributed.min_devices has no effect without distributed.restarts, or machines that "
            "may be missing (--nnodes LEAST:N)",
        ),
        (
            ("--devices", "2", "--set", "distributed.min_devices=1", *TWO, "--nnodes", "1:2"),
            None,
        ),
    ],
)
def test_explain_says_what_has_no_effect_on_these_devices(project, arguments, words):
    recipe = project.write_recipe()
    assert project.runner("explain", recipe, *arguments, "--json").json["without_effect"] == words
    lines = section(project.runner("explain", recipe, *arguments).out, "starts with")
    assert (lines[-1] == words) is (words is not None)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--smoke", "--node-rank", "0", *TWO), "--smoke runs on one device"),
        (("--smoke", "--devices", "2"), "--smoke runs on one device: leave out --devices 2"),
        (
            ("--devices", "2", "--set", "distributed.min_devices=3"),
            "distributed.min_devices: expected at most device.count, which is 2, got 3; lower it",
        ),
        (("--node-rank", "0", *TWO), "1 device on 2 machines are not the same number on each"),
        (("--node-rank", "0"), "--node-rank without --nnodes"),
        (("--devices", "some"), "--devices some: expected a number of devices such as 8"),
    ],
)
def test_a_run_that_cannot_be_is_refused(project, arguments, words):
    done = project.runner("run", project.write_recipe(), *arguments)
    assert done.code == 2
    assert words in done.err
    assert not (project.path / "runs").exists()


def test_doctor_looks_at_the_network_and_at_limits(project, monkeypatch):
    monkeypatch.setattr(
        network,
        "interfaces",
        lambda: iter([("lo", "127.0.0.1"), ("eth1", "10.0.0.8"), ("eth1", "fe80::1")]),
    )
    found = {item["topic"]: item for item in project.runner("doctor", "--json").json}
    assert found["network"]["ok"]
    assert found["network"]["text"].endswith(": 10.0.0.8 (eth1)")
    limits = {resource.RLIMIT_NOFILE: 64, resource.RLIMIT_MEMLOCK: 8 * 2**20}
    monkeypatch.setattr(resource, "getrlimit", lambda what: (limits[what], limits[what]))
    few = doctor._limits()
    assert not few.ok
    assert "64 open files" in few.text
    assert "8 MiB of locked memory" in few.text
    assert "ulimit -n 1024" in few.text
    limits[resource.RLIMIT_NOFILE] = 1024
    assert doctor._limits().ok

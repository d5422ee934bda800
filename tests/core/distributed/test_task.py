"""The request that launched processes read."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from runner.distributed.launching.request import Launch
from runner.distributed.launching.task import Task
from runner.distributed.machines import Machines
from runner.errors import UsageError
from runner.planning.loading import load, read_back


def test_a_request_reads_as_it_was_written(plan, tmp_path):
    task = Task.of(plan, ["run", "r.yaml", "--set", "a=\udcff"], tmp_path, export=True)
    task = replace(task, resumes="runs/r/1", overrides=["train.epochs=3"])
    task.write(tmp_path / "logs" / "request.json")
    read = Task.read(tmp_path / "logs" / "request.json")
    assert read == replace(task, remarks=[])
    assert read_back(read.name, read.recipe, read.remarks).plan.recipe == plan.recipe


def test_variables_are_filled_in_once(project, monkeypatch):
    monkeypatch.setenv("NAME", "${OTHER}")
    plan = load(project.write_recipe(), ["summary=${NAME}"]).plan
    task = Task.of(plan, [], project.path, export=False)
    assert read_back(task.name, task.recipe, ()).plan.recipe.summary == "${OTHER}"


def test_processes_of_fewer_devices_are_asked_for_their_share(plan, tmp_path):
    task = Task.of(plan.with_devices(4), ["run"], tmp_path, export=False)
    launch = Launch(plan=plan.with_devices(4), task=task, folder=tmp_path, machines=Machines())
    [command] = launch.commands(plan.with_devices(2), tmp_path / "logs", Machines(), {"A": "b"})
    assert command.arguments[-3:] == ["runner", "launched", str(tmp_path / "logs/request.json")]
    assert command.environment["A"] == "b"
    read = Task.read(tmp_path / "logs/request.json")
    assert read_back(read.name, read.recipe, ()).plan.recipe.device.count == 2


@pytest.mark.parametrize("text", ["{}", "[", json.dumps({"name": "x", "other": 1})])
def test_a_file_that_is_no_request_is_named(project, text):
    (project.path / "request.json").write_text(text)
    with pytest.raises(UsageError, match=r"request\.json holds no request: .*start the run again"):
        Task.read(project.path / "request.json")
    outcome = project.runner("launched", "request.json")
    assert (outcome.code, outcome.out) == (2, "")
    assert "request.json holds no request" in outcome.err

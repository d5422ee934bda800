"""What is started for several devices, and what is refused before."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

from runner.contracts import Availability
from runner.distributed.launching import start as launch
from runner.distributed.launching.request import Launch
from runner.distributed.launching.task import Task
from runner.distributed.machines import Machines
from runner.distributed.place import needs_launch
from runner.distributed.signals import heard
from runner.entries import Command
from runner.errors import DeviceError, StorageError, UsageError
from runner.storage.events import EventLog
from runner.testing import fake_group

TWO = Machines(count=2, rank=1, host="127.0.0.1", port=29500)


def test_runs_that_start_in_one_second_have_logs_of_their_own(plan, tmp_path, monkeypatch):
    class Clock:
        now = staticmethod(lambda: datetime(2026, 1, 31, 12))

    monkeypatch.setattr(launch, "datetime", Clock)
    task = Task.of(plan, ["run"], tmp_path, export=False)
    prepared = Launch(plan=plan, task=task, folder=tmp_path / "runs", machines=Machines())
    names = [launch._claim_logs(prepared) for _ in range(3)]
    assert names == ["20260131-120000", "20260131-120000-1", "20260131-120000-2"]
    assert all(prepared.logs(name, 0).is_dir() for name in names)
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"cannot create .*file.* --runs-dir"):
        launch._claim_logs(replace(prepared, folder=tmp_path / "file"))


def with_framework(plan, **changes):
    entry = replace(plan.framework_entry, **changes)
    return replace(plan, framework=replace(plan.framework, entry=entry))


def carry_out(plan, *, machines=None, events=None):
    return launch.carry_out(
        plan,
        Task.of(plan, ["run", "r.yaml"], Path("runs"), export=False),
        Path("runs"),
        events or EventLog(),
        hears=heard(),
        machines=machines,
    )


@pytest.fixture
def here(plan, monkeypatch):
    """Find the plan's device without another process."""
    monkeypatch.setattr(launch, "probe", lambda *_: plan.device_entry.probe())
    return plan


@pytest.mark.parametrize(("launched", "devices"), [("3", "2"), ("2", "1")])
def test_another_number_of_processes_than_devices_is_refused(
    project, monkeypatch, launched, devices
):
    monkeypatch.setenv(fake_group.WORLD_SIZE, launched)
    outcome = project.run("--devices", devices)
    assert outcome.code == 4
    assert f"started {launched} processes, and the recipe asks for {devices} dev" in outcome.err


def test_a_framework_that_works_on_one_device_gives_the_way_out(plan):
    with pytest.raises(DeviceError, match=r"asks for 2 fake_cpu devices; .* add --devices 1"):
        needs_launch(with_framework(plan, join=None), None)
    with pytest.raises(DeviceError, match=r"no launcher .* start them yourself"):
        launch.commands(with_framework(plan, launch=None), ["run"], Path("logs"))


def test_each_machine_starts_its_share_of_the_processes(plan):
    four = plan.with_devices(4)
    assert needs_launch(four, None, TWO)
    [command] = launch.commands(four, ["run", "r.yaml"], Path("logs"), TWO)
    assert command.arguments[-4:] == ["2", "runner", "run", "r.yaml"]
    assert command.environment[fake_group.FIRST_RANK] == "2"
    with pytest.raises(UsageError, match="counts those of all machines together: use 2"):
        carry_out(plan.with_devices(1), machines=TWO)


def test_commands_that_the_user_starts_are_shown_on_a_machine_without_the_devices(
    plan, monkeypatch
):
    monkeypatch.setattr(launch, "probe", lambda *_: Availability(available=True, count=1))
    told = []
    commands = [
        Command(arguments=["runner", "run", "r.yaml"], environment={"RANK": str(rank)})
        for rank in range(2)
    ]
    shown = with_framework(plan, launch=lambda request: commands)
    with pytest.raises(DeviceError, match="the 2 commands above start the processes"):
        carry_out(shown, events=EventLog(lambda event, fields: told.append(fields)))
    assert told == [{"commands": ["RANK=0 runner run r.yaml", "RANK=1 runner run r.yaml"]}]
    assert not Path("runs").exists()


def test_a_launcher_that_is_not_there_is_named(here):
    command = Command(arguments=["no-such-launcher", "run"])
    missing = with_framework(here, launch=lambda request: [command])
    with pytest.raises(DeviceError, match="no-such-launcher cannot be started: No such file"):
        carry_out(missing)


def test_more_devices_than_there_are_is_refused_once(plan, monkeypatch):
    found = Availability(available=True, count=1)
    monkeypatch.setattr(launch, "probe", lambda *_: found)
    with pytest.raises(DeviceError, match=r"asks for 2 fake_cpu devices, and 1 are .*devices 1"):
        carry_out(plan)
    on_each = r"asks for 4 fake_cpu devices, 2 on each machine, and 1 are visible.*--devices 2,"
    with pytest.raises(DeviceError, match=on_each):
        carry_out(plan.with_devices(4), machines=TWO)


def test_a_last_batch_that_devices_cannot_share_is_refused(plan):
    plan.check_shares(96)
    plan.check_shares(98)
    with pytest.raises(UsageError, match="the last batch of an epoch has 3 images, which 2 dev"):
        plan.check_shares(99)
    assert plan.recipe.train is not None
    filled = replace(plan.recipe, train=replace(plan.recipe.train, last_batch="fill"))
    replace(plan, recipe=filled).check_shares(99)

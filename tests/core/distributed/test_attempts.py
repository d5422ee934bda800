"""Several processes, started one by one as on several machines, and one attempt after another."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from socket import gethostname

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from runner.distributed.ranks import Ranks
from runner.distributed.reporting import channel, progress
from runner.distributed.reporting.reporter import Reporter
from runner.errors import StorageError, UsageError
from runner.storage import checkpoint
from runner.storage.rundir import RunDir
from runner.testing import fake_group
from runner.testing.fake_group import FakeGroup
from runner.training import consistency, resume

THIRD_PARTY = Path(__file__).parents[2] / "data" / "third_party"
EXTRA = "checkpoint: {every_steps: 5, keep: 9}\n"
SLOW = ("--set", "framework.seconds_per_step=0.03")


class Started:
    """Ranks that run."""

    def __init__(self, processes, file, record):
        self.processes = processes
        self.file = file
        self.record = record

    def finish(self):
        """Return the exit status of each, and what each has printed."""
        outputs = [process.communicate(timeout=200)[0] for process in self.processes]
        return [process.returncode for process in self.processes], outputs

    def steps(self):
        """Return the images and the learning rates of each step, in the order of the ranks."""
        notes = [json.loads(line) for line in self.record.read_text().splitlines()]
        found: dict[int, tuple[list[int], set[float]]] = {}
        for note in sorted(notes, key=lambda note: (note["step"], note["rank"])):
            images, rates = found.setdefault(note["step"], ([], set()))
            images += note["images"]
            rates.add(note["learning_rate"])
        return found

    def told(self, what):
        return [note.fields for note in channel.read(self.file) if note.what == what]


@pytest.fixture
def start(project):
    """Provide a way to start ranks, each with arguments of its own."""
    numbers = count()

    def begin(*arguments, **environ):
        number = next(numbers)
        file = project.path / f"status{number}"
        file.touch()
        common = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(
                str(THIRD_PARTY / n) for n in ("fake_framework", "recorder")
            ),
            "RUNNER_PLUGINS": "fake,data,recorder",
            "RECORDER": str(project.path / f"recorded{number}"),
            fake_group.WORLD_SIZE: str(len(arguments)),
            fake_group.SOCKET: str(project.path / f"socket{number}"),
            channel.STATUS: str(file),
            **environ,
        }
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "runner", *map(str, own)],
                env={**common, fake_group.RANK: str(rank)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for rank, own in enumerate(arguments)
        ]
        return Started(processes, file, project.path / f"recorded{number}")

    return begin


@pytest.fixture
def on_ranks(tmp_path):
    """Provide a way to run something on ranks that are threads."""

    numbers = count()

    def run(action, count=2, reporters=None):
        path = str(tmp_path / f"thread-socket{next(numbers)}")

        def work(rank):
            try:
                group = FakeGroup(rank, count, path, 60.0)
                with Ranks(group, reporters[rank] if reporters else None) as ranks:
                    return action(ranks)
            except BaseException as error:  # noqa: BLE001  it is what the test looks at
                return error

        with ThreadPoolExecutor(count) as pool:
            return list(pool.map(work, range(count)))

    return run


def weights(folder):
    return load_file(checkpoint.latest(folder / "checkpoints") / checkpoint.WEIGHTS)


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_a_further_attempt_goes_on_in_the_folder_of_the_first(project, start):
    recipe = project.write_recipe(EXTRA)
    command = ("run", recipe, "--devices", "2", *SLOW)
    straight = start(command, command)
    assert straight.finish()[0] == [0, 0]
    expected = weights(project.run_folder())
    shutil.rmtree(project.path / "runs")

    first = start(command, command)
    project.wait_for(lambda: len(project.checkpoints()) > 1)
    first.processes[1].kill()
    codes, outputs = first.finish()
    assert codes == [1, -signal.SIGKILL]
    assert "a process of the group is gone" in outputs[0]
    [left] = first.told("left")
    assert (left["rank"], left["again"]) == (0, True)
    folder = project.run_folder()
    assert {told["path"] for told in first.told("folder")} == {str(folder)}
    assert first.told("checkpoint")[-1]["path"] == str(project.checkpoints()[-1])
    assert sorted(met["rank"] for met in first.told("met")) == [0, 1]

    fields = json.dumps({"attempt": 2, "reason": "rank 1 was killed"})
    environ = {channel.CONTINUE: str(folder), channel.RESTARTED: fields}
    second = start(command, command, **environ)
    codes, outputs = second.finish()
    assert codes == [0, 0], outputs
    assert project.run_folder() == folder
    assert_same(weights(folder), expected)
    names = [event["event"] for event in project.events()]
    assert names.count("run.started") == 1
    begun = [e for e in project.events() if e["event"] in ("run.restarted", "run.resumed")]
    assert begun[0]["reason"] == "rank 1 was killed"
    saved = begun[1]["checkpoint"]
    assert (begun[1]["step"], begun[1]["event"]) == (int(saved[-8:]), "run.resumed")
    assert begun[1]["step"] >= 5
    assert "was killed" not in outputs[0]  # who has started the processes says so


def test_a_run_that_ended_before_its_first_checkpoint_begins_again(project):
    slow = ("--set", "framework.seconds_per_step=0.2")
    process = project.start("run", project.write_recipe(), *slow)
    project.wait_for(lambda: list(project.path.glob("runs/*/*/events.jsonl")))
    process.kill()
    process.communicate(timeout=150)
    folder = project.run_folder()
    assert not checkpoint.listing(folder / "checkpoints")
    outcome = project.runner("resume", folder, "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["steps"] == 36
    assert "from the start: it ended before its first checkpoint" in outcome.err
    [resumed] = [event for event in project.events() if event["event"] == "run.resumed"]
    assert (resumed["step"], resumed["checkpoint"]) == (0, None)
    straight = project.runner("run", folder / "recipe.yaml", "--runs-dir", "straight")
    assert straight.code == 0
    [other] = (project.path / "straight" / "recipe").iterdir()
    assert_same(weights(folder), weights(other))


def test_a_further_attempt_stays_on_the_line_that_went_back(project, monkeypatch):
    assert project.run(extra=EXTRA).code == 0
    folder = project.run_folder()
    (folder / "result.json").unlink()
    earliest, *_, newest = checkpoint.listing(folder / "checkpoints")

    def resumed_at():
        events = [event for event in project.events() if event["event"] == "run.resumed"]
        (folder / "result.json").unlink()
        return events[-1]["checkpoint"]

    # The first attempt has written none, so what is later belongs to the line that was left.
    monkeypatch.setenv(channel.CONTINUE, str(folder))
    assert project.runner("resume", earliest).code == 0
    assert resumed_at().endswith(earliest.name)
    monkeypatch.setenv(channel.CONTINUE, str(newest))
    assert project.runner("resume", earliest).code == 0
    assert resumed_at().endswith(newest.name)


def test_a_recipe_that_was_changed_in_between_is_refused(project, monkeypatch):
    recipe = project.write_recipe()
    assert project.runner("run", recipe).code == 0
    folder = project.run_folder()
    monkeypatch.setenv(channel.CONTINUE, str(folder))
    changed = project.runner("run", recipe, "--set", "optimizer.momentum=0.5")
    assert changed.code == 2
    assert "optimizer.momentum: 0.9 -> 0.5" in changed.err
    fine = project.runner("run", recipe, "--set", "loader.workers=1")
    assert fine.code == 0, fine.err
    assert project.run_folder() == folder


def test_the_lowest_rank_that_was_told_decides_for_all(on_ranks, tmp_path):
    folder = tmp_path / "runs" / "one"
    folder.mkdir(parents=True)
    for name in ("recipe.yaml", "manifest.json"):
        (folder / name).touch()

    def earlier(told):
        reporters = [Reporter(continues=folder) for folder in told]
        return on_ranks(resume.earlier, 3, reporters)

    assert earlier(["", "", ""]) == [None] * 3
    found = earlier(["", str(folder), ""])
    assert [(item.folder, item.saved) for item in found] == [(RunDir(folder), False)] * 3
    found = earlier(["", str(folder), str(folder / "checkpoints" / "step_00000005")])
    assert [(item.folder, item.saved) for item in found] == [(RunDir(folder), True)] * 3


def test_a_rank_that_does_not_see_the_run_folder_is_named(on_ranks, tmp_path):
    shared, other = tmp_path / "shared", tmp_path / "other"
    shared.mkdir()
    other.mkdir()

    def meet(folders):
        return on_ranks(lambda ranks: resume.meet_in(folders[ranks.rank], ranks), 3)

    own, elsewhere = RunDir(shared), RunDir(other)
    assert meet([own, None, own]) == [own] * 3
    assert not list(shared.iterdir())
    first, _, third = meet([own, None, elsewhere])
    assert str(first).startswith(
        f"rank 2 on {gethostname()}: {other} is not the run folder {shared}"
    )
    assert "--runs-dir" in str(first)
    assert first.exit_code == StorageError.exit_code
    assert isinstance(third, StorageError)
    assert not list(shared.iterdir())


def test_what_differs_between_ranks_is_named_with_both_values(on_ranks):
    tables = [
        {"a": 1, "b": [0.5]},
        {"a": 1, "b": [0.5]},
        {"a": 2, "c": None},
        {"a": 1, "b": []},
    ]

    def check(ranks):
        consistency.check_process(tables[ranks.rank], ranks)

    assert on_ranks(lambda ranks: consistency.check_process({"a": 1}, ranks), 2) == [None] * 2
    first, *others = on_ranks(check, 4)
    host = gethostname()
    assert str(first) == (
        f"rank 2 on {host} (and 1 more) differs from rank 0 on {host}: a: 1 on rank 0, 2 on "
        "rank 2; b: [0.5] on rank 0, nothing on rank 2; c: nothing on rank 0, null on rank 2; "
        "use the same command, recipe and package versions on every machine"
    )
    assert isinstance(first, UsageError)
    assert [error.code for error in others] == [UsageError.exit_code] * 3


def test_another_recipe_command_or_data_on_one_rank_is_refused(project, start):
    recipe = project.write_recipe(EXTRA)
    command = ("run", recipe, "--devices", "2")
    other = ("train", recipe, "--devices", "2", "--set", "optimizer.learning_rate=0.1")
    spared = ("--set", "loader.workers=1", "--set", "loader.cache_gib=0.5")
    _, outputs = start((*command, *spared), other).finish()
    assert "optimizer.learning_rate: 0.05 on rank 0, 0.1 on rank 1" in outputs[0]
    assert 'command: "run" on rank 0, "train" on rank 1' in outputs[0]
    assert "loader" not in outputs[0]
    assert not (project.path / "runs").exists()

    folders = [project.path / name for name in ("one", "other")]
    for folder in folders:
        for split, name in itertools.product(("train", "val"), ("red", "blue")):
            (folder / split / name).mkdir(parents=True)
            for number in range(8):
                image = folder / split / name / f"{number}.png"
                Image.new("RGB", (8, 8), name).save(image)
    (folders[1] / "val" / "red" / "7.png").rename(folders[1] / "val" / "red" / "8.png")
    text = recipe.read_text()
    data = "dataset: {{name: class_folders, root: {}}}"
    recipe.write_text(text.replace("dataset: fake_colours", data.format(folders[0])))
    root = ("--set", f"dataset.root={folders[1]}")
    _, outputs = start(command, (*command, *root)).finish()
    assert "val.digest of file names: " in outputs[0]
    assert "train." not in outputs[0].partition("error: ")[2]
    assert not (project.path / "runs").exists()


def test_fewer_processes_than_devices_are_accepted_where_the_recipe_says_so(project, start):
    recipe = project.write_recipe()
    command = ("run", recipe, "--devices", "4")
    least = ("--set", "distributed.min_devices=2")
    codes, outputs = start(*[(*command, *least)] * 2).finish()
    assert codes == [0, 0], outputs
    assert "devices: 2 of the 4 that the recipe asks for" in outputs[0]
    [event] = [event for event in project.events() if event["event"] == "run.fewer_devices"]
    assert (event["asked"], event["found"]) == (4, 2)
    manifest = json.loads((project.run_folder() / "manifest.json").read_text())
    assert manifest["world_size"] == 2
    codes, outputs = start(*[(*command, "--set", "distributed.min_devices=3")] * 2).finish()
    assert codes == [4, 4]
    assert "started 2 processes, and the recipe asks for 4 devices" in outputs[0]


def test_every_image_is_seen_once_on_two_then_one_then_three_ranks(project, start):
    recipe = project.write_recipe("checkpoint: {every_steps: 3, keep: 99}\n")
    options = ("--set", "train.batch_size=12", "--set", "train.epochs=2", "--set", "model.noise=0")
    whole = start(("run", recipe, *options, "--runs-dir", "straight"))
    assert whole.finish()[0] == [0]

    # An epoch has 8 steps. Each attempt fails after 4, of which it has saved 3.
    fails = ("--set", "framework.fail_after_steps=4")
    first = start(*[("run", recipe, "--devices", "2", *options, *fails)] * 2)
    first.finish()
    folder = project.run_folder()
    second = start(("resume", folder, "--set", "device.count=1"))
    second.finish()
    project.monkeypatch.setenv("RUNNER_FAKE_SOUND", "1")
    third = start(*[("resume", folder, "--set", "device.count=3")] * 3)
    codes, outputs = third.finish()
    assert codes == [0, 0, 0], outputs

    assert [e["step"] for e in project.events() if e["event"] == "run.resumed"] == [3, 6]
    one, two, three = (attempt.steps() for attempt in (first, second, third))
    assert (sorted(one), sorted(two), sorted(three)) == (
        [0, 1, 2, 3],
        [3, 4, 5, 6],
        [*range(6, 16)],
    )
    seen = {step: (one if step < 3 else two if step < 6 else three)[step] for step in range(16)}
    assert seen == whole.steps()
    for epoch in range(2):
        images = [image for step in range(8) for image in seen[8 * epoch + step][0]]
        assert sorted(images) == list(range(96))
    assert all(len(rates) == 1 for _, rates in seen.values())
    [other] = (project.path / "straight" / "colours").iterdir()
    found, expected = weights(folder), weights(other)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-6, atol=1e-7, err_msg=name)


def test_a_process_shows_at_what_it_is_and_that_it_goes_on(project, monkeypatch):
    file = project.path / "status"
    monkeypatch.setenv(channel.STATUS, str(file))
    activities = []
    begin = progress.Progress.begin

    def noted(own, activity):
        activities.append(activity)
        begin(own, activity)

    monkeypatch.setattr(progress.Progress, "begin", noted)
    assert project.run("--set", "train.epochs=2").code == 0
    assert activities == [
        "opening the device",
        "opening the data",
        "reading validation images",
        "building the engine",
        *("training, epoch 1 step 0", "training, epoch 1 step 4", "training, epoch 1 step 8"),
        *("training, epoch 1 step 12", "saving step 12", "evaluating"),
        *("training, epoch 2 step 0", "training, epoch 2 step 4", "training, epoch 2 step 8"),
        *("training, epoch 2 step 12", "saving step 24", "evaluating"),
        "exporting",
    ]
    seen = progress.look(file, os.getpid())
    assert seen is not None
    # two for each step, one after each evaluation and each checkpoint of an epoch
    assert seen.marks == len(activities) + 2 * 24 + 2 + 2

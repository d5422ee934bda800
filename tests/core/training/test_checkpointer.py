"""Checkpoints are copied while all wait, and written while training goes on."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from runner.contracts import EngineState
from runner.distributed.ranks import Ranks
from runner.errors import NonFiniteError, OtherRankError, StorageError
from runner.recipe.schema import CheckpointSection
from runner.storage import checkpoint
from runner.storage.checkpoint import Position
from runner.storage.events import EventLog
from runner.testing.fake_group import FakeGroup
from runner.training.checkpointer import Saver


class Engine:
    """A single weight that a step changes in place."""

    def __init__(self):
        self.weight = np.zeros(3, np.float32)

    def agree(self):
        pass

    def weights(self):
        return {"w": self.weight.copy()}

    def state(self):
        return EngineState(tensors={"m": self.weight.copy()}, values={"steps": 1})


class Bench:
    """A saver with what it needs, and a disk that can be held."""

    def __init__(self, folder, monkeypatch, ranks=None):
        self.folder = folder
        self.engine: Any = Engine()
        self.told = []
        self.free = threading.Event()
        self.free.set()
        self.begun = threading.Semaphore(0)
        self.error = None
        self.threads: set[threading.Thread] = set()
        write = checkpoint.save

        def held(*arguments, **named):
            self.threads.add(threading.current_thread())
            self.begun.release()
            assert self.free.wait(60)
            if self.error:
                raise self.error
            return write(*arguments, **named)

        monkeypatch.setattr(checkpoint, "save", held)
        self.saver = self.make(ranks or Ranks())

    def make(self, ranks):
        return Saver(
            self.engine,
            ranks,
            EventLog(lambda event, fields: self.told.append((event, fields))),
            section=CheckpointSection(),
            folder=self.folder,
            classes=("cat", "dog"),
            weights_kind="raw",
            recipe_text="summary: x\n",
        )

    def save(self, step, best_top1=None, saver=None):
        position = Position(step=step, epoch=step, step_in_epoch=0)
        (saver or self.saver).save(position, {"val.top1": 0.5}, best_top1)

    def steps_told(self):
        return [fields["step"] for event, fields in self.told if event == "checkpoint.saved"]


@pytest.fixture
def bench(tmp_path, monkeypatch):
    return Bench(tmp_path / "checkpoints", monkeypatch)


def test_training_goes_on_while_a_checkpoint_is_written(bench):
    with bench.saver:
        bench.free.clear()
        bench.save(1, best_top1=0.5)
        bench.engine.weight += 7  # the next step
        assert bench.begun.acquire(timeout=60)
        bench.saver.tell()
        assert bench.steps_told() == []
        assert checkpoint.best(bench.folder) is None
        bench.free.set()
    assert bench.steps_told() == [1]
    [path] = checkpoint.listing(bench.folder)
    assert checkpoint.best(bench.folder) == path == bench.saver.last
    saved = checkpoint.load(path)
    assert saved.weights["w"].tolist() == saved.state.tensors["m"].tolist() == [0, 0, 0]
    assert bench.threads != {threading.current_thread()}
    [(_, fields)] = [told for told in bench.told if told[0] == "checkpoint.saved"]
    assert fields["stall_s"] >= 0
    assert fields["write_s"] >= 0


def test_the_files_are_those_that_are_written_at_once(bench, tmp_path, monkeypatch):
    with bench.saver:
        bench.save(3)
    monkeypatch.undo()
    info = checkpoint.load(bench.saver.last).info
    at_once = checkpoint.save(
        tmp_path / "at_once",
        info,
        weights=bench.engine.weights(),
        state=bench.engine.state(),
        recipe_text="summary: x\n",
    )
    names = sorted(path.name for path in at_once.iterdir())
    assert names == sorted(path.name for path in bench.saver.last.iterdir())
    for name in names:
        assert (at_once / name).read_bytes() == (bench.saver.last / name).read_bytes()


def test_one_is_written_at_a_time(bench):
    second = threading.Thread(target=lambda: bench.save(2))
    with bench.saver:
        bench.free.clear()
        bench.save(1)
        assert bench.begun.acquire(timeout=60)
        second.start()
        second.join(0.2)
        assert second.is_alive()  # waits for the first
        assert not bench.begun.acquire(blocking=False)
        bench.free.set()
        second.join()
    assert bench.steps_told() == [1, 2]


def test_an_error_of_the_thread_is_raised_by_the_next_save(bench):
    bench.error = StorageError("the disk is full")

    def train():
        with bench.saver:
            bench.save(1)
            bench.save(2)

    with pytest.raises(StorageError, match="the disk is full"):
        train()
    assert bench.steps_told() == []
    assert bench.saver.last is None


def test_an_error_of_the_thread_is_raised_at_the_end(bench):
    def train():
        with bench.saver:
            bench.save(1)
            assert bench.saver.last is not None  # has waited
            bench.error = StorageError("the disk is full")
            bench.save(2)

    with pytest.raises(StorageError, match="the disk is full"):
        train()
    assert bench.steps_told() == [1]


def test_what_ends_a_run_is_not_hidden_by_the_disk(bench):
    def train():
        with bench.saver:
            bench.save(1)
            bench.saver.finish()
            bench.error = StorageError("the disk is full")
            bench.save(2)
            raise NonFiniteError("the loss is nan")

    with pytest.raises(NonFiniteError):
        train()
    assert bench.told[-1] == ("warning", {"message": "the disk is full"})


def test_a_run_that_fails_has_its_last_checkpoint(bench):
    def train():
        with bench.saver:
            bench.free.clear()
            bench.save(1)
            assert bench.begun.acquire(timeout=60)
            threading.Timer(0.05, bench.free.set).start()
            raise NonFiniteError("the loss is nan")

    with pytest.raises(NonFiniteError):
        train()
    assert bench.steps_told() == [1]
    assert len(checkpoint.listing(bench.folder)) == 1


def test_weights_that_are_not_finite_are_refused_at_once(bench):
    bench.engine.weight[1] = np.nan
    with pytest.raises(NonFiniteError, match="weight 'w'"), bench.saver:
        bench.save(1)
    assert not bench.threads


@pytest.mark.parametrize("at_the_end", [False, True])
def test_all_ranks_learn_of_an_error(tmp_path, monkeypatch, at_the_end):
    def work(rank):
        with Ranks(FakeGroup(rank, 2, str(tmp_path / "socket"))) as ranks:
            saver = own.make(ranks)
            try:
                with saver:
                    own.save(1, saver=saver)
                    if not at_the_end:
                        own.save(2, saver=saver)
            except (StorageError, OtherRankError) as error:
                return type(error)

    own = Bench(tmp_path / "checkpoints", monkeypatch)
    own.error = StorageError("the disk is full")
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(work, range(2))
    assert (first, second) == (StorageError, OtherRankError)
    assert len(own.threads) == 1  # rank 0 alone has written


KILLED = """
import os, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_checkpointer import Bench
from runner.storage import checkpoint

class Patch:
    setattr = staticmethod(setattr)

bench = Bench(Path({folder!r}), Patch)
with bench.saver:
    bench.save(1)
    bench.saver.finish()
    sync, left = os.fsync, [{count}]
    def ends(descriptor):
        left[0] -= 1
        if not left[0]:
            os._exit(9)
        sync(descriptor)
    os.fsync = ends
    bench.engine.weight += 1
    bench.save(2, best_top1=0.5)
"""


@pytest.mark.parametrize("count", range(1, 8))
def test_a_process_that_dies_while_it_writes_leaves_a_good_checkpoint(tmp_path, count):
    code = KILLED.format(tests=str(__file__.rpartition("/")[0]), folder=str(tmp_path), count=count)
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == 9
    saved = checkpoint.load(checkpoint.latest(tmp_path))
    step = saved.info.position.step
    assert step == (2 if count > 5 else 1)  # the folder is renamed after the fifth
    assert saved.weights["w"].tolist() == [step - 1] * 3

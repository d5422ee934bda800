"""Runs of the fake framework on several devices, and on several machines that are this one."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from safetensors.numpy import load_file

from runner.distributed.signals import SIGNALS
from runner.planning.loading import load
from runner.storage import checkpoint
from runner.testing import fake_group

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

MARK = "RUNNER_TEST_FOLDER"
EXTRA = "checkpoint: {every_steps: 5, keep: 9}\nexport:\n  - {name: fake_npz, verify_images: 4}\n"
"""The model without noise, so that ranks draw nothing of their own, on 99 and 33 images."""
OPTIONS = ("--set", "model.noise=0", "--set", "dataset.images=99")


@pytest.fixture(autouse=True)
def _signals_as_before() -> Iterator[None]:
    """Put back what a test lets signals do: a run that was stopped ignores further warnings."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@dataclass(frozen=True)
class Ended:
    """What a command left."""

    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        """The lines that tell an error."""
        return [line for line in self.err.splitlines() if "error: " in line]


@dataclass(frozen=True)
class Alone:
    """What a run of one process left."""

    weights: Mapping[str, Any]
    events: Sequence[Mapping[str, Any]]
    result: Mapping[str, Any]


@dataclass(frozen=True)
class Launched:
    """A project whose runs have several processes."""

    project: Any

    def start(self, *arguments, command="run", recipe=None, devices=2):
        target = recipe or self.project.write_recipe(EXTRA)
        options = () if command == "resume" else ("--devices", str(devices), *OPTIONS)
        environ = {MARK: str(self.project.path)}
        return self.project.start(command, target, *options, *arguments, **environ)

    def on_machines(self, *arguments, devices=4, nnodes="2"):
        """Start processes on two machines or more, and return what has started those of each."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            place = f"127.0.0.1:{free.getsockname()[1]}"
        return [
            self.start(
                *("--nnodes", nnodes, "--node-rank", str(number), "--rdzv", place),
                *arguments,
                devices=devices,
            )
            for number in range(int(nnodes.rpartition(":")[2]))
        ]

    def process(self, **environ) -> int | None:
        """Return the number of the process that has these variables, such as RUNNER_FAKE_RANK."""
        variables = {MARK: str(self.project.path), **environ}
        wanted = {f"{name}={value}".encode() for name, value in variables.items()}
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                if wanted <= set(path.read_bytes().split(b"\0")):
                    return int(path.parent.name)
            except OSError:
                continue
        return None

    def rank(self, rank: int) -> int:
        """Return the number of the process with this rank, which runs."""
        process = self.process(**{fake_group.RANK: rank})
        assert process is not None, f"rank {rank} does not run"
        return process

    def lose(self, process, *ranks: int) -> None:
        """Kill what has started the processes of a machine, and these, which do not save before."""
        lost = [self.rank(rank) for rank in ranks]
        for number in lost:
            os.kill(number, signal.SIGSTOP)
        process.kill()
        for number in lost:
            os.kill(number, signal.SIGKILL)

    def none_left(self) -> bool:
        """Whether none of the processes that were started runs any more."""
        return self.process() is None

    @staticmethod
    def finish(process) -> Ended:
        out, err = process.communicate(timeout=200)
        return Ended(code=process.returncode, out=out, err=err)

    def assert_weights_of(self, alone: Alone) -> None:
        """Look at the weights of the only run."""
        found = weights(self.project.run_folder())
        assert found.keys() == alone.weights.keys()
        for name, array in alone.weights.items():
            np.testing.assert_allclose(found[name], array, rtol=1e-6, atol=1e-7, err_msg=name)


def weights(folder):
    return load_file(checkpoint.latest(folder / "checkpoints") / checkpoint.WEIGHTS)


@pytest.fixture
def launched(project) -> Launched:
    """Provide an empty project."""
    return Launched(project)


@pytest.fixture
def alone(project) -> Alone:
    """Provide what a run of one process leaves, and an empty project."""
    outcome = project.runner("run", project.write_recipe(EXTRA), *OPTIONS, "--json")
    assert outcome.code == 0, outcome.err
    folder = project.run_folder()
    found = Alone(weights=weights(folder), events=project.events(folder), result=outcome.json)
    shutil.rmtree(project.path / "runs")
    return found


@pytest.fixture
def plan(project):
    """Provide a plan for two devices."""
    changes = ("device.count=2", "train.last_batch=keep")
    return load(str(project.write_recipe()), changes).plan

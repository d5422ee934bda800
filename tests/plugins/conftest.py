"""A machine with simulated cards of a vendor, on which commands run in processes of their own; and
what tests of importers share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from runner import plugins

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

TESTS = Path(__file__).parents[1]
PACKAGES = TESTS / "simulated" / "packages"
EXAMPLE = TESTS.parent / "examples" / "runner_blobs" / "src"

# Starting torch takes seconds, so several commands share a process.
COMMANDS = """
import contextlib, glob, io, json, os, sys
from runner import cli

outcomes = []
for arguments in json.loads(sys.stdin.read()):
    environment = {}
    while "=" in arguments[0]:
        name, _, value = arguments.pop(0).partition("=")
        environment[name] = value
    kept = dict(os.environ)
    os.environ.update(environment)
    sys.argv = ["runner"]
    for word in arguments:
        sys.argv += sorted(glob.glob(word)) if "*" in word else [word]
    code, out, err = 0, io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main()
        except SystemExit as left:
            code = int(left.code or 0)
    for name in environment:
        os.environ.pop(name)
        os.environ.update({k: v for k, v in kept.items() if k == name})
    cards = sys.modules.get("simulated_accelerator.state")
    record = cards.STATE.take_record() if cards else {}
    outcomes.append([code, out.getvalue(), err.getvalue(), record])
print("\\noutcomes: " + json.dumps(outcomes))
"""


@dataclass(frozen=True)
class Outcome:
    """What a command left."""

    code: int
    out: str
    err: str
    record: Any
    """What it did with the cards of its process."""

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)


@dataclass(frozen=True)
class Machine:
    """A folder to run recipes in, and the environment that plugs the cards in."""

    path: Path
    environment: Mapping[str, str]

    def _environment(self, extra: Mapping[str, str]) -> dict[str, str]:
        return {**os.environ, "OMP_NUM_THREADS": "1", **self.environment, **extra}

    def together(self, *commands: Sequence[str]) -> list[Outcome]:
        """Run commands one after the other in one process.

        As in a shell, words such as ``NAME=value`` before a command are its environment, and words
        with ``*`` are replaced by the files that they match.
        """
        done = subprocess.run(
            [sys.executable, "-c", COMMANDS],
            input=json.dumps(commands),
            cwd=self.path,
            env=self._environment({}),
            capture_output=True,
            text=True,
            check=False,
        )
        lines = [line for line in done.stdout.splitlines() if line.startswith("outcomes: ")]
        assert lines, done.stderr
        return [Outcome(*item) for item in json.loads(lines[-1].removeprefix("outcomes: "))]

    def runner(self, *arguments: str) -> tuple[subprocess.CompletedProcess[str], list[Any]]:
        """Run one command; return also what its processes did with their cards."""
        file = self.path / "record.jsonl"
        file.unlink(missing_ok=True)
        done = subprocess.run(
            [sys.executable, "-m", "runner", *arguments],
            cwd=self.path,
            env=self._environment({"SIMULATED_RECORD": str(file)}),
            capture_output=True,
            text=True,
            check=False,
        )
        lines = file.read_text().splitlines() if file.exists() else []
        return done, [json.loads(line) for line in lines]

    def python(self, program: str) -> str:
        """Run a program, and return what it printed."""
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=self.path,
            env=self._environment({}),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command and leave it running."""
        return subprocess.Popen(
            [sys.executable, "-m", "runner", *arguments],
            cwd=self.path,
            env=self._environment({}),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def wait_for(self, condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
        for _ in range(12000):
            if condition():
                return
            assert process.poll() is None, "the process ended before anything happened"
            time.sleep(0.01)
        raise AssertionError("nothing happened in two minutes")

    def last_checkpoint(self, runs: str) -> Path:
        """Return the last checkpoint of the one run in a folder."""
        [folder] = self.path.glob(f"{runs}/*/*/checkpoints")
        return max(folder.glob("step_*"))


@pytest.fixture(scope="session")
def make_machine(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Machine]:
    """Make machines with a vendor's simulated cards, and the example plugin installed."""
    metadata = tmp_path_factory.mktemp("metadata")
    info = metadata / "runner_blobs-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: runner-blobs\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text("[runner.plugins]\nblobs = runner_blobs.plugin\n")

    def make(*, plugins: str, installed: Sequence[Path] = (), plugged_in: bool = True) -> Machine:
        path = [*([PACKAGES] if plugged_in else []), *installed, EXAMPLE, metadata]
        environment = {
            "PYTHONPATH": os.pathsep.join(map(str, path)),
            "RUNNER_PLUGINS": f"torch,data,blobs,{plugins}",
            "SIMULATED_CARDS": "2",
        }
        return Machine(path=tmp_path_factory.mktemp("machine"), environment=environment)

    return make


@pytest.fixture(scope="module")
def plugins_loaded_once() -> Iterator[None]:
    """Find the installed plugins once for all command lines of a module."""
    found = plugins.load()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plugins, "load", lambda: found)
        yield

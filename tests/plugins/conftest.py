"""A machine with simulated cards of a vendor, on which commands run in processes of their own; a
folder in which several processes run a recipe; and what tests of importers share."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from runner.plugins import loading
from runner.storage import checkpoint

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


def worker(folder: Path, *variables: str) -> int:
    """Return the number of the process that works in a folder with some environment variables."""
    wanted = {variable.encode() for variable in variables}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            # msrun starts tail with the same environment
            is_python = (process / "comm").read_text(encoding="utf-8").startswith("python")
            found = set((process / "environ").read_bytes().split(b"\0"))
            if is_python and wanted <= found and (process / "cwd").readlink() == folder:
                return int(process.name)
    raise AssertionError(f"no process with {variables}")


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
        self._record.unlink(missing_ok=True)
        done = subprocess.run(
            [sys.executable, "-m", "runner", *arguments],
            cwd=self.path,
            env=self._environment({"SIMULATED_RECORD": str(self._record)}),
            capture_output=True,
            text=True,
            check=False,
        )
        return done, self.records()

    @property
    def _record(self) -> Path:
        return self.path / "record.jsonl"

    def records(self) -> list[Any]:
        """Return what the processes of the last command did with their cards, once they ended."""
        lines = self._record.read_text().splitlines() if self._record.exists() else []
        return [json.loads(line) for line in lines]

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

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Start a command and leave it running."""
        self._record.unlink(missing_ok=True)
        return subprocess.Popen(
            [sys.executable, "-m", "runner", *arguments],
            cwd=self.path,
            env=self._environment({"SIMULATED_RECORD": str(self._record), **environment}),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def worker(self, *variables: str) -> int:
        """Return the number of the process that works here with some environment variables."""
        return worker(self.path, *variables)

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


@dataclass(frozen=True)
class RecipeFolder:
    """A folder with a recipe, in which several processes carry it out."""

    path: Path
    environment: Mapping[str, str]

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        """Start a command of ``runner``."""
        return self.start_program("-m", "runner", *arguments)

    def start_program(self, *arguments: str | Path) -> subprocess.Popen[str]:
        """Start Python with some arguments, as a user does in a shell."""
        return subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            cwd=self.path,
            env={**os.environ, **self.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self, *arguments: str | Path) -> str:
        """Run a command of ``runner`` to its end, which must be a good one; return its output."""
        process = self.start(*arguments)
        out, err = process.communicate()
        assert process.returncode == 0, out + err
        return out

    @property
    def run(self) -> Path:
        """The folder of the one run."""
        [found] = (path.parent for path in self.path.glob("runs/*/*/events.jsonl"))
        return found

    @property
    def result(self) -> dict[str, Any]:
        """The result of the one run."""
        result: dict[str, Any] = json.loads((self.run / "result.json").read_text("utf-8"))
        return result

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the run's events of a name."""
        lines = (self.run / "events.jsonl").read_text(encoding="utf-8").splitlines()
        return [event for event in map(json.loads, lines) if event["event"] == name]

    def checkpoints(self) -> list[Path]:
        """Return the checkpoints of all runs, in order."""
        return sorted(self.path.glob("runs/*/*/checkpoints/step_*"))

    def last_files(self) -> dict[str, bytes]:
        """Return what the last checkpoint holds: weights and state."""
        last = self.checkpoints()[-1]
        names = (checkpoint.WEIGHTS, checkpoint.STATE)
        return {name: (last / name).read_bytes() for name in names}

    def wait_for_checkpoint(self, process: subprocess.Popen[str]) -> None:
        """Wait until there is a checkpoint."""
        deadline = time.monotonic() + 200
        while not self.checkpoints():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def worker(self, *variables: str) -> int:
        """Return the number of the process that works here with some environment variables."""
        return worker(self.path, *variables)


@pytest.fixture(scope="session")
def make_recipe_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., RecipeFolder]:
    """Make folders with a recipe ``two.yaml``, given its text and environment variables."""

    def make(recipe: str, **environment: str) -> RecipeFolder:
        folder = tmp_path_factory.mktemp("recipe")
        (folder / "two.yaml").write_text(recipe, encoding="utf-8")
        return RecipeFolder(folder, environment)

    return make


@pytest.fixture(scope="module")
def plugins_loaded_once() -> Iterator[None]:
    """Find the installed plugins once for all command lines of a module."""
    found = loading.load()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "load", lambda: found)
        yield

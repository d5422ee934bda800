"""Two machines on one: network, host name and mounts of their own, joined by a cable.

Each machine is a set of Linux namespaces that a waiting process holds open. They have no names in
the file system, so that tests beside each other do not meet, and the kernel takes them away with
the last process in them. The machines see each other, and nothing else.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from runner.storage import checkpoint
from runner.system.interpreter import BOOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

PROGRAMS = ("unshare", "nsenter", "ip", "mount")
OWN = ("--net", "--uts", "--mount")
"""Namespaces of each machine; processes and users are those of all."""
HOLD = "echo held; exec cat"
"""Holds namespaces open until standard input is closed, at the latest by the end of the tests."""
SETTLE = ("env", "--default-signal=INT")
"""Begins a command: Ctrl-C works also where a shell has started the tests in the background. The
folder is entered here, because the one that ``nsenter`` keeps is that of the mounts outside."""
WORKS = f"\0{BOOT}\0runner\0".encode()
"""In the command line of a process that a launcher starts, and of none that it starts beside it."""
CABLE = "cable"
"""Name of the network interface, on both machines."""


class NoMachinesError(Exception):
    """Namespaces cannot be made here."""


@dataclass(frozen=True)
class Machine:
    """One of the machines."""

    rank: int
    holder: subprocess.Popen[str]
    enter: Sequence[str]
    """What begins a command that runs on it."""
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def host(self) -> str:
        return f"machine-{self.rank}"

    @property
    def address(self) -> str:
        return f"10.77.0.{self.rank + 1}"

    def do(self, *command: str | Path) -> str:
        """Run a command on it, and return what it printed."""
        words = [*self.enter, *map(str, command)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            raise NoMachinesError(f"{' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    def start(self, *command: str | Path, cwd: Path, **environ: str) -> subprocess.Popen[str]:
        """Start a command on it, as from a terminal."""
        process = subprocess.Popen(
            [*self.enter, *SETTLE, f"--chdir={cwd}", *map(str, command)],
            env={**os.environ, **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def runner(self, *arguments: str | Path, cwd: Path, **environ: str) -> subprocess.Popen[str]:
        """Start ``runner`` on it."""
        return self.start(sys.executable, "-m", "runner", *arguments, cwd=cwd, **environ)

    def processes(self) -> list[int]:
        """Return the processes that run on it."""
        network = _network_of(self.holder.pid)
        found = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
        others = [process for process in found if process != self.holder.pid]
        return [process for process in others if network and _network_of(process) == network]

    def stand_still(self) -> None:
        """Let none of its processes notice anything any more, until they are ended."""
        for process in self.processes():
            os.kill(process, signal.SIGSTOP)

    def clear(self) -> None:
        """End every process on it."""
        while left := self.processes():
            for process in left:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            for child in self.started:
                child.poll()
            time.sleep(0.01)
        for child in self.started:
            child.communicate()
        self.started.clear()


@dataclass(frozen=True)
class Machines:
    """Both machines and their cable."""

    pair: tuple[Machine, Machine]

    def __getitem__(self, rank: int) -> Machine:
        return self.pair[rank]

    def __iter__(self) -> Iterator[Machine]:
        return iter(self.pair)

    def cut(self) -> None:
        """Pull the cable: what is sent is lost, and nobody is told."""
        self[1].do("ip", "link", "set", CABLE, "down")

    def lose(self) -> None:
        """Take the power from the second one: what it would send is lost, and nobody is told."""
        self.cut()
        self[1].stand_still()  # of processes that are killed one by one the others would notice
        self[1].clear()

    def join(self) -> None:
        """Plug the cable in again."""
        self[1].do("ip", "link", "set", CABLE, "up")

    def clear(self) -> None:
        """End every process on both, and mend the cable."""
        for machine in self:
            machine.clear()
        self.join()

    @staticmethod
    def wait_for(condition: Callable[[], object], seconds: float = 250) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"nothing happened in {seconds} s"
            time.sleep(0.02)


def _network_of(process: int) -> str:
    try:
        return str(Path(f"/proc/{process}/ns/net").readlink())
    except OSError:  # it is gone, or another user's
        return ""


@contextmanager
def _hold(command: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    pipe = subprocess.PIPE
    holder = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    assert holder.stdin
    assert holder.stdout
    try:
        if holder.stdout.readline() != "held\n":
            _, said = holder.communicate()
            raise NoMachinesError(f"{' '.join(command[:-3])}: {said.strip()}")
        yield holder
    finally:
        holder.communicate()  # it ends with its input


@contextmanager
def _two_machines(user: Sequence[str]) -> Iterator[Machines]:
    """Make both; the second one inside the first one's user namespace, if it has one."""
    with ExitStack() as stack:
        enter: list[str] = []
        pair = []
        for rank in range(2):
            own = [*enter, "unshare", *([] if rank else user), *OWN, "sh", "-c", HOLD]
            holder = stack.enter_context(_hold(own))
            also = ["--user", "--preserve-credentials"] if user else []
            enter = ["nsenter", f"--target={holder.pid}", *also, *OWN]
            pair.append(Machine(rank=rank, holder=holder, enter=enter))
        machines = Machines((pair[0], pair[1]))
        other = str(pair[1].holder.pid)
        pair[0].do("ip", "link", "add", CABLE, "type", "veth", "peer", CABLE, "netns", other)
        for machine in machines:
            stack.callback(machine.clear)
            machine.do("hostname", machine.host)
            machine.do("ip", "address", "add", f"{machine.address}/24", "dev", CABLE)
            machine.do("ip", "link", "set", "lo", "up")
            machine.do("ip", "link", "set", CABLE, "up")
        yield machines


@dataclass(frozen=True)
class Outcome:
    """What a command left."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one error that it has printed."""
        [line] = [line for line in self.err.splitlines() if line.startswith("error: ")]
        return line.removeprefix("error: ")

    @property
    def commands(self) -> list[str]:
        """The commands that it has printed."""
        lines = [line for line in self.err.splitlines() if line.startswith("launch: ")]
        return [line.removeprefix("launch: ") for line in lines]


@dataclass(frozen=True)
class Folder:
    """A folder that both machines see, with a recipe ``two.yaml`` that they carry out together."""

    machines: Machines
    path: Path
    environment: Mapping[str, str]
    ports: Iterator[int] = field(default_factory=lambda: itertools.count(29500))

    def start(
        self, *arguments: str | Path, ranks: Sequence[int] = (0, 1), **environ: str
    ) -> list[subprocess.Popen[str]]:
        """Start a command of ``runner`` on both machines, or on one of them."""
        meeting = f"{self.machines[0].address}:{next(self.ports)}"
        return [self.start_one(rank, meeting, *arguments, **environ) for rank in ranks]

    def start_one(
        self, rank: int, meeting: str, *arguments: str | Path, **environ: str
    ) -> subprocess.Popen[str]:
        """Start a command of ``runner`` on one machine, for a given place to meet at."""
        options = ("--nnodes", "2", "--node-rank", str(rank), "--rdzv", meeting)
        command, *rest = arguments
        machine = self.machines[rank]
        words = (command, *rest, *options)
        return machine.runner(*words, cwd=self.path, **self.environment, **environ)

    @staticmethod
    def finish(processes: Sequence[subprocess.Popen[str]]) -> list[Outcome]:
        """Wait for commands to end."""
        outcomes = []
        for process in processes:
            out, err = process.communicate(timeout=250)
            outcomes.append(Outcome(process.returncode, out, err))
        return outcomes

    def both(self, *arguments: str | Path) -> list[Outcome]:
        """Run a command on both machines to its end."""
        return self.finish(self.start(*arguments))

    def assert_nothing_is_left(self) -> None:
        """Look for processes on both machines."""
        assert [machine.processes() for machine in self.machines] == [[], []]

    @property
    def run(self) -> Path:
        """The folder of the one run."""
        [found] = (path.parent for path in self.path.glob("runs/two/*/events.jsonl"))
        return found

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the run's events of a name."""
        lines = (self.run / "events.jsonl").read_text(encoding="utf-8").splitlines()
        return [event for event in map(json.loads, lines) if event["event"] == name]

    def checkpoints(self) -> list[Path]:
        return sorted(self.path.glob("runs/two/*/checkpoints/step_*"))

    def last_files(self) -> dict[str, bytes]:
        """Return what the last checkpoint holds: weights and state."""
        names = (checkpoint.WEIGHTS, checkpoint.STATE)
        return {name: (self.checkpoints()[-1] / name).read_bytes() for name in names}

    def wait_for_checkpoint(self, *processes: subprocess.Popen[str]) -> None:
        """Wait until the run has saved for the first time."""

        def saved() -> bool:
            ended = [process for process in processes if process.poll() is not None]
            assert not ended, self.finish(ended)
            return bool(self.checkpoints())

        self.machines.wait_for(saved)

    def worker(self, rank: int, variable: str) -> int:
        """Return the process of a rank, which an environment variable of the framework names."""
        wanted = f"{variable}={rank}".encode()
        machine = self.machines[rank]
        for process in machine.processes():
            with suppress(OSError):
                environ = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
                command = Path(f"/proc/{process}/cmdline").read_bytes()
                if wanted in environ and WORKS in command:
                    return process
        raise AssertionError(f"rank {rank} does not run")


def _users() -> Iterator[Sequence[str]]:
    """Yield what makes namespaces as the user who runs the tests may."""
    if os.geteuid() == 0:
        yield ()
    yield ("--user", "--map-root-user")


@pytest.fixture(scope="session")
def all_machines() -> Iterator[Machines]:
    """Make the machines, once for all tests."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} of util-linux and iproute2 are not installed")
    reasons = []
    for user in _users():
        try:
            with _two_machines(user) as found:
                yield found
                return
        except NoMachinesError as error:
            reasons.append(str(error))
    pytest.skip("two machines cannot be made here: " + "; ".join(reasons))


@pytest.fixture
def machines(all_machines: Machines) -> Iterator[Machines]:
    """Provide two machines on which nothing runs."""
    yield all_machines
    all_machines.clear()


@pytest.fixture(scope="session")
def make_folder(
    all_machines: Machines, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Folder]:
    """Make folders with a recipe, given its text and environment variables."""

    def make(recipe: str, **environment: str) -> Folder:
        path = tmp_path_factory.mktemp("shared")
        (path / "two.yaml").write_text(recipe, encoding="utf-8")
        return Folder(all_machines, path, environment)

    return make


@pytest.fixture
def folder(
    make_folder: Callable[..., Folder], machines: Machines, request: pytest.FixtureRequest
) -> Folder:
    """Provide a folder with the module's recipe, for two machines that are cleared afterwards."""
    return make_folder(request.module.RECIPE, **request.module.ENVIRONMENT)


@pytest.fixture(scope="module")
def undisturbed(
    make_folder: Callable[..., Folder], request: pytest.FixtureRequest
) -> tuple[Folder, Sequence[Outcome]]:
    """Provide a folder in which both machines have trained to the end, and what they printed."""
    folder = make_folder(request.module.RECIPE, **request.module.ENVIRONMENT)
    outcomes = folder.both("train", "two.yaml", "--json")
    assert [outcome.code for outcome in outcomes] == [0, 0], [item.err for item in outcomes]
    return folder, outcomes

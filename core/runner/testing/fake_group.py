"""Several processes of the fake framework: a group over sockets, and the launcher that starts it.

    python -m runner.testing.fake_group 2 runner run recipe.yaml --devices 2

starts two processes, and as some frameworks do one more that helps them to meet: it runs the same
program as far as ``join``, and ends there. The launchers of several machines, which may be one and
the same, are told of each other by environment variables:

    RUNNER_FAKE_WORLD_SIZE: Processes on all machines together.
    RUNNER_FAKE_FIRST_RANK: Rank of the first process of this machine; the first machine has the
        helper.
    RUNNER_FAKE_SOCKET: Where rank 0 listens, a path or ``host:port``; a new path when unset.
    RUNNER_FAKE_JOB: What the job is called, and how often its processes were started again, such as
        ``night:1``; no job when unset.
    RUNNER_FAKE_POD: Place of this machine among others, such as ``1/4 at host:port``, where no
        launcher has started its processes.
    RUNNER_FAKE_LOGS: Folder for what each process prints; all print what the launcher does when
        unset.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, TextIO, final

from runner.distributed.machines import endpoint
from runner.entries import Attempt, Place
from runner.errors import OtherRankError
from runner.system import interpreter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from runner.contracts import Device
    from runner.entries import Command, LaunchRequest

WORLD_SIZE, FIRST_RANK = "RUNNER_FAKE_WORLD_SIZE", "RUNNER_FAKE_FIRST_RANK"
JOB, POD = "RUNNER_FAKE_JOB", "RUNNER_FAKE_POD"
SOCKET, LOGS = "RUNNER_FAKE_SOCKET", "RUNNER_FAKE_LOGS"
RANK, LOCAL_RANK = "RUNNER_FAKE_RANK", "RUNNER_FAKE_LOCAL_RANK"
HELPER = "helper"
"""What RUNNER_FAKE_RANK says in the process that takes no part."""
TIMEOUT_S = 60.0
"""Time in which the processes must have met."""
RETRY_S = 0.02
LEAVE_S = 3.0
"""Time in which the others may end when one has failed, as they may be about to do."""
GONE = "a process of the group is gone, or does not answer"


def launch(request: LaunchRequest) -> Sequence[Command]:
    """Return the command that starts the processes of this machine."""
    machines, environment = request.machines, {LOGS: str(request.log_folder)}
    if machines.port is not None:
        environment |= {
            WORLD_SIZE: str(request.count),
            FIRST_RANK: str(machines.rank * request.local_count),
            SOCKET: machines.endpoint,
        }
    name, count = "runner.testing.fake_group", str(request.local_count)
    program = interpreter.module(name, count, "runner", *request.arguments)
    # it kills its processes when it is interrupted
    return [replace(program, environment=environment, interrupted=False)]


def rank_environment(place: Place) -> Mapping[str, str]:
    """Return what makes a process a rank that has no launcher."""
    return {
        RANK: str(place.rank),
        LOCAL_RANK: str(place.local_rank),
        WORLD_SIZE: str(place.world_size),
        SOCKET: endpoint(place.host, place.port),
    }


def place(environ: Mapping[str, str]) -> Place | None:
    """Return the place of a process, or of a machine as an operator tells it."""
    if WORLD_SIZE in environ:
        local_rank, rank = (environ.get(name, "") for name in (LOCAL_RANK, RANK))
        return Place(
            world_size=int(environ[WORLD_SIZE]),
            rank=int(rank) if rank.isdecimal() else None,
            local_rank=int(local_rank) if local_rank else None,
        )
    found = re.fullmatch(r"(\d+)/(\d+) at (\S+):(\d+)", environ.get(POD, ""))
    if found is None:
        return None
    rank, nodes, host, port = found.groups()
    return Place(
        whole_machine=True, node_rank=int(rank), nodes=int(nodes), host=host, port=int(port)
    )


def attempt(environ: Mapping[str, str]) -> Attempt | None:
    """Return the job of a launcher that starts processes again."""
    name, _, restarts = environ.get(JOB, "").partition(":")
    return Attempt(job=name, number=int(restarts), known_by="launcher") if name else None


def join(device: Device, timeout_s: float) -> FakeGroup:
    """Meet the other processes; the one that only helps ends here."""
    assert device.name, "the device is open"
    if os.environ[RANK] == HELPER:
        raise SystemExit(0)
    rank, world_size = int(os.environ[RANK]), int(os.environ[WORLD_SIZE])
    return FakeGroup(rank, world_size, os.environ[SOCKET], timeout_s)


@final
class FakeGroup:
    """Processes that send lines of JSON to rank 0 and get its answer."""

    def __init__(
        self, rank: int, world_size: int, place: str, timeout_s: float = TIMEOUT_S
    ) -> None:
        self.rank = rank
        self.world_size = world_size
        self._timeout_s = timeout_s
        self._peers = self._accept(place) if rank == 0 else [self._file(_connect(place))]
        if rank == 0:
            self._peers.sort(key=lambda peer: int(_read(peer)[0]))
        else:
            _write(self._peers[0], [float(rank)])

    def sum(self, values: Sequence[float]) -> list[float]:
        """Add numbers over all processes, in the order of the ranks."""
        if self.rank:
            _write(self._peers[0], values)
            return _read(self._peers[0])
        total = [float(value) for value in values]
        for peer in self._peers:
            total = [own + other for own, other in zip(total, _read(peer), strict=True)]
        for peer in self._peers:
            _write(peer, total)
        return total

    def close(self) -> None:
        """Wait for the others."""
        self.sum([0.0])
        for peer in self._peers:
            peer.close()

    def _accept(self, place: str) -> list[TextIO]:
        with _socket(place) as server:
            server.settimeout(TIMEOUT_S)
            if server.family == socket.AF_INET:
                server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind(_address(place))
            server.listen()
            return [self._file(server.accept()[0]) for _ in range(self.world_size - 1)]

    def _file(self, connection: socket.socket) -> TextIO:
        connection.settimeout(self._timeout_s)
        with connection:  # the file keeps it open
            return connection.makefile("rw", encoding="utf-8")


def _socket(place: str) -> socket.socket:
    return socket.socket(socket.AF_UNIX if "/" in place else socket.AF_INET)


def _address(place: str) -> str | tuple[str, int]:
    host, _, port = place.rpartition(":")
    return place if "/" in place else (host, int(port))


def _connect(place: str) -> socket.socket:
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        connection = _socket(place)
        try:
            connection.connect(_address(place))
        except OSError:
            connection.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(RETRY_S)
        else:
            return connection


def _write(peer: TextIO, values: Sequence[float]) -> None:
    try:
        peer.write(json.dumps(list(values)) + "\n")
        peer.flush()
    except OSError as error:
        raise OtherRankError(GONE) from error


def _read(peer: TextIO) -> list[float]:
    try:
        line = peer.readline()
    except OSError as error:
        raise OtherRankError(GONE) from error
    if not line:
        raise OtherRankError(GONE)
    values: list[float] = json.loads(line)
    return values


def main() -> int:
    """Start the processes; when one fails, kill the others. Signals do to it what they do."""
    with tempfile.TemporaryDirectory(prefix="fake-group-") as folder, ExitStack() as stack:
        children = _start(int(sys.argv[1]), sys.argv[2:], Path(folder), stack)
        failed = 0.0
        try:
            while None in [child.poll() for child in children]:
                if any(child.returncode for child in children):
                    failed = failed or time.monotonic()
                if failed and time.monotonic() > failed + LEAVE_S:
                    return 1
                time.sleep(0.05)
            return int(any(child.returncode for child in children))
        except KeyboardInterrupt:
            return 0  # as msrun, which hides what became of the others
        finally:
            for child in children:
                child.kill()
                child.wait()


def _start(
    count: int, arguments: Sequence[str], folder: Path, stack: ExitStack
) -> list[subprocess.Popen[bytes]]:
    first = int(os.environ.get(FIRST_RANK, "0"))
    common = {WORLD_SIZE: str(count), SOCKET: str(folder / "socket"), **os.environ}
    places: list[Mapping[str, str]] = [
        {RANK: str(first + number), LOCAL_RANK: str(number)} for number in range(count)
    ]
    if first == 0:
        places = [{RANK: HELPER}, *places]
    return [
        subprocess.Popen(
            interpreter.module(*arguments).arguments,
            env={**common, **place},
            stdout=(output := _output(place[RANK], stack)),
            stderr=output,
            start_new_session=True,  # as msrun does
        )
        for place in places
    ]


def _output(rank: str, stack: ExitStack) -> IO[bytes] | None:
    """Open the file that a process prints to, if it has one of its own."""
    if LOGS not in os.environ:
        return None
    return stack.enter_context((Path(os.environ[LOGS]) / f"rank_{rank}.log").open("wb"))


if __name__ == "__main__":
    sys.exit(main())

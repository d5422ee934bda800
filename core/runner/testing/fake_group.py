"""Several processes of the fake framework: a group over a socket, and the launcher that starts it.

    python -m runner.testing.fake_group 2 run recipe.yaml --devices 2

starts two processes, and as some frameworks do one more that helps them to meet: it runs the same
program as far as ``join``, and ends there.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING, TextIO, final

from runner.entries import Command

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runner.contracts import Device
    from runner.entries import LaunchRequest

RANK, WORLD_SIZE, SOCKET = "RUNNER_FAKE_RANK", "RUNNER_FAKE_WORLD_SIZE", "RUNNER_FAKE_SOCKET"
HELPER = "helper"
"""What RUNNER_FAKE_RANK says in the process that takes no part."""
TIMEOUT_S = 60.0
GONE = "a process of the group is gone"


def launch(request: LaunchRequest) -> Sequence[Command]:
    """Return the command that starts the processes."""
    program = (sys.executable, "-m", "runner.testing.fake_group")
    return [Command(arguments=[*program, str(request.count), *request.arguments])]


def launched_world_size() -> int | None:
    """Return how many processes there are, where this one was launched."""
    return int(os.environ[WORLD_SIZE]) if WORLD_SIZE in os.environ else None


def join(device: Device, timeout_s: float) -> FakeGroup:  # noqa: ARG001
    """Meet the other processes; the one that only helps ends here."""
    assert device.name, "the device is open"
    if os.environ[RANK] == HELPER:
        raise SystemExit(0)
    return FakeGroup(int(os.environ[RANK]), int(os.environ[WORLD_SIZE]), os.environ[SOCKET])


@final
class FakeGroup:
    """Processes that send lines of JSON to rank 0 and get its answer."""

    def __init__(self, rank: int, world_size: int, path: str) -> None:
        self.rank = rank
        self.world_size = world_size
        self._peers = self._accept(path) if rank == 0 else [_connect(path)]
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

    def _accept(self, path: str) -> list[TextIO]:
        with socket.socket(socket.AF_UNIX) as server:
            server.settimeout(TIMEOUT_S)
            server.bind(path)
            server.listen()
            return [_file(server.accept()[0]) for _ in range(self.world_size - 1)]


def _connect(path: str) -> TextIO:
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(path)
        except OSError:
            connection.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return _file(connection)


def _file(connection: socket.socket) -> TextIO:
    with connection:  # the file keeps it open
        return connection.makefile("rw", encoding="utf-8")


def _write(peer: TextIO, values: Sequence[float]) -> None:
    try:
        peer.write(json.dumps(list(values)) + "\n")
        peer.flush()
    except OSError as error:
        raise RuntimeError(GONE) from error


def _read(peer: TextIO) -> list[float]:
    try:
        line = peer.readline()
    except OSError as error:
        raise RuntimeError(GONE) from error
    if not line:
        raise RuntimeError(GONE)
    values: list[float] = json.loads(line)
    return values


def main() -> int:
    """Start the processes; when one fails, kill the others. Signals do to it what they do."""
    count, *arguments = sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix="fake-group-") as folder:
        common = {**os.environ, WORLD_SIZE: count, SOCKET: f"{folder}/socket"}
        children = [
            subprocess.Popen(
                [sys.executable, "-m", "runner", *arguments],
                env={**common, RANK: rank},
                start_new_session=True,  # as msrun does
            )
            for rank in (HELPER, *map(str, range(int(count))))
        ]
        try:
            while any(child.poll() is None for child in children):
                if any(child.returncode for child in children):
                    time.sleep(1)  # the others may be about to fail as well
                    return 1
                time.sleep(0.05)
            return int(any(child.returncode for child in children))
        except KeyboardInterrupt:
            return 0  # as msrun, which hides what became of the others
        finally:
            for child in children:
                child.kill()
                child.wait()


if __name__ == "__main__":
    sys.exit(main())

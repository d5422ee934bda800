"""Machine 0 of a run, which waits for the others where they meet."""

from __future__ import annotations

import json
import select
import socket
import struct
import time
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, final

from runner.distributed.meeting import network
from runner.errors import DeviceError, RunnerError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from runner.distributed.machines import Machines
    from runner.distributed.supervising.elastic import Choice

GREETING = b"runner-meeting 1\n"
RETRY_S = 0.5
CONNECT_S = 5.0
"""Time for an answer; where packets are dropped, none ever comes."""
FREED_S = 5.0
"""Time in which the port of an attempt that has just ended becomes free."""
LAST_CALL_S = 30.0
"""Time without a newcomer after which those that have come begin without the others."""
LONGEST = 1 << 20
"""Bytes of what a machine tells."""


class NotNeededError(DeviceError):
    """The run goes on without this machine, whose devices would not divide the batch."""


@final
class Patience:
    """How long to wait, and what is told of it."""

    def __init__(self, seconds: float, report: Callable[[str], None]) -> None:
        self.seconds = seconds
        self.begun = time.monotonic()
        self._report = report
        self._said: set[str] = set()

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self.begun + self.seconds - time.monotonic()

    def tell(self, text: str) -> None:
        """Report something, once."""
        if text not in self._said:
            self._said.add(text)
            self._report(text)


@dataclass(slots=True)
class _Visitor:
    """A connection to machine 0."""

    connection: socket.socket
    address: str
    received: bytearray = field(default_factory=bytearray)
    rank: int | None = None
    """Number of the machine, once it has said it."""


@final
class Host:
    """Machine 0, to which the others come."""

    def __init__(
        self, machines: Machines, port: int, news: Mapping[str, Any], patience: Patience
    ) -> None:
        self._machines = machines
        self._port = port
        self._patience = patience
        self._told: dict[int, Mapping[str, Any]] = {0: news}
        self._visitors: dict[int, _Visitor] = {}
        self._last = time.monotonic()

    def wait(
        self, choose: Callable[[Mapping[int, Mapping[str, Any]]], Choice]
    ) -> tuple[Mapping[int, Mapping[str, Any]], int]:
        """Wait for the others, and tell them who begins.

        Args:
            choose: Chooses which of those that have come take part.

        Returns:
            What each of those that take part has told, and how many devices each works with.

        Raises:
            DeviceError: One has not come, one that came does not fit, or nothing can be chosen;
                those that are there have been told.
        """
        _check_own(self._machines)
        with ExitStack() as stack:
            server = stack.enter_context(closing(_listen(self._machines, self._port)))
            stack.callback(self._hang_up)
            try:
                while not self._complete():
                    self._serve(server)
                choice = choose(self._told)
            except RunnerError as error:
                self._say({"error": str(error), "needed": True})
                raise
            chosen = {rank: self._told[rank] for rank in choice.ranks}
            self._say({"told": chosen, "devices": choice.devices}, chosen)
            for rank in sorted(self._told.keys() - chosen.keys()):
                words = f"machine {rank} is not needed: {choice.why}"
                self._say({"error": words, "needed": False}, [rank])
                self._patience.tell(words)
            self._see_off()
        return chosen, choice.devices

    def _complete(self) -> bool:
        count, here = self._machines.count, len(self._told)
        if here == count:
            return True
        least = self._machines.least or count
        if here >= least and time.monotonic() - self._last > LAST_CALL_S:
            return True
        missing = [str(rank) for rank in range(count) if rank not in self._told]
        several = len(missing) > 1
        names = f"machine{'s' if several else ''} {' and '.join(missing)} of {count}"
        where = self._machines.endpoint
        if self._patience.left < 0:
            raise DeviceError(
                f"{names} {'have' if several else 'has'} not come to {where} within "
                f"{self._patience.seconds:g} s; start the same command there, each with its "
                f"number (--node-rank {missing[0]}), and check that the machine reaches {where}, "
                "which a firewall may keep closed"
            )
        self._patience.tell(f"waiting for {names} at {where}, up to {self._patience.seconds:.0f} s")
        return False

    def _serve(self, server: socket.socket) -> None:
        """Welcome who comes, and listen to those that are there."""
        watched = [server.fileno(), *self._visitors]
        ready, _, _ = select.select(watched, [], [], RETRY_S)
        for descriptor in ready:
            if descriptor == server.fileno():
                connection, address = server.accept()
                connection.setblocking(False)
                with suppress(OSError):
                    connection.send(GREETING)
                self._visitors[connection.fileno()] = _Visitor(connection, _plain(address[0]))
            else:
                self._listen_to(self._visitors[descriptor])

    def _listen_to(self, visitor: _Visitor) -> None:
        data = _receive(visitor.connection)
        visitor.received += data
        if not data or len(visitor.received) > LONGEST:
            self._forget(visitor)
        elif visitor.rank is None and visitor.received.endswith(b"\n"):
            with suppress(ValueError, KeyError, TypeError):  # it is not one of the machines
                self._register(visitor, json.loads(visitor.received))

    def _register(self, visitor: _Visitor, said: Mapping[str, Any]) -> None:
        rank, count, news = int(said["rank"]), int(said["count"]), said["news"]
        known = {other.rank: other.address for other in self._visitors.values()}
        visitor.rank = rank
        if count != self._machines.count:
            raise DeviceError(
                f"machine 0 was started for {self._machines.count} machines, and machine {rank} "
                f"at {visitor.address} for {count}; give --nnodes the same value on all"
            )
        if rank in self._told:
            raise DeviceError(
                f"two machines have number {rank}: {known.get(rank, 'this one')} and "
                f"{visitor.address}; give each a --node-rank of its own"
            )
        self._told[rank] = news
        self._last = time.monotonic()

    def _forget(self, visitor: _Visitor) -> None:
        del self._visitors[visitor.connection.fileno()]
        visitor.connection.close()
        if visitor.rank is not None:
            del self._told[visitor.rank]  # it may come again

    def _say(self, words: Mapping[str, Any], ranks: Collection[int] | None = None) -> None:
        """Tell some of those that have come, or all."""
        line = json.dumps(words).encode() + b"\n"
        for visitor in self._visitors.values():
            if visitor.rank is not None and (ranks is None or visitor.rank in ranks):
                with suppress(OSError):
                    visitor.connection.settimeout(CONNECT_S)
                    visitor.connection.sendall(line)

    def _see_off(self) -> None:
        """Let the others hang up first, so that nothing of this keeps the port."""
        for visitor in self._visitors.values():
            if visitor.rank is not None:
                with suppress(OSError):
                    visitor.connection.recv(1)

    def _hang_up(self) -> None:
        for visitor in self._visitors.values():
            with suppress(OSError):
                visitor.connection.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
            visitor.connection.close()


def _check_own(machines: Machines) -> None:
    if not network.is_own(machines.host):
        own = ", ".join(
            f"{address} ({name})" for name, address in network.interfaces() if name != "lo"
        )
        raise DeviceError(
            f"{machines.host} is not an address of this machine, which has {own or 'none'}; "
            "the machine with --node-rank 0 is the one that --rdzv names on all of them"
        )
    address = network.address_towards(machines.host)
    if machines.several and network.only_here(machines.host, address):
        raise DeviceError(
            f"{machines.host} is {address} on this machine, where no other one reaches it "
            "(/etc/hosts may say so); give --rdzv an address of machine 0 that all reach"
        )


def _plain(address: str) -> str:
    """Write an IPv4 address that has come over an IPv6 socket as what it is."""
    return address.removeprefix("::ffff:")


def _receive(connection: socket.socket) -> bytes:
    try:
        return connection.recv(1 << 16)
    except OSError:
        return b""


def _listen(machines: Machines, port: int) -> socket.socket:
    """Listen at a port, once an earlier attempt has left it.

    Raises:
        DeviceError: Somebody else does.
    """
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    deadline = time.monotonic() + FREED_S
    while True:
        try:
            return socket.create_server(("", port), family=family, dualstack_ipv6=both)
        except OSError as error:
            if time.monotonic() > deadline:
                raise DeviceError(
                    f"port {port} of {machines.host} is taken by "
                    f"{network.listener(port) or 'another process'}, so the machines cannot meet "
                    f"there ({error.strerror}); end it, or choose another port with --rdzv, the "
                    "same on all machines"
                ) from error
        time.sleep(RETRY_S)

"""Where the machines of a run meet, before each attempt and before their launchers do.

Machine 0 listens at the meeting point until the others have come, then all leave and start their
launchers, which meet at the same place. So nothing of an attempt that has failed is left on any
machine when the next one begins (an old process would take a place in it), a machine that is
missing is named, and what the machines tell each other is known to all.

The one who listens speaks first: a launcher's store that is found there in place of it says
nothing, and does not mind a caller who says nothing either.
"""

from __future__ import annotations

import json
import socket
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, final

from runner.distributed.meeting import host, network
from runner.distributed.meeting.host import GREETING, LONGEST, Host, NotNeededError, Patience
from runner.errors import DeviceError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from runner.distributed.machines import Machines
    from runner.distributed.supervising.elastic import Choice


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Meeting:
    """Who takes part, and what they told."""

    machines: Machines
    """This machine among those that take part: their number, the place of this one, its address
    and interface."""
    devices: int
    """Devices that each of them works with."""
    told: tuple[Mapping[str, Any], ...] = ()
    """What each of them told, in their order (JSON)."""


def meet(
    machines: Machines,
    seconds: float,
    news: Mapping[str, Any],
    report: Callable[[str], None],
    choose: Callable[[Mapping[int, Mapping[str, Any]]], Choice],
) -> Meeting:
    """Wait until the machines have come together.

    Where the run may go on with fewer machines, it begins without those that have not come
    ``host.LAST_CALL_S`` after the last one, and machine 0 may leave out some that have.

    Args:
        machines: All machines, as the command line names them.
        seconds: How long to wait.
        news: What the others are to know (JSON).
        report: Learns what is waited for.
        choose: Chooses on machine 0, from what each of those that have come has told, which of them
            take part.

    Raises:
        DeviceError: They have not met in this time, the host is another machine, its port is taken,
            two machines have the same number, or nothing can be chosen.
        NotNeededError: This machine does not take part.
    """
    if machines.port is None:
        return Meeting(machines=machines, devices=choose({0: news}).devices, told=(news,))
    patience = Patience(seconds, report)
    if machines.rank == 0:
        told, devices = Host(machines, machines.port, news, patience).wait(choose)
    else:
        told, devices = _visit(machines, machines.port, news, patience)
    ranks = sorted(told)
    address = network.address_towards(machines.host)
    return Meeting(
        machines=replace(
            machines,
            count=len(ranks),
            least=None,
            rank=ranks.index(machines.rank),
            address=address,
            interface=network.interface_of(address),
        ),
        devices=devices,
        told=tuple(told[rank] for rank in ranks),
    )


def _visit(
    machines: Machines, port: int, news: Mapping[str, Any], patience: Patience
) -> tuple[Mapping[int, Mapping[str, Any]], int]:
    """Come to machine 0, wait with it for the others, and return what it says of those chosen."""
    introduction = {"rank": machines.rank, "count": machines.count, "news": news}
    reason = ""
    while patience.left > 0:
        try:
            answer = _call(machines, port, introduction, patience)
        except OSError as error:
            reason = error.strerror or str(error)
            patience.tell(
                f"waiting for machine 0 at {machines.endpoint}, up to {patience.seconds:.0f} s: "
                f"{reason}"
            )
            time.sleep(host.RETRY_S)
            continue
        if "error" in answer:
            raise (DeviceError if answer["needed"] else NotNeededError)(answer["error"])
        return {int(rank): told for rank, told in answer["told"].items()}, answer["devices"]
    raise DeviceError(_unreachable(machines, patience.seconds, reason))


def _call(
    machines: Machines, port: int, introduction: Mapping[str, Any], patience: Patience
) -> dict[str, Any]:
    """Return what machine 0 says once all are there.

    Raises:
        OSError: It does not answer, or somebody else does.
    """
    with socket.create_connection((machines.host, port), host.CONNECT_S) as connection:
        if connection.getsockname() == connection.getpeername():
            raise ConnectionRefusedError("Connection refused")  # it has met itself
        file = connection.makefile("rb")
        if file.readline(len(GREETING)) != GREETING:
            raise ConnectionError("who answers there is not waiting for machines")
        connection.sendall(json.dumps(introduction).encode() + b"\n")
        patience.tell(f"machine 0 is at {machines.endpoint}; waiting for the others")
        # machine 0 knows who is missing when its time is over, so it is the one to say so
        connection.settimeout(patience.seconds + host.CONNECT_S)
        line = file.readline(LONGEST * machines.count)
        if not line.endswith(b"\n"):
            raise ConnectionResetError("machine 0 has hung up")
        answer: dict[str, Any] = json.loads(line)
        return answer


def _unreachable(machines: Machines, seconds: float, reason: str) -> str:
    place = ""
    with suppress(DeviceError):
        if network.is_own(machines.host):
            place = f" ({machines.host} is an address of this machine itself)"
    return (
        f"machine {machines.rank} has not met the others at {machines.endpoint}{place} within "
        f"{seconds:g} s: {reason}; check that the same command runs on machine 0, with "
        f"--node-rank 0, that {machines.host} is its address, and that no firewall keeps port "
        f"{machines.port} closed"
    )

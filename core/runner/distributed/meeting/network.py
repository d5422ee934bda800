"""What this machine knows of its network: addresses, interfaces, and who listens at a port."""

from __future__ import annotations

import fcntl
import ipaddress
import socket
import struct
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from runner.errors import DeviceError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from runner.distributed.machines import Machines
    from runner.entries import DeviceEntry

SIOCGIFADDR = 0x8915  # linux/sockios.h
LISTENS = "0A"  # TCP_LISTEN of net/tcp_states.h


def environment(
    entry: DeviceEntry, machines: Machines, environ: Mapping[str, str]
) -> Mapping[str, str]:
    """Return what a device's library must know of the network and the user has not set."""
    if not machines.several:
        return {}
    wanted = {
        **dict.fromkeys(entry.interface_variables, machines.interface),
        **dict.fromkeys(entry.address_variables, machines.address),
    }
    return {name: value for name, value in wanted.items() if value and name not in environ}


def address_towards(host: str) -> str:
    """Return the address of this machine that packets to a host come from. Sends none.

    Raises:
        DeviceError: The host is not known, or there is no way to it.
    """
    error: OSError | None = None
    for family, where in addresses(host):
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect((where, 9))
            except OSError as failed:
                error = failed
                continue
            return str(probe.getsockname()[0])
    raise DeviceError(
        f"this machine has no way to {host}: {error}; check its network, or name another address "
        "of machine 0 with --rdzv"
    )


def only_here(host: str, address: str) -> bool:
    """Return whether a host's name stands for an address that leads back to the machine itself.

    Who writes such an address, or ``localhost``, means it.
    """
    own = ipaddress.ip_address(address.partition("%")[0])
    return own.is_loopback and host not in {address, "localhost"}


def interface_of(address: str) -> str:
    """Return the network interface that has an address; "" if it is not found."""
    return next((name for name, own in interfaces() if own == address), "")


def interfaces() -> Iterator[tuple[str, str]]:
    """Yield the network interfaces of this machine, each with an address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            with suppress(OSError):  # it has none
                asked = struct.pack("256s", name.encode()[:15])
                answer = fcntl.ioctl(probe.fileno(), SIOCGIFADDR, asked)
                yield name, socket.inet_ntoa(answer[20:24])
    with suppress(OSError):
        for line in Path("/proc/net/if_inet6").read_text(encoding="ascii").splitlines():
            digits, *_, name = line.split()
            yield name, str(ipaddress.IPv6Address(bytes.fromhex(digits)))


def listener(port: int) -> str | None:
    """Name the process that listens at a port, as far as ``/proc`` tells."""
    sockets = {f"socket:[{inode}]" for inode in _listening(port)}
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            if str(descriptor.readlink()) in sockets:
                process = descriptor.parents[1]
                words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode().split()
                return f"process {process.name} ({' '.join(words)[:100]})"
    return None


def _listening(port: int) -> Iterator[str]:
    """Yield the inodes of the sockets that listen at a port."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(OSError):
            for line in Path(table).read_text(encoding="ascii").splitlines()[1:]:
                _, local, _, state, *rest = line.split()
                if state == LISTENS and int(local.rpartition(":")[2], 16) == port:
                    yield rest[5]


def addresses(host: str) -> list[tuple[socket.AddressFamily, str]]:
    """Return the addresses of a host, the preferred one first.

    Raises:
        DeviceError: It is not known.
    """
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:  # of the resolver, and of names that are none
        raise DeviceError(
            f"the address of {host} is not known here: {error.strerror or error}; "
            "give --rdzv a name that all machines know, or the address of machine 0"
        ) from error
    return [(family, str(where[0])) for family, _, _, _, where in found]


def is_own(host: str) -> bool:
    """Return whether a host is this machine.

    Raises:
        DeviceError: It is not known.
    """
    for family, where in addresses(host):
        with socket.socket(family) as probe, suppress(OSError):
            probe.bind((where, 0))
            return True
    return False

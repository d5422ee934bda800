"""Rank tables: files that tell HCCL which process has which Ascend card on which server.

The form is that of ``hccl_tools``: version, servers with their cards, and a status. All numbers
are strings. ``python -m runner_mindspore.rank_table --help`` writes tables.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from runner.errors import RunnerError, UsageError
from runner.storage import files
from runner.terminal import display, streams
from runner.terminal.display import counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

CARDS = 8
"""Ascend 910 cards of a server. Their links form two rings, 0 to 3 and 4 to 7."""
ADDRESS = re.compile(r"^address_(\d+)\s*=\s*(\S+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One card, and the process that works on it."""

    device_id: str
    device_ip: str
    """Address of the card's own network interface."""
    rank_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One machine."""

    server_id: str
    """Address of the machine."""
    device: list[Card]
    host_nic_ip: str = "reserve"


@dataclass(frozen=True, slots=True, kw_only=True)
class RankTable:
    """What a rank table file holds."""

    version: Literal["1.0"] = "1.0"
    server_count: str
    server_list: list[Server]
    status: Literal["completed"] = "completed"

    @property
    def ranks(self) -> list[tuple[str, Card]]:
        """Address of the server and card of each process, by rank."""
        cards = [(server.server_id, card) for server in self.server_list for card in server.device]
        return sorted(cards, key=lambda item: int(item[1].rank_id))

    @property
    def file_name(self) -> str:
        """Name that ``hccl_tools`` gives such a file."""
        if len(self.server_list) > 1:
            return f"hccl_{self.server_count}s_{len(self.ranks)}p.json"
        ids = "".join(card.device_id for _, card in self.ranks)
        return f"hccl_{len(self.ranks)}p_{ids}_{self.server_list[0].server_id}.json"


def read(path: Path) -> RankTable:
    """Read a rank table and check it.

    Raises:
        UsageError: There is no such file, or it is not a complete table; names file and key.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        table = TypeAdapter(RankTable).validate_json(path.read_bytes(), strict=True)
    except OSError as error:
        raise UsageError(
            f"cannot read rank table {path}: {error.strerror}; "
            "python -m runner_mindspore.rank_table --help tells how to write one"
        ) from error
    except ValidationError as error:
        problems = [
            f"{path}: {'.'.join(map(str, item['loc'])) or 'file'}: {item['msg']}"
            + ("" if isinstance(item["input"], dict | list) else f", found {item['input']!r}")
            for item in error.errors()
        ]
        raise UsageError("\n".join(problems)) from error
    _check_counts(path, table)
    return table


def _check_counts(path: Path, table: RankTable) -> None:
    if table.server_count != str(len(table.server_list)):
        raise UsageError(
            f"{path}: server_count: found {table.server_count!r}, but server_list has "
            f"{len(table.server_list)} servers; expected '{len(table.server_list)}'"
        )
    found = Counter(card.rank_id for server in table.server_list for card in server.device)
    expected = Counter(str(rank) for rank in range(found.total()))
    if found != expected or not found:
        missing, other = ", ".join(expected - found), ", ".join(found - expected)
        raise UsageError(
            f"{path}: server_list.*.device.*.rank_id: expected each number from 0 up once for "
            f"{counted(found.total(), 'device')}; missing: {missing or 'none'}; "
            f"repeated or unexpected: {other or 'none'}"
        )


def make(server: str, devices: Sequence[int], addresses: Mapping[int, str]) -> RankTable:
    """Make the table of one server.

    Args:
        server: Address of the machine.
        devices: Numbers of its cards.
        addresses: Address of each card's network interface, by the card's number.

    Raises:
        UsageError: The cards are not linked with each other, or one has no address.
    """
    first, last = min(devices), max(devices)
    contiguous = list(devices) == list(range(first, last + 1))
    one_ring = first // (CARDS // 2) == last // (CARDS // 2) and last < CARDS
    if not contiguous or not (one_ring or len(devices) == CARDS == last + 1):
        raise UsageError(
            f"cards {', '.join(map(str, devices))} cannot work together; "
            "choose neighbours from 0 to 3 or from 4 to 7, or all of 0-7"
        )
    if missing := [device for device in devices if device not in addresses]:
        raise UsageError(
            f"no address known for cards {', '.join(map(str, missing))}; the file given with "
            "--addresses needs a line such as address_0=192.168.100.101 for each"
        )
    cards = [
        Card(device_id=str(device), device_ip=addresses[device], rank_id=str(rank))
        for rank, device in enumerate(devices)
    ]
    return RankTable(server_count="1", server_list=[Server(server_id=server, device=cards)])


def merge(tables: Iterable[RankTable]) -> RankTable:
    """Put the servers of several tables into one, numbering the processes in their order.

    Raises:
        UsageError: A server appears twice.
    """
    servers: list[Server] = []
    rank = 0
    for server in (server for table in tables for server in table.server_list):
        if server.server_id in {known.server_id for known in servers}:
            raise UsageError(f"server {server.server_id} is in two of the tables; name each once")
        cards = [replace(card, rank_id=str(rank + i)) for i, card in enumerate(server.device)]
        servers.append(replace(server, device=cards))
        rank += len(cards)
    return RankTable(server_count=str(len(servers)), server_list=servers)


def read_addresses(path: Path) -> dict[int, str]:
    """Read the addresses of cards from a file like ``/etc/hccn.conf``.

    Raises:
        UsageError: It cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"cannot read {path}: {error.strerror}; name the file with the cards' addresses, "
            "lines such as address_0=192.168.100.101, with --addresses"
        ) from error
    return {int(device): address for device, address in ADDRESS.findall(text)}


def write(table: RankTable, folder: Path) -> Path:
    """Write a table under its usual name and return the path."""
    path = folder / table.file_name
    files.write_json(path, asdict(table))
    return path


def _devices(text: str) -> list[int]:
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m runner_mindspore.rank_table",
        description="Write rank tables for training with MindSpore on Ascend cards.",
    )
    commands = parser.add_subparsers(required=True, dest="command")
    one = commands.add_parser("make", help="write the table of one server")
    one.add_argument("--server", required=True, help="address of the server")
    one.add_argument("--devices", type=_devices, default="0-7", help="cards, such as 0-7 or 0,2,4")
    one.add_argument(
        "--addresses",
        type=Path,
        default="/etc/hccn.conf",
        help="file with the address of each card, lines such as address_0=192.168.100.101",
    )
    several = commands.add_parser("merge", help="put the tables of several servers into one")
    several.add_argument("tables", type=Path, nargs="+", help="in the order of the ranks")
    for command in (one, several):
        command.add_argument("--folder", type=Path, default=".", help="where the table is written")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the table that the command line asks for, print its path, return the exit code."""
    asked = _parser().parse_args(arguments)
    try:
        if asked.command == "make":
            table = make(asked.server, asked.devices, read_addresses(asked.addresses))
        else:
            table = merge(read(path) for path in asked.tables)
        streams.deliver_text(str(write(table, asked.folder)))
    except RunnerError as error:
        streams.say(display.message(error, "error: "))
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())

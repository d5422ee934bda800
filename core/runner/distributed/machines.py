"""The machines that a run is spread over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from runner.errors import UsageError
from runner.terminal.display import counted

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Machines:
    """How many machines work together, which one this is, and where they meet.

    Every machine runs the same command, each with its own number; the processes on it are started
    there.
    """

    count: int = 1
    least: int | None = None
    """Machines that the run may go on with when others are lost; ``None`` if it needs all."""
    rank: int = 0
    """Number of this machine, from 0. The first one's processes have the first ranks."""
    host: str = "127.0.0.1"
    """Name or address of machine 0, where all meet."""
    port: int | None = None
    """Port there; a free one where the run has one machine."""
    address: str = "127.0.0.1"
    """Address of this machine towards the others."""
    interface: str = ""
    """Network interface that has this address; "" if it is not known."""

    @property
    def several(self) -> bool:
        """Whether there are others."""
        return self.count > 1

    @property
    def elastic(self) -> bool:
        """Whether the run goes on when machines are lost."""
        return self.least is not None and self.least < self.count

    @property
    def endpoint(self) -> str:
        """Where all meet, as ``host:port``."""
        return endpoint(self.host, self.port)

    def share(self, devices: int) -> int:
        """Return how many of a run's devices are on each machine.

        Raises:
            UsageError: They are not the same number on each.
        """
        if devices % self.count:
            below = devices // self.count * self.count
            choices = [str(n) for n in (below, below + self.count) if n]
            raise UsageError(
                f"{counted(devices, 'device')} on {self.count} machines are not the same number "
                "on each; --devices counts those of all machines together: use "
                f"{' or '.join(choices)}"
            )
        return devices // self.count


def endpoint(host: str, port: int | None) -> str:
    """Write a meeting point as ``host:port``, with brackets around an address with colons."""
    name = f"[{host}]" if ":" in host else host
    return f"{name}:{port or 0}"


def as_machine(arguments: Sequence[str], rank: int) -> list[str]:
    """Return the arguments of ``runner`` with the number of another machine."""
    kept, words = [], iter(arguments)
    for word in words:
        if word == "--node-rank":
            next(words, None)
        elif not word.startswith("--node-rank="):
            kept.append(word)
    return [*kept, "--node-rank", str(rank)]

"""The machines that a run is spread over."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Machines:
    """How many machines work together, which one this is, and where they meet.

    Every machine runs the same command, each with its own number; the processes on it are started
    there.
    """

    count: int = 1
    least: int = 1
    """Machines that the run may go on with when others are lost; ``count`` unless the user says."""
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

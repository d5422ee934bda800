"""What the processes of one attempt have told so far, put together."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from runner.distributed.reporting import channel
from runner.distributed.supervising.failures import Failure
from runner.distributed.supervising.processes import how_ended

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runner.distributed.reporting.channel import Note


@final
@dataclass(slots=True, kw_only=True, eq=False)
class Process:
    """One process."""

    number: int
    """Of the operating system."""
    log: Path | None = None
    """What its standard error goes to; ``None`` if that is no file."""
    local_rank: int | None = None
    """Among those of its machine; ``None`` if it is not known."""
    rank: int | None = None
    """``None`` until all have met."""
    host: str = ""
    since: float
    """``time.monotonic()`` when it was first heard of, and when it had met the others."""
    done: bool = False
    left: Mapping[str, Any] | None = None
    """What it has told when it left."""


@final
class Told:
    """Reads the status file as it grows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = 0
        self.processes: dict[int, Process] = {}
        """Those that have begun, in this order."""
        self.folder: Path | None = None
        self.checkpoint: Path | None = None
        self.left: list[Process] = []
        """Those that have told why they leave, in this order."""
        self.result: dict[str, Any] | None = None

    @property
    def ranks(self) -> dict[int, Process]:
        """Those that have met, by rank, the lowest first."""
        met = {p.rank: p for p in self.processes.values() if p.rank is not None}
        return dict(sorted(met.items()))

    def works(self, process: Process) -> bool:
        """Return whether the others need a process, which has not left."""
        return process.left is None and not process.done

    def owes(self, process: Process) -> bool:
        """Return whether an end of a process would be one that it has not explained."""
        exports = process.rank == 0 and process.done and self.result is None
        return self.works(process) or (exports and process.left is None)

    def update(self) -> list[Process]:
        """Read what is new, and return the processes that now leave."""
        before = len(self.left)
        for note in channel.read(self._path, self._position):
            self._position = note.end
            self._take(note)
        return self.left[before:]

    def _take(self, note: Note) -> None:
        now, fields = time.monotonic(), note.fields
        new = Process(number=note.process, since=now)
        process = self.processes.setdefault(note.process, new)
        if note.what == "begun":
            process.log = Path(fields["log"]) if fields["log"] else None
            process.local_rank = fields["local_rank"]
        elif note.what == "met":
            process.rank, process.host, process.since = fields["rank"], fields["host"], now
        elif note.what == "done":
            process.done = True
        elif note.what == "left":
            process.left = fields
            self.left.append(process)
        elif note.what == "result":
            self.result = fields["result"]
        elif note.what == "folder":
            self.folder = Path(fields["path"])
        elif note.what == "checkpoint":
            self.checkpoint = Path(fields["path"])


def may_only_help(process: Process) -> bool:
    """Return whether a process may be one that only helps the others to meet."""
    return process.rank is None and process.local_rank is None


def own_words(process: Process) -> Failure:
    """Return why a process has left, as it has told."""
    assert process.left is not None, "it has told why it leaves"
    left = process.left
    return Failure(
        reason=left["reason"],
        words=True,
        rank=process.rank,
        host=process.host,
        log=str(process.log) if process.log else None,
        code=left["code"],
        again=left["again"],
        follows=left["follows"],
        agreed=left["agreed"],
    )


def silent_end(process: Process, code: int | None) -> Failure:
    """Return how a process has ended that has told nothing.

    Args:
        process: The process.
        code: Its status, or the negative number of a signal; ``None`` if that is not known.
    """
    return Failure(
        reason=how_ended(code),
        process=process.number,
        rank=process.rank,
        host=process.host,
        log=str(process.log) if process.log else None,
        ask_log=True,
        # what fails before it can tell so, such as an import, would fail again
        again=process.rank is not None or code is None or code < 0,
        lost=[] if process.rank is None else [process.rank],
    )

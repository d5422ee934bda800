"""Why an attempt has failed: on this machine, and as the other machines tell.

Each machine knows its own processes. When another one is lost, all that they see is an exchange
that fails. So who has started them writes why an attempt has failed into a file that all machines
see, one JSON object on a line, and looks there for what the others have met. What belongs to one
attempt has the number that the machines have agreed on before it.
"""

from __future__ import annotations

import fcntl
import json
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, final

from runner.errors import OtherRankError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

FILE = "failures.jsonl"
"""Its name, in the folder of what processes print and in that of the run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """How an attempt has failed."""

    reason: str
    """What has happened to a process, as after its name: ``was killed``; or its own words."""
    words: bool = False
    """Whether the reason is the process's own words."""
    rank: int | None = None
    """The process; ``None`` if it had no rank yet, or if it is not one alone."""
    process: int | None = None
    """Its number in the operating system, where it has said nothing."""
    host: str = ""
    """Its machine."""
    log: str | None = None
    """What it has printed."""
    ask_log: bool = False
    """Whether the end of that may tell more than the reason."""
    code: int = OtherRankError.exit_code
    """The exit status that it asks for."""
    again: bool = True
    """Whether another attempt may succeed."""
    follows: bool = False
    """What has happened first is not known here: another process was lost before."""
    agreed: bool = False
    """All processes have left together for this reason."""
    lost: Sequence[int] = ()
    """Ranks whose devices the next attempt leaves out, where it may."""
    marks: int | None = None
    """Steps of the process that has taken the fewest on its machine, where that tells which machine
    the others wait for."""
    hangs: Failure | None = None
    """What has happened first, if that process is behind those of all other machines."""
    differs: bool = False
    """Whether it is elsewhere in its program than the others of its machine."""

    def __str__(self) -> str:
        """Say which process has failed, and why."""
        if self.agreed or (self.words and self.rank is None):
            return self.reason
        who = "a process" if self.rank is None else f"rank {self.rank}"
        place = f" on {self.host}" if self.host else ""
        return f"{who}{place}{':' if self.words else ''} {self.reason}"


@final
class Failures:
    """The failures of one attempt on all machines."""

    def __init__(self, file: Path, attempt: str, machine: int) -> None:
        """Prepare to write and read.

        Args:
            file: A file that all machines see.
            attempt: What they call this attempt, and no other.
            machine: Number of this machine.
        """
        self._file = file
        self._attempt = attempt
        self._machine = machine

    def write(self, failure: Failure) -> None:
        """Tell the other machines; where the file cannot be written, they are not told."""
        record = {
            "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
            "attempt": self._attempt,
            "machine": self._machine,
            **asdict(failure),
        }
        with suppress(OSError), self._file.open("ab", buffering=0) as file:
            with suppress(OSError):  # some network file systems have no locks
                fcntl.lockf(file, fcntl.LOCK_EX)
            file.write((json.dumps(record) + "\n").encode())

    def first(self) -> Failure | None:
        """Return the first failure of any machine that follows from no other."""
        return next((failure for _, failure in self._read() if not failure.follows), None)

    def of_others(self) -> Failure | None:
        """Return the first such failure of another machine."""
        for machine, failure in self._read():
            if machine != self._machine and not failure.follows:
                return failure
        return None

    def furthest_behind(self) -> Failure | None:
        """Return what hangs on the one machine whose processes are behind those of the others."""
        told = {machine: found for machine, found in self._read() if found.marks is not None}
        marks = [found.marks for found in told.values() if found.marks is not None]
        behind = [found for found in told.values() if found.marks == min(marks)]
        if len(told) > 1 < len(behind):  # as many steps: where one alone has one that differs
            behind = [found for found in behind if found.differs]
        return behind[0].hangs if len(told) > 1 == len(behind) else None

    def _read(self) -> Iterator[tuple[int, Failure]]:
        try:
            lines = self._file.read_text(encoding="utf-8").splitlines()
        except OSError:
            return
        for line in lines:
            with suppress(ValueError):  # another machine may be writing it
                record = json.loads(line)
                if record["attempt"] == self._attempt:
                    yield record["machine"], _failure(record)


def _failure(record: Mapping[str, Any]) -> Failure:
    failure = Failure(**{field.name: record[field.name] for field in fields(Failure)})
    return replace(failure, hangs=_failure(record["hangs"])) if record["hangs"] else failure

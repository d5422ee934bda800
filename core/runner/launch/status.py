"""What the processes of a run tell the process that has started them.

Launchers differ in what they make of a signal (``msrun`` kills its processes at once) and of an
exit status (it kills the others, and waits for them), and print what they like, so all of this
passes them by. ``RUNNER_LAUNCH_STATUS`` names a file to which every process appends JSON, one
object on a line, with its own process number and:

    begun       the file that its standard error goes to, if it is one
    met         its rank and its host, once all have met
    folder      the run folder, from every rank
    checkpoint  a checkpoint that rank 0 has written
    done        its rank: the others no longer need it
    left        its rank, if known, why it leaves, the exit status that this asks for, and whether
                it is worth to start again
    result      the result of the run, from rank 0

Where the variable is not set, nobody has to be told.
"""

from __future__ import annotations

import json
import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

STATUS = "RUNNER_LAUNCH_STATUS"
CONTINUE = "RUNNER_LAUNCH_CONTINUE"
"""Names the run folder, or the checkpoint, that the processes of a further attempt go on from."""


def is_watched() -> bool:
    """Say whether another process of ``runner`` has started this one, and waits for it."""
    return STATUS in os.environ


def to_continue() -> str:
    """Return what this attempt goes on from, a run folder or a checkpoint; "" if it is the first.

    Only some of the machines may know it.
    """
    return os.environ.get(CONTINUE, "")


def tell_begun() -> None:
    """Tell that this process begins, and where its output goes."""
    _tell("begun", log=_output())


def tell_met(rank: int) -> None:
    """Tell which rank this process has."""
    _tell("met", rank=rank, host=socket.gethostname())


def tell_folder(folder: Path) -> None:
    """Tell the run folder."""
    _tell("folder", path=str(folder.absolute()))


def tell_checkpoint(path: Path) -> None:
    """Tell that a checkpoint is complete."""
    _tell("checkpoint", path=str(path.absolute()))


def tell_done(rank: int) -> None:
    """Tell that the others no longer need this process."""
    _tell("done", rank=rank)


def tell_left(rank: int | None, code: int, reason: str, *, again: bool) -> None:
    """Tell why this process leaves before the end.

    Args:
        rank: Its rank; ``None`` before all have met.
        code: The exit status that this asks for.
        reason: A line for people.
        again: Whether the next attempt may succeed: another process was lost, or this one broke
            in a way that nobody has foreseen.
    """
    _tell("left", rank=rank, code=code, reason=reason, again=again)


def hand_over(result: dict[str, Any] | None) -> dict[str, Any] | None:
    """Give the result to who started this process; return it where nobody has."""
    if result is None or not is_watched():
        return result
    _tell("result", result=result)
    return None


def status_together(code: int) -> int:
    """Return the status that a process ends with where all end together, for this reason.

    It is 0 where somebody has been told: after another one, a launcher would kill the processes
    that end a little later.
    """
    return 0 if is_watched() else code


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """One line of the file."""

    what: str
    process: int
    fields: Mapping[str, Any]


def read(path: Path) -> Iterator[Note]:
    """Yield what the processes have told so far; a line that is still being written waits."""
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            fields = json.loads(line)
            yield Note(what=fields.pop("what"), process=fields.pop("process"), fields=fields)


def _output() -> str | None:
    """Return the file that standard error goes to."""
    with suppress(OSError):
        path = Path("/proc/self/fd/2").resolve()
        if path.is_file():
            return str(path)
    return None


def _tell(what: str, **fields: object) -> None:
    path = os.environ.get(STATUS)
    if path:
        # One write of one line: those of several processes do not mix.
        line = json.dumps({"what": what, "process": os.getpid(), **fields}) + "\n"
        with suppress(OSError), Path(path).open("ab", buffering=0) as file:
            file.write(line.encode())

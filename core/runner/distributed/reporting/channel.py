"""What the processes of a run tell the process that has started them.

Launchers differ in what they make of a signal (``msrun`` kills its processes at once) and of an
exit status (it kills the others, and waits for them), and print what they like, so all of this
passes them by. ``RUNNER_LAUNCH_STATUS`` names a file to which every process appends JSON, one
object on a line, with its own process number and:

    begun       the file that its standard error goes to, if it is one, and its number among the
                processes of its machine; none in a process that only helps the others to meet
    met         its rank and its host, once all have met
    folder      the run folder, from every rank
    checkpoint  a checkpoint that rank 0 has written
    done        its rank: the others no longer need it
    left        its rank, if known, why it leaves, the exit status that this asks for, whether it
                is worth to start again, whether it leaves because another process is gone, and
                whether all have agreed to leave
    result      the result of the run, from rank 0

Who started the processes prints an error that a process has met on its own, or before all have
met, from what this tells; one that all have agreed on is printed by rank 0.

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
RESTARTED = "RUNNER_LAUNCH_RESTARTED"
"""Fields of the event ``run.restarted`` (JSON), which has led to this attempt."""

LOCAL_COUNT = "RUNNER_LAUNCH_LOCAL_COUNT"
"""How many processes this machine has."""


def is_watched() -> bool:
    """Say whether another process of ``runner`` has started this one, and waits for it."""
    return STATUS in os.environ


def to_continue() -> str:
    """Return what this attempt goes on from, a run folder or a checkpoint; "" if it is the first.

    Only some of the machines may know it.
    """
    return os.environ.get(CONTINUE, "")


def local_count() -> int | None:
    """Return how many processes this machine has; ``None`` if nobody tells."""
    text = os.environ.get(LOCAL_COUNT)
    return int(text) if text else None


def restarted() -> Mapping[str, Any] | None:
    """Return the fields of the event ``run.restarted``, for the run's log; ``None`` at first.

    Who started the processes has printed it.
    """
    text = os.environ.get(RESTARTED)
    return json.loads(text) if text else None


def tell_begun(local_rank: int | None = None) -> None:
    """Tell that this process begins, and where its output goes.

    Args:
        local_rank: Its number among the processes of its machine; ``None`` if it only helps.
    """
    _tell("begun", log=_output(), local_rank=local_rank)


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


def tell_left(
    rank: int | None,
    code: int,
    reason: str,
    *,
    again: bool,
    follows: bool = False,
    agreed: bool = False,
) -> None:
    """Tell why this process leaves before the end.

    Args:
        rank: Its rank; ``None`` before all have met.
        code: The exit status that this asks for.
        reason: A line for people.
        again: Whether the next attempt may succeed: another process was lost, or this one broke
            in a way that nobody has foreseen.
        follows: Another process is gone, which is why this one leaves.
        agreed: All leave together for this reason, and rank 0 prints it.
    """
    _tell(
        "left",
        rank=rank,
        code=code,
        reason=reason,
        again=again,
        follows=follows,
        agreed=agreed,
    )


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
    end: int
    """Where the line ends in the file, in bytes."""


def read(path: Path, start: int = 0) -> Iterator[Note]:
    """Yield what the processes have told, from a position on; a line being written waits."""
    with path.open("rb") as file:
        file.seek(start)
        for line in file:
            if line.endswith(b"\n"):
                start += len(line)
                with suppress(ValueError):  # a full disk has cut the line before it
                    fields = json.loads(line)
                    what, process = fields.pop("what"), fields.pop("process")
                    yield Note(what=what, process=process, fields=fields, end=start)


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

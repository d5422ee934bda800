"""The channel from the processes of a run to the ``runner`` that started them.

Launchers treat signals differently (``msrun`` kills its processes at once) and exit statuses too
(it kills the others, and waits for them), and print what they like, so reports bypass them.
``RUNNER_LAUNCH_STATUS`` names a file to which every process appends JSON, one object per line, with
its own process number and:

    begun       the file that its standard error goes to, if it is one, and its number among the
                processes of its machine; none in a process that only helps the others to meet
    met         its rank and its host, once all have met
    folder      the run folder, from every rank
    checkpoint  a checkpoint that rank 0 has written
    done        its rank: the others no longer need it
    left        its rank, if known, why it leaves, the exit status that this asks for, whether it
                is worth starting again, whether it leaves because another process is gone, and
                whether all have agreed to leave
    result      the result of the run, from rank 0

The parent prints an error that one process met on its own, or before all had met; one that all have
agreed on is printed by rank 0. ``reporter`` writes these lines, ``supervising`` reads them.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

STATUS = "RUNNER_LAUNCH_STATUS"
"""Names the file. A process without this variable is watched by nobody."""
CONTINUE = "RUNNER_LAUNCH_CONTINUE"
"""Names the run folder, or the checkpoint, that a further attempt continues from."""
RESTARTED = "RUNNER_LAUNCH_RESTARTED"
"""Fields of the event ``run.restarted`` (JSON), which has led to this attempt."""
LOCAL_COUNT = "RUNNER_LAUNCH_LOCAL_COUNT"
"""How many processes this machine has."""
PARENT = "RUNNER_LAUNCH_STARTER"
"""Process number of the ``runner`` that started the launcher."""
SIGN = "RUNNER_LAUNCH_SIGN"
"""Names the file that shows the other machines that this one is alive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """One line of the file."""

    what: str
    process: int
    fields: Mapping[str, Any]
    end: int
    """Where the line ends in the file, in bytes."""


def read(path: Path, start: int = 0) -> Iterator[Note]:
    """Yield the lines from a position on; one that is still being written waits."""
    with path.open("rb") as file:
        file.seek(start)
        for line in file:
            if line.endswith(b"\n"):
                start += len(line)
                with suppress(ValueError):  # a full disk has cut the line before it
                    fields = json.loads(line)
                    what, process = fields.pop("what"), fields.pop("process")
                    yield Note(what=what, process=process, fields=fields, end=start)


def append(path: Path, what: str, fields: Mapping[str, object]) -> None:
    """Append a line in one write, so that those of several processes do not mix."""
    line = json.dumps({"what": what, "process": os.getpid(), **fields}) + "\n"
    with suppress(OSError), path.open("ab", buffering=0) as file:
        file.write(line.encode())


def marked(mark: frozenset[bytes]) -> Iterator[int]:
    """Find processes by variables of their environment: they may have left their session."""
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if mark <= set(path.read_bytes().split(b"\0")):
                yield int(path.parent.name)

"""Where a process is in its program, shown to its parent, whatever it waits for.

``faulthandler`` writes the stacks as the signal comes, also while the main thread is in a call that
does not return. Only a process that has made its file is asked: to others the signal would be the
end.
"""

from __future__ import annotations

import faulthandler
import os
import re
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

ASK = getattr(signal, "SIGRTMIN", 0) + 7
"""Of no meaning to anybody else; only Linux has such signals, and supervises processes."""
ANSWER_S = 5.0
"""Time in which a process answers, unless the kernel holds it."""
LOOK_S = 0.25
"""An answer that has not grown for so long is complete: nothing marks its end."""
_CALL = re.compile(r'  File "(.*)", line (\d+) in (.*)')


class Call(NamedTuple):
    """A function that has not returned, and where it is."""

    file: str
    line: str
    function: str

    def __str__(self) -> str:
        """Say it in a few words."""
        return f"{Path(self.file).name}:{self.line} in {self.function}"


def show_on_request(status: Path) -> None:
    """Let the parent ask where this process is; call it in the main thread.

    Where the file cannot be written, it cannot be asked.

    Args:
        status: The file in which processes report.
    """
    path = file_of(status, os.getpid())
    new = path.with_name(f"{path.name}.new")
    with suppress(OSError):
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(descriptor, f"main thread 0x{threading.get_ident():016x}\n".encode())
        faulthandler.register(ASK, file=descriptor, all_threads=True)
        new.rename(path)


def file_of(status: Path, process: int) -> Path:
    """Return the file that a process answers in, which is there once it does."""
    return status.with_name(f"stacks.{process}")


def ask(status: Path, processes: Iterable[int]) -> dict[int, str]:
    """Return the stacks of all threads of those processes that answer, the innermost call first.

    A process is asked once.
    """
    waiting: dict[int, int] = {}
    for process in processes:
        with suppress(OSError):  # it cannot be asked, or is gone
            waiting[process] = file_of(status, process).stat().st_size
            os.kill(process, ASK)
    unasked = dict(waiting)
    answers: dict[int, str] = {}
    deadline = time.monotonic() + ANSWER_S
    while waiting and time.monotonic() < deadline:
        time.sleep(LOOK_S)
        for process, before in list(waiting.items()):
            data = file_of(status, process).read_bytes()
            waiting[process] = len(data)
            if unasked[process] < len(data) == before:  # the answer is complete
                answers[process] = data.decode(errors="replace")
                del waiting[process]
    return answers


def main_thread(answer: str) -> Sequence[Call]:
    """Return the calls of the main thread, the innermost first; none of an empty answer."""
    if not answer:
        return []
    first, *threads = re.split(r"\n(?=(?:Current thread|Thread) 0x)", answer)
    own = [text for text in threads if first.split()[2] in text.partition("(")[0].split()]
    lines = own[0].splitlines() if own else []
    return [Call(*found.groups()) for found in map(_CALL.match, lines) if found]

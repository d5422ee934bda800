"""What the processes print: one of them on the console, as it happens, and each in its file."""

from __future__ import annotations

import codecs
import re
from pathlib import Path
from typing import final

from runner.system import limits
from runner.terminal import display, streams

TAIL_LINES = 20
TAIL_BYTES = 16_384
EXIT_CODE = re.compile(r"(?:exit|error) ?code\s*:?\s*(-?\d+)", re.IGNORECASE)
"""How a launcher, such as torchrun, writes what a process has ended with."""


@final
class Console:
    """Copies a file that grows to standard error."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._position = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    @property
    def path(self) -> Path | None:
        """The file; ``None`` until it is known."""
        return self._path

    def follow(self, path: Path) -> None:
        """Copy this file from its beginning."""
        self._path = path

    def copy(self) -> None:
        """Print what has been added to the file."""
        if self._path is None:
            return
        try:
            with self._path.open("rb") as file:
                file.seek(self._position)
                added = file.read()
        except OSError:
            return
        if added:
            self._position += len(added)
            streams.say(display.block(self._decoder.decode(added)), end="")


def show_tail(log: str | None) -> None:
    """Print the last lines of a file, if there are any."""
    lines = _lines(Path(log))[-TAIL_LINES:] if log else []
    if log and lines:
        streams.say(display.line(f"the last lines of {short(Path(log))}:"))
        streams.say("\n".join(f"  {display.line(line)}" for line in lines))


def limit(log: Path) -> str:
    """Name the limit that the last lines of a file are about; "" if they are about none."""
    return limits.explain("\n".join(_lines(log)[-TAIL_LINES:]))


def find_code(log: Path, process: int) -> int | None:
    """Return what a launcher's log says that a process has ended with; ``None`` if it does not."""
    own = re.compile(rf"\b{process}\b")
    for line in _lines(log):
        found = EXIT_CODE.search(line)
        if found and own.search(line):
            return int(found[1])
    return None


def first_code(log: Path) -> int | None:
    """Return what a launcher's log says that the first process that failed has ended with."""
    codes = (int(found[1]) for line in _lines(log) if (found := EXIT_CODE.search(line)))
    return next((code for code in codes if code), None)


def short(path: Path) -> Path:
    """Return a path as a user in this folder would write it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _lines(path: Path) -> list[str]:
    """Return the last of the lines of a file; none if there is no file."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - TAIL_BYTES))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return []
    return text.rstrip().splitlines()

"""Standard output and standard error of the command line.

Three things are printed, and they differ in what happens where nobody can take them (a terminal
that has hung up, a closed pipe or descriptor, a full disk):

    deliver    what a command was called for, on standard output: it fails with exit code 9
    show       a result that is in files as well, on standard output: it is left out
    say        what happens on the way, on standard error: it is left out

While plugins and libraries run, descriptor 1 is standard error: what they print there, from Python
or from C, never comes between a reader and the document.
"""

from __future__ import annotations

import io
import json
import os
import select
import sys
from typing import Any, final

from runner.errors import StorageError
from runner.terminal import display

STALLED_S = 10
"""How long a pipe that takes nothing, and does not block by itself, is waited for."""
_ASCII = {"ascii", "646", "ansi_x3.4-1968", "us-ascii"}
_UTF8_TRIED = "RUNNER_UTF8_MODE"

_document: _Stream | None = None
"""Standard output as it was when the process began; ``None`` where it is ``sys.stdout``."""


def take() -> None:
    """Make both streams safe, where they are those that the process began with.

    Descriptors that are closed are opened on the null device, so that no file gets their numbers.
    """
    global _document  # noqa: PLW0603  a process has one standard output
    if _document is not None or sys.stdout is not sys.__stdout__:
        return
    encoding = sys.stdout.encoding if sys.stdout else "utf-8"
    closed = _fill()
    _document = _Stream(os.dup(1), encoding, forgiving=False, closed=1 in closed)
    sys.stdout = _document
    sys.stderr = _Stream(2, sys.stderr.encoding if sys.stderr else encoding, forgiving=True)


def are_taken() -> bool:
    """Return whether this process is the command line, and no part of another program."""
    return _document is not None


def divert() -> None:
    """Let what is printed from now on by others than ``deliver`` and ``show`` go to stderr."""
    if _document is not None and sys.stdout is _document:
        os.dup2(2, 1)
        sys.stdout = _Stream(1, _document.encoding, forgiving=True)


def use_utf8() -> None:
    """Begin the process again in Python's UTF-8 mode where the locale knows no more than ASCII.

    There, file names would have other names in Python than elsewhere, and so would classes.
    """
    if sys.getfilesystemencoding().lower() not in _ASCII or _UTF8_TRIED in os.environ:
        return
    os.environ[_UTF8_TRIED] = "1"
    os.environ["PYTHONUTF8"] = "1"
    if sys.stdout and "PYTHONIOENCODING" not in os.environ:
        os.environ["PYTHONIOENCODING"] = f"{sys.stdout.encoding}:backslashreplace"
    os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])  # noqa: S606


def deliver(text: str) -> None:
    """Write what the command was called for to standard output.

    Args:
        text: All of it, as it is to appear; see ``display`` for what others have written.

    Raises:
        StorageError: Standard output does not take it.
    """
    out = _document or sys.stdout
    try:
        out.write(text)
        out.flush()
    except OSError as error:
        raise _refused(error) from error


def deliver_json(data: Any) -> None:
    """Write JSON, with exactly the texts that are in it.

    Raises:
        StorageError: Standard output does not take it.
    """
    deliver(json.dumps(data, indent=2) + "\n")


def deliver_text(text: str) -> None:
    """Write lines for people.

    Raises:
        StorageError: Standard output does not take them.
    """
    deliver(display.block(text) + "\n")


def show(text: str) -> None:
    """Write a line or several to standard output, if it takes them."""
    try:
        deliver_text(text)
    except StorageError:
        return


def say(text: str, end: str = "\n") -> None:
    """Write a line or several to standard error, if it takes them."""
    if sys.stderr is None:
        return
    try:
        sys.stderr.write(text + end)
        sys.stderr.flush()
    except (OSError, ValueError):  # ValueError: it is closed
        return


def say_bytes(text: bytes) -> None:
    """Write to descriptor 2, if it takes anything; no lock is needed, so a signal may do it."""
    try:
        os.write(2, text)
    except OSError:
        return


def is_terminal() -> bool:
    """Return whether standard output is a terminal."""
    return (_document or sys.stdout).isatty()


@final
class _Stream(io.TextIOWrapper):
    """Text to a descriptor, at once; what its encoding does not have is written as escapes."""

    def __init__(
        self, descriptor: int, encoding: str, *, forgiving: bool, closed: bool = False
    ) -> None:
        raw = _Descriptor(descriptor, forgiving=forgiving, closed=closed)
        super().__init__(raw, encoding, "backslashreplace", write_through=True)


@final
class _Descriptor(io.FileIO):
    """A descriptor that takes all or nothing."""

    def __init__(self, descriptor: int, *, forgiving: bool, closed: bool) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._forgiving = forgiving
        self._closed_before = closed

    def write(self, data: Any, /) -> int:
        """Write everything.

        Raises:
            StorageError: It cannot be written, and that is not forgiven.
        """
        view = memoryview(data).cast("B")
        try:
            if self._closed_before:
                raise OSError("it is closed")
            self._write_all(view)
        except OSError as error:
            if not self._forgiving:
                raise _refused(error) from error
        return len(view)

    def _write_all(self, view: memoryview) -> None:
        while view:
            written: int | None = super().write(view)
            if written is None and not select.select([], [self.fileno()], [], STALLED_S)[1]:
                raise OSError("nothing reads it")
            view = view[written or 0 :]


def _refused(error: OSError) -> StorageError:
    return StorageError(
        f"cannot write to standard output: {error.strerror or error}; "
        "connect it to a terminal, a file or a program that reads it"
    )


def _fill() -> set[int]:
    """Open the null device where one of the three descriptors is closed, and return which were."""
    closed = set()
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            closed.add(descriptor)
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    return closed

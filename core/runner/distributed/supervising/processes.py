"""Processes as the kernel shows them: starting a launcher, noticing ends, and leaving none behind.

What a launcher has started is no child of this process and may have left its session, so it is
known by its environment, watched with descriptors of processes, and judged by ``/proc``: all of
this is Linux's.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, final

from runner.distributed.reporting.channel import marked
from runner.distributed.signals import SIGNALS
from runner.errors import DeviceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import BinaryIO

    from runner.entries import Command

GRACE_S = 10.0
"""Time in which a launcher may end what it has started, and the kernel what was killed."""
GONE = frozenset({"", "Z"})
"""States of a process that does nothing any more."""
STOPPED = frozenset({"T", "t"})
STATES = {
    "R": "running",
    "S": "sleeping",
    "D": "waiting for a disk or a driver",
    "T": "stopped",
    "t": "stopped by a debugger",
    "Z": "dead",
    "": "gone",
}
EXIT_CODE = 52 - 3
"""Position in ``/proc/<process>/stat`` behind the name (proc_pid_stat(5))."""
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def start(command: Command, environment: Mapping[str, str], output: BinaryIO) -> Launcher:
    """Start a launcher, with further environment variables by which its processes are known.

    Raises:
        DeviceError: There is no such program.
    """
    try:
        # A session of its own: Ctrl-C reaches this process alone, which passes it on.
        child = subprocess.Popen(
            command.arguments,
            env={**_without(command.unset), **command.environment, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=_prepare(interrupted=command.interrupted),  # noqa: PLW1509  no threads here
        )
    except OSError as error:
        raise DeviceError(
            f"the launcher {command.arguments[0]} cannot be started: {error.strerror}; "
            "expected a program in PATH"
        ) from error
    mark = (f"{name}={value}".encode() for name, value in environment.items())
    return Launcher(child, frozenset(mark))


def _without(names: Sequence[str]) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in names}


def _prepare(*, interrupted: bool) -> Callable[[], None]:
    """What a child does first; the kernel may interrupt it when its parent is killed."""
    prctl = ctypes.CDLL(None).prctl
    held_back = set(SIGNALS) - {signal.SIGINT}

    def prepare() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell ignores it for background jobs
        # A batch system sends them to everybody: a launcher would end its processes before they
        # have saved. The processes let them through themselves.
        signal.pthread_sigmask(signal.SIG_BLOCK, held_back)
        if interrupted:
            prctl(PR_SET_PDEATHSIG, signal.SIGINT)

    return prepare


@final
class Launcher:
    """A launcher that runs, and everything it has started."""

    def __init__(self, child: subprocess.Popen[bytes], mark: frozenset[bytes]) -> None:
        self._child = child
        self._mark = mark

    def poll(self) -> int | None:
        """Return the status it has ended with, negative for a signal; ``None`` while it runs."""
        return self._child.poll()

    def end(self) -> int:
        """Let it end its processes, kill what is left of them after a while, and return its status.

        The processes go first: a launcher may wait much longer for one that is stopped.
        """
        launcher = self._child.pid
        self._kill(process for process in marked(self._mark) if process != launcher)
        with suppress(ProcessLookupError):
            self._child.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            self._child.wait(GRACE_S)
        self.leave_none()
        return self._child.wait()

    def leave_none(self) -> None:
        """Kill what is left of it, and wait until the kernel has done so."""
        left = list(marked(self._mark))
        self._kill(iter(left))
        deadline = time.monotonic() + GRACE_S
        while any(state(process) not in GONE for process in left) and time.monotonic() < deadline:
            time.sleep(0.02)

    @staticmethod
    def _kill(processes: Iterator[int]) -> None:
        for process in processes:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)


@final
class Ends:
    """Notices when processes end, in that order; a context manager that closes descriptors."""

    def __init__(self) -> None:
        self._open: dict[int, int] = {}
        self._codes: dict[int, int | None] = {}
        self._gone: set[int] = set()

    def __enter__(self) -> Ends:
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()

    def wait(self, processes: set[int], seconds: float) -> dict[int, int | None]:
        """Wait until one of the processes ends, or for a while.

        A launcher ends the others soon after one that has failed, so this returns at once.

        Returns:
            The status, or the negative number of a signal, that each of them has newly ended with;
            ``None`` where that is not known any more.
        """
        known = processes - self._gone
        self._wait(known, seconds)
        states = {process: state(process) for process in known}
        # A dead one whose parent has not noticed yet counts if no other is further.
        ended = [process for process, letter in states.items() if letter == ""]
        ended = ended or [process for process, letter in states.items() if letter == "Z"]
        self._gone.update(ended)
        return {process: self._codes.get(process) for process in ended}

    def _wait(self, processes: set[int], seconds: float) -> None:
        for process in processes - self._open.keys():
            with suppress(OSError):  # gone already
                self._open[process] = os.pidfd_open(process)
        poll = select.poll()
        for descriptor in self._open.values():
            poll.register(descriptor, select.POLLIN)
        ready = {descriptor for descriptor, _ in poll.poll(1000 * seconds)}
        for process in [p for p, descriptor in self._open.items() if descriptor in ready]:
            # Only until its parent has noticed can the kernel be asked.
            self._codes[process] = _exit_code(process)
            os.close(self._open.pop(process))


def _exit_code(process: int) -> int | None:
    """Return what a dead process has ended with, as long as its parent has not noticed."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text("utf-8", "replace").rpartition(") ")[2]
    except OSError:
        return None
    if fields[0] != "Z":
        return None
    return os.waitstatus_to_exitcode(int(fields.split()[EXIT_CODE]))


def how_ended(code: int | None) -> str:
    """Say how a process has ended that has not said so itself."""
    if code is None:
        return "ended without saying why, as when a process is killed or memory runs out"
    if code >= 0:
        return f"ended with status {code}, without saying why"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was killed by {name}" + (", as when memory runs out" * (-code == signal.SIGKILL))


def state(process: int) -> str:
    """Return the kernel's letter for the state of a process, ``Z`` for a dead one; "" if gone."""
    try:
        return Path(f"/proc/{process}/stat").read_text("utf-8", "replace").rpartition(") ")[2][0]
    except OSError:
        return ""


def waits_in(process: int) -> str:
    """Return the function of the kernel that a process sleeps in; "" if it is not known."""
    try:
        name = Path(f"/proc/{process}/wchan").read_text(encoding="utf-8")
    except OSError:
        return ""
    return "" if name == "0" else name

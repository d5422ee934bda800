"""Stopping politely: signals ask the loop to save and leave.

SIGINT, SIGTERM, SIGHUP and SIGQUIT come from people, terminals and systems that want an end now; a
second one has its usual effect. SIGUSR1, SIGUSR2 and SIGXCPU are how batch systems and limits warn
before it, maybe every second: they ask, and never do anything else.

Python's own handlers do this where they are called. Some frameworks install handlers of their own
in C, again and again: then the signals are blocked in every thread, and one thread waits for them.
The mask has to be in place before any library starts threads, NumPy included, because a thread
without it receives the signal; so a command that trains holds the signals back while it finds out
which framework it uses.

What this process was started to ignore stays ignored: SIGHUP, which a terminal sends when it
closes, under nohup. Not SIGINT and SIGQUIT, which shells ignore for background jobs: whoever sends
them to such a job by its number means it. The command line hears them from its start on.

A process that a launcher has started may be asked several times with one intention: by a terminal
or a batch system that signals everybody, and by the launcher in turn. There a signal that comes
soon after the first is the same request.

Where a run has nothing to save, as during an export, the first signal ends it as Ctrl-C does: what
is open is put away, and the run says how to continue it.

Commands that do not train leave the signals alone: with such a framework, Ctrl-C then ends them
in whatever way the framework has chosen, and there is nothing to save.

Processes that are started while the signals are blocked inherit the mask, so that they can only
be killed. In that time core starts one that reads foreign weights, and kills it when interrupted.
"""

from __future__ import annotations

import _thread
import os
import signal
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, final

from runner.distributed.reporting import reporter
from runner.terminal import streams

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from types import FrameType, TracebackType

SIGNALS = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGXCPU,
)
"""All that ask."""
WARNINGS = frozenset({signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU})
"""Those that do nothing but ask."""
INSISTING = frozenset(SIGNALS) - WARNINGS
ALWAYS_HEARD = frozenset({signal.SIGINT, signal.SIGQUIT, signal.SIGTERM})
BY_LISTENER = 0
"""Stands for a signal where a listener of the run asks."""
NUDGE = signal.SIGURG
"""What makes the main thread look up from a call that waits; ignored where nobody handles it."""
GRACE_S = 5.0
"""Time in which an interrupted process may end by itself, its ``finally`` blocks included."""
REPEAT_S = 10.0
"""Time in which a further signal to a launched process is the same request. Launchers and batch
systems kill after 30 s or more."""


def heard() -> tuple[signal.Signals, ...]:
    """Return the signals that ask this process: not those that it was started to ignore."""
    return tuple(
        number
        for number in SIGNALS
        if number in ALWAYS_HEARD or signal.getsignal(number) != signal.SIG_IGN
    )


def hear_in_background() -> None:
    """Give SIGINT and SIGQUIT their usual effect also in a job that a shell runs in the background.

    Otherwise they would be heard by a run that trains, and by nothing else.
    """
    if threading.current_thread() is threading.main_thread():
        for number in ALWAYS_HEARD:
            if signal.getsignal(number) == signal.SIG_IGN:
                usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
                signal.signal(number, usual)


def end_as_first_process() -> None:
    """Let signals end the first process of a container: the kernel keeps what has no handler."""
    if os.getpid() == 1:
        for number in SIGNALS:
            if signal.getsignal(number) == signal.SIG_DFL:
                signal.signal(number, _leave)


def _leave(number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


@final
class EndedBySignal(KeyboardInterrupt):
    """Another signal than that of Ctrl-C has ended a run where it had nothing to save."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def number_of(error: KeyboardInterrupt) -> int:
    """Return the signal that has ended a run."""
    return error.number if isinstance(error, EndedBySignal) else int(signal.SIGINT)


def words(error: KeyboardInterrupt) -> str:
    """Return what to say of an end by a signal, and what is left."""
    by = f" by signal {error.number}" if isinstance(error, EndedBySignal) else ""
    return ": ".join([f"interrupted{by}", *map(str, error.args)])


@final
@dataclass(slots=True)
class StopRequest:
    """Whether a signal asks the loop to save and leave; the loop looks at it after every step."""

    signal_number: int | None = None
    repeat_s: float = 0.0
    """Seconds after the first signal in which others are the same request."""
    _first: float | None = None

    def takes(self, number: int) -> bool:
        """Note a signal; ``False`` if it has to have its usual effect."""
        now = time.monotonic()
        if self.signal_number is None:
            self.signal_number = int(number)
        if number in WARNINGS:
            return True
        if self._first is None:  # also after a warning, which is no request to be repeated
            self._first = now
            return True
        return now - self._first < self.repeat_s


@final
class Signals:
    """The signals that ask, from the start of a run to its end, as a context manager.

    They are held back until ``release`` or ``watch`` says how they are received. Within
    ``polite`` the first signal only asks, and within ``ending`` it raises; a second one, and any
    outside of both, has its usual effect: SIGINT raises ``KeyboardInterrupt``, others end the
    process.

    Outside the main thread nothing is done: Python delivers signals to that thread alone.
    """

    def __init__(self, numbers: Sequence[signal.Signals] | None = None) -> None:
        """Choose the signals: all that ask this process, or some; of none, listeners alone ask."""
        self._numbers = heard() if numbers is None else tuple(numbers)
        self._mask: set[int | signal.Signals] | None = None
        self._watcher: threading.Thread | None = None
        self._former_nudge: Any = None
        self._request: StopRequest | None = None
        self._polite: StopRequest | None = None
        self._handlers: _Handlers | None = None
        self._asked = False
        self._ends = False
        self._leaving = False

    def __enter__(self) -> Signals:
        """Hold the signals back."""
        if threading.current_thread() is threading.main_thread():
            self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, self._numbers)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Let them through as they were before; not any more where they have ended the run."""
        if self._handlers is not None and not self._asked:
            self._handlers.restore()
        if self._leaving:
            for number in self._numbers if self._asked else WARNINGS.intersection(self._numbers):
                signal.signal(number, signal.SIG_IGN)
        if self._watcher is not None:
            watcher, self._watcher = self._watcher, None
            assert watcher.ident is not None
            signal.pthread_kill(watcher.ident, signal.SIGTERM)  # wakes it
            watcher.join()
            signal.signal(NUDGE, self._former_nudge)
        self.release()

    @property
    def numbers(self) -> Sequence[signal.Signals]:
        """The signals that ask: none outside the main thread."""
        main = threading.current_thread() is threading.main_thread()
        return self._numbers if main else ()

    def stop(self) -> bool:
        """Ask the loop to save and leave, as a signal does; return whether one is there to ask."""
        if self._polite is None:
            return False
        if self._polite.signal_number is None:
            self._polite.signal_number = BY_LISTENER
        return True

    def release(self) -> None:
        """Receive the signals with Python's handlers."""
        if self._mask is not None:
            mask, self._mask = self._mask, None
            # who has started a launched process holds them back for its launcher, not for this
            signal.pthread_sigmask(signal.SIG_SETMASK, mask.difference(self._numbers))

    def watch(self) -> None:
        """Receive the signals in a thread; those that start later inherit the mask.

        A system that cannot wait for signals (macOS) leaves them to Python's handlers.
        """
        if not hasattr(signal, "sigwaitinfo"):
            self.release()
        elif self._mask is not None:
            self._former_nudge = signal.signal(NUDGE, lambda *_: None)
            self._watcher = threading.Thread(target=self._wait, name="signals", daemon=True)
            self._watcher.start()

    @contextmanager
    def polite(self, *, launched: bool = False) -> Iterator[StopRequest]:
        """Let the first signal ask, in place of its usual effect.

        Args:
            launched: A launcher has started this process, so one request may be several signals.
        """
        request = StopRequest(repeat_s=REPEAT_S if launched else 0.0)
        self._polite = request
        self._handlers = handlers = _Handlers(request, self._numbers)
        if self._watcher is not None:
            self._request = request
        elif threading.current_thread() is threading.main_thread():
            handlers.install()
        try:
            yield request
        finally:
            # The same request may come again until the process has left.
            self._polite = None
            self._leaving = request.signal_number not in (None, BY_LISTENER)
            self._asked = launched and self._leaving
            if not self._asked:
                self._request = None
                handlers.restore(SIGNALS if not self._leaving else INSISTING)

    @contextmanager
    def ending(self) -> Iterator[None]:
        """Let the first signal raise ``EndedBySignal``, as SIGINT raises ``KeyboardInterrupt``."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def end(number: int, _frame: FrameType | None) -> None:
            if not self._leaving:
                self._leaving = True
                restore(INSISTING)  # a call that does not return has no time for handlers
                raise EndedBySignal(number)

        def restore(numbers: Collection[int]) -> None:
            for number in former.keys() & set(numbers):
                signal.signal(number, former.pop(number))

        numbers = set(self._numbers) - {signal.SIGINT}
        former = {number: signal.signal(number, end) for number in numbers}
        self._ends = True
        try:
            yield
        finally:
            self._ends = False
            restore(INSISTING if self._leaving else SIGNALS)

    def _wait(self) -> None:
        while not self._only_wakes(found := signal.sigwaitinfo(self._numbers)):
            if found.si_signo == signal.SIGTERM and found.si_pid == os.getpid():
                _end_without_the_others()
            request = self._request
            if request is not None and request.takes(found.si_signo):
                continue
            if self._leaving and found.si_signo in WARNINGS:
                continue
            if found.si_signo == signal.SIGINT or self._ends:
                # Not by a signal: the handler of the operating system is the framework's.
                _thread.interrupt_main(signal.Signals(found.si_signo))
                main = threading.main_thread().ident
                assert main is not None
                signal.pthread_kill(main, NUDGE)
                again = signal.sigtimedwait(INSISTING.intersection(self._numbers), GRACE_S)
                if again is not None and self._only_wakes(again):
                    return
            streams.say_bytes(b"interrupted\n")
            os._exit(128 + found.si_signo)

    def _only_wakes(self, found: signal.struct_siginfo) -> bool:
        """Return whether a signal is the one that ends the waiting thread."""
        return self._watcher is None and found.si_pid == os.getpid()


def _end_without_the_others() -> NoReturn:
    """End a process whose framework sends it a signal of its own, which is not a request to stop.

    MindSpore does this where a group of processes is lost: this one may wait for the others, so
    that it would never come to save anything.
    """
    reason = (
        "the framework ends this process, as it does when it has lost the others; their output "
        "says why"
    )
    own = reporter.of_process()
    own.left(None, 1, reason, again=True, follows=True)
    # the parent says which error it was that ends the run
    word = "leaves" if own.watched else "error"
    streams.say_bytes(f"{word}: {reason}\n".encode())
    os._exit(1)


@final
class _Handlers:
    """Python's handlers, which answer the first signal."""

    def __init__(self, request: StopRequest, numbers: Sequence[int]) -> None:
        self._request = request
        self._numbers = numbers
        self._former: dict[int, Any] = {}

    def install(self) -> None:
        """Put them in place of the former ones."""
        self._former = {number: signal.signal(number, self._handle) for number in self._numbers}

    def restore(self, numbers: Collection[int] = SIGNALS) -> None:
        """Put the former ones of some signals back."""
        for number in self._former.keys() & set(numbers):
            signal.signal(number, self._former.pop(number))

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        taken = self._request.takes(number)
        if number in INSISTING and not (taken and self._request.repeat_s):
            self.restore(INSISTING)  # a call that does not return has no time for handlers
        if not taken:
            signal.raise_signal(number)

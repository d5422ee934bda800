"""Stopping politely: SIGINT and SIGTERM ask the loop to save and leave.

Python's own handlers do this where they are called. Some frameworks install handlers of their own
in C, again and again: then the signals are blocked in every thread, and one thread waits for them.
The mask has to be in place before any library starts threads, NumPy included, because a thread
without it receives the signal; so a command that trains holds the signals back while it finds out
which framework it uses.

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
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType, TracebackType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
NUDGE = signal.SIGURG
"""What makes the main thread look up from a call that waits; ignored where nobody handles it."""
GRACE_S = 5.0
"""Time in which an interrupted process may end by itself, its ``finally`` blocks included."""


@final
@dataclass(slots=True)
class StopRequest:
    """Whether a signal asks the loop to save and leave; the loop looks at it after every step."""

    signal_number: int | None = None


@final
class Signals:
    """SIGINT and SIGTERM from the start of a run to its end, as a context manager.

    They are held back until ``release`` or ``watch`` says how they are received. Within
    ``polite`` the first signal only asks; a second one, and any outside of it, has its usual
    effect: SIGINT raises ``KeyboardInterrupt``, SIGTERM ends the process.

    Outside the main thread nothing is done: Python delivers signals to that thread alone.
    """

    def __init__(self) -> None:
        self._mask: set[int | signal.Signals] | None = None
        self._watcher: threading.Thread | None = None
        self._former_nudge: Any = None
        self._request: StopRequest | None = None

    def __enter__(self) -> Signals:
        """Hold the signals back."""
        if threading.current_thread() is threading.main_thread():
            self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Let them through as they were before."""
        if self._watcher is not None:
            watcher, self._watcher = self._watcher, None
            assert watcher.ident is not None
            signal.pthread_kill(watcher.ident, signal.SIGTERM)  # wakes it
            watcher.join()
            signal.signal(NUDGE, self._former_nudge)
        self.release()

    def release(self) -> None:
        """Receive the signals with Python's handlers."""
        if self._mask is not None:
            mask, self._mask = self._mask, None
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def watch(self) -> None:
        """Receive the signals in a thread; those that start later inherit the mask."""
        if self._mask is not None:
            self._former_nudge = signal.signal(NUDGE, lambda *_: None)
            self._watcher = threading.Thread(target=self._wait, name="signals", daemon=True)
            self._watcher.start()

    @contextmanager
    def polite(self) -> Iterator[StopRequest]:
        """Let the first signal ask, in place of its usual effect."""
        request = StopRequest()
        if self._watcher is not None:
            self._request = request
            try:
                yield request
            finally:
                self._request = None
        elif threading.current_thread() is threading.main_thread():
            with _handled(request):
                yield request
        else:
            yield request

    def _wait(self) -> None:
        while not self._only_wakes(found := signal.sigwaitinfo(SIGNALS)):
            request, self._request = self._request, None
            if request is not None:
                request.signal_number = found.si_signo
                continue
            if found.si_signo == signal.SIGINT:
                # Not by a signal: the handler of the operating system is the framework's.
                _thread.interrupt_main(signal.SIGINT)
                main = threading.main_thread().ident
                assert main is not None
                signal.pthread_kill(main, NUDGE)
                again = signal.sigtimedwait(SIGNALS, GRACE_S)
                if again is not None and self._only_wakes(again):
                    return
            os.write(2, b"interrupted\n")
            os._exit(128 + found.si_signo)

    def _only_wakes(self, found: signal.struct_siginfo) -> bool:
        """Say whether a signal is the one that ends the waiting thread."""
        return self._watcher is None and found.si_pid == os.getpid()


@contextmanager
def _handled(request: StopRequest) -> Iterator[None]:
    """Answer the first signal with Python's handlers, and restore the former ones."""
    previous: dict[int, Any] = {}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)
        previous.clear()

    def handle(number: int, _frame: FrameType | None) -> None:
        request.signal_number = number
        restore()

    for number in SIGNALS:
        previous[number] = signal.signal(number, handle)
    try:
        yield
    finally:
        restore()

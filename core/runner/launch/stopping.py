"""Signals that ask a run on several devices to stop."""

from __future__ import annotations

import signal
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
REPEAT_S = 0.5
"""Time in which another signal is the same request: some programs signal a process and its group,
which is the same process again."""


class StoppedError(Exception):
    """A signal has come while there were no processes that could save."""


@final
class Stop:
    """What signals ask for, while this context lasts.

    While processes run, the first one asks them to save and leave, and a second one to end at once.
    At any other time a signal raises ``StoppedError``.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        """The first signal; ``None`` if there was none."""
        self.at_once = False
        """Everything is to end at once."""
        self._time = 0.0
        self._polite = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        # nohup lets a program run on without its terminal
        ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        heard = SIGNALS[:-1] if ignored else SIGNALS
        self._previous = {number: signal.signal(number, self._note) for number in heard}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @contextmanager
    def politely(self) -> Iterator[None]:
        """Take note of signals: there are processes."""
        self._polite = True
        try:
            yield
        finally:
            self._polite = False

    def _note(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.number is None:
            self.number, self._time = number, now
        elif now - self._time > REPEAT_S:
            self.at_once = True
        if not self._polite:
            raise StoppedError

"""Signals that ask a run on several devices to stop."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, final

from runner.distributed.signals import StopRequest

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from types import FrameType

REPEAT_S = 0.5
"""Time in which another signal is the same request: some programs signal a process and its group,
which is the same process again."""


class StoppedError(Exception):
    """A signal has come while there were no processes that could save."""


@final
class Stop:
    """What signals ask for, while this context lasts.

    While processes run, the first one asks them to save and leave, and a second one to end at once,
    unless it only warns. At any other time a signal raises ``StoppedError``.
    """

    def __init__(self, numbers: Collection[signal.Signals]) -> None:
        """Choose the signals; of none, nothing asks."""
        self._numbers = numbers
        self.at_once = False
        """Everything is to end at once."""
        self._request = StopRequest(repeat_s=REPEAT_S)
        self._polite = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        self._previous = {number: signal.signal(number, self._note) for number in self._numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @property
    def number(self) -> int | None:
        """The first signal; ``None`` if there was none."""
        return self._request.signal_number

    @contextmanager
    def politely(self) -> Iterator[None]:
        """Take note of signals: there are processes."""
        self._polite = True
        try:
            yield
        finally:
            self._polite = False

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if not self._request.takes(number):
            self.at_once = True
        if not self._polite:
            raise StoppedError

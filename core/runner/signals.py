"""Stopping politely: SIGINT and SIGTERM ask the loop to save and leave."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Any, final

if TYPE_CHECKING:
    from types import TracebackType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@final
class StopRequest:
    """Remembers that a signal arrived; use it as a context manager around the loop.

    The first signal only sets ``signal_number``, which the loop looks at after every step. The
    second has its usual effect, so that a loop that hangs can still be stopped.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        """Install the handlers. Outside the main thread Python allows none, and none is set."""
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Put the former handlers back."""
        self._restore()

    def _handle(self, number: int, _frame: object) -> None:
        self.signal_number = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

"""What the processes of a run decide together: what a loss is, when to stop, what has failed.

A rank is the number of a process, from 0. Rank 0 leads: it alone writes and prints. A process that
is alone leads as well, exchanges nothing and waits for nobody.

Decisions come from numbers that were added over all ranks, so that all take the same one at the
same step. A rank that fails on its own while all compute is noticed by the framework, whose next
exchange fails on the others. What every rank does once, such as opening the data, and what rank 0
does for all, such as saving, ends with an exchange of how it went.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar, final

from runner.errors import OtherRankError, RunnerError
from runner.launch import status
from runner.signals import SIGNALS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from runner.contracts import Group
    from runner.signals import StopRequest

T = TypeVar("T")
ErrorT = TypeVar("ErrorT", bound=Exception)


@final
class Ranks:
    """The processes of a run; a context manager that leaves their group."""

    def __init__(self, group: Group | None = None) -> None:
        self.group = group
        """What is exchanged goes through it; ``None`` when this process is, or goes on, alone."""
        self.rank = group.rank if group else 0
        self.world_size = group.world_size if group else 1
        self._agreed: Exception | None = None
        self._speaks = self.leads

    @property
    def leads(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    def __enter__(self) -> Ranks:
        status.tell_met(self.rank)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave together, unless this process failed on its own; one rank reports an error."""
        if error is None:
            self.part()
        elif self.world_size > 1:
            self._fail(error)

    def part(self) -> None:
        """Wait until every rank has come here, and go on alone."""
        if self.group is not None:
            group, self.group = self.group, None
            group.close()
        status.tell_done(self.rank)

    def sum(self, values: Sequence[float]) -> list[float]:
        """Add numbers over all ranks."""
        return self.group.sum(values) if self.group else list(values)

    def together(self, error: ErrorT) -> ErrorT:
        """Mark an error that every rank raises at this place, so that rank 0 alone reports it."""
        self._agreed = error
        return error

    def everyone(self, action: Callable[[], T]) -> T:
        """Do something on every rank; if it fails on one, all leave.

        Raises:
            OtherRankError: It failed on another rank, the lowest of those that failed.
            Exception: What it raised, if it failed here and on no lower rank.
        """
        if self.group is None:
            return action()
        outcome: list[T] = []
        failure: Exception | None = None
        try:
            outcome.append(action())
        except Exception as error:  # noqa: BLE001  raised again below
            failure = error
        own = [float(failure is not None and rank == self.rank) for rank in range(self.world_size)]
        failed = [rank for rank, count in enumerate(self.group.sum(own)) if count]
        if not failed:
            return outcome[0]
        self._speaks = failed[0] == self.rank
        if failure is not None and self._speaks:
            raise self.together(failure)
        raise self.together(OtherRankError(f"rank {failed[0]} has failed; its own output says why"))

    def lead(self, action: Callable[[], T]) -> T | None:
        """Do something on rank 0 alone; if it fails, all leave.

        Raises:
            OtherRankError: It failed, and this is another rank.
            Exception: What it raised, on rank 0.
        """
        return self.everyone(lambda: action() if self.leads else None)

    def _fail(self, error: BaseException) -> None:
        agreed, joined = error is self._agreed, self.group is not None
        heard = not agreed or self._speaks
        code = error.exit_code if isinstance(error, RunnerError) else 1
        if isinstance(error, KeyboardInterrupt):
            code = 130
        if heard:
            status.tell_left(self.rank, code, str(error), again=not agreed and _may_pass(error))
        if agreed:
            with suppress(Exception):  # a rank that is gone must not hide why the others leave
                self.part()
            code = status.status_together(code)
            if isinstance(error, RunnerError):
                error.exit_code = code
        if not heard and not self.leads:
            raise SystemExit(code) from None
        if joined and not (agreed and self.leads):
            if isinstance(error, RunnerError):
                error.rank = self.rank
            else:
                sys.stderr.write(f"rank {self.rank} fails:\n")


def _may_pass(error: BaseException) -> bool:
    """Say whether an error that one rank alone has met may not come again."""
    foreseen = isinstance(error, RunnerError) and not isinstance(error, OtherRankError)
    return isinstance(error, Exception) and not foreseen


@final
class AgreedStop:
    """A request to stop that every rank follows at the same step."""

    def __init__(self, request: StopRequest, ranks: Ranks) -> None:
        self._request = request
        self._ranks = ranks
        self._agreed: int | None = None

    @property
    def signal_number(self) -> int | None:
        """The signal that asks; of several ranks, what they have last agreed on."""
        return self._request.signal_number if self._ranks.group is None else self._agreed

    def agree(self) -> None:
        """Learn whether any rank was asked. Every rank calls this at the same steps."""
        if self._ranks.group is None:
            return
        own = self._request.signal_number
        asked = self._ranks.sum([float(own == number) for number in SIGNALS])
        for number, count in zip(SIGNALS, asked, strict=True):
            if count:
                self._agreed = int(number)

"""What the processes of a run decide together: what a loss is, when to stop, what has failed.

A rank is the number of a process, from 0. Rank 0 leads: it alone writes and prints. A process that
is alone leads as well, exchanges nothing and waits for nobody.

Decisions come from numbers that were added over all ranks, so that all take the same one at the
same step. A rank that fails on its own while all compute is noticed by the framework, whose next
exchange fails on the others. What every rank does once, such as opening the data, and what rank 0
does for all, such as saving, ends with an exchange of how it went: two numbers where all is well,
and the words of the rank that failed where it is not.
"""

from __future__ import annotations

import json
import socket
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TypeVar, final

from runner.distributed import signals
from runner.distributed.reporting.reporter import Reporter
from runner.distributed.signals import BY_LISTENER, SIGNALS
from runner.errors import DeviceError, OtherRankError, RunnerError
from runner.system import limits
from runner.terminal import streams

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType

    from runner.contracts import Group
    from runner.distributed.signals import StopRequest

T = TypeVar("T")
ErrorT = TypeVar("ErrorT", bound=Exception)

BYTES_PER_NUMBER = 5
"""Of a text that is sent: numbers up to 2**40 are added exactly."""


@final
class Ranks:
    """The processes of a run; a context manager that leaves their group."""

    def __init__(self, group: Group | None = None, reporter: Reporter | None = None) -> None:
        self.group = group
        """What is exchanged goes through it; ``None`` when this process is, or goes on, alone."""
        self.rank = group.rank if group else 0
        self.world_size = group.world_size if group else 1
        self.reporter = reporter or Reporter()
        self.progress = self.reporter.progress
        self._agreed: Exception | None = None
        self._words = ""
        self._speaks = self.leads
        self._told: BaseException | None = None

    @property
    def leads(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    def __enter__(self) -> Ranks:
        self.reporter.met(self.rank)
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
        elif self.world_size > 1 or self.reporter.watched:
            self._fail(error)

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Tell why this process leaves as soon as it fails, before anything is put away.

        What is put away on the way out, threads and files and what plugins have open, may hang or
        fail in turn, and the others may be ended before that.
        """
        try:
            yield
        except BaseException as error:
            self._tell(error)
            raise

    def part(self) -> None:
        """Wait until every rank has come here, and go on alone."""
        if self.group is not None:
            self.progress.begin("waiting for the others to end")
            group, self.group = self.group, None
            group.close()
        self.reporter.done(self.rank)

    def sum(self, values: Sequence[float]) -> list[float]:
        """Add numbers over all ranks."""
        return self.group.sum(values) if self.group else list(values)

    def lowest(self, answer: bool) -> int | None:  # noqa: FBT001  one answer of each rank
        """Return the lowest rank whose answer is yes, or ``None``; all ranks call this together.

        Only where there is one does every rank send as many numbers as there are ranks.
        """
        if self.group is None:
            return 0 if answer else None
        if self.group.sum([float(answer)]) == [0.0]:
            return None
        own = [float(answer and rank == self.rank) for rank in range(self.world_size)]
        return next(rank for rank, count in enumerate(self.group.sum(own)) if count)

    def share_text(self, text: str, rank: int) -> str:
        """Return the text of one rank; all ranks call this together, and what they pass is unused.

        The text travels as numbers that are added to the zeros of the others.
        """
        if self.group is None:
            return text
        data = text.encode(errors="surrogateescape") if self.rank == rank else b""
        size = int(self.group.sum([float(len(data))])[0])
        if not size:  # not every framework adds no numbers
            return ""
        starts = range(0, size, BYTES_PER_NUMBER)
        padded = data.ljust(size + BYTES_PER_NUMBER, b"\0")
        own = [float(int.from_bytes(padded[at : at + BYTES_PER_NUMBER], "big")) for at in starts]
        sent = b"".join(int(n).to_bytes(BYTES_PER_NUMBER, "big") for n in self.group.sum(own))
        return sent[:size].decode(errors="surrogateescape")

    def together(self, error: ErrorT) -> ErrorT:
        """Mark an error that every rank raises at this place, so that rank 0 alone reports it."""
        self._agreed = error
        return error

    def everyone(self, action: Callable[[], T]) -> T:
        """Do something on every rank; if it fails on one, all leave.

        Raises:
            OtherRankError: It failed on another rank, the lowest of those that failed; it has the
                words and the exit status of that rank.
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
        failed = self.lowest(failure is not None)
        if failed is None:
            return outcome[0]
        words = json.loads(self.share_text(_words(failure) if failure else "", failed))
        self._speaks = self.leads or failed == self.rank
        self._words = f"rank {failed} on {words['host']}: {words['message']}"
        if failure is not None and failed == self.rank:
            raise self.together(failure)
        other = OtherRankError(self._words)
        other.exit_code = words["code"]
        raise self.together(other)

    def lead(self, action: Callable[[], T]) -> T | None:
        """Do something on rank 0 alone; if it fails, all leave.

        Raises:
            OtherRankError: It failed, and this is another rank.
            Exception: What it raised, on rank 0.
        """
        return self.everyone(lambda: action() if self.leads else None)

    def _fail(self, error: BaseException) -> None:
        self._tell(error)
        agreed = error is self._agreed
        heard = self.reporter.watched or self.group is not None
        code = exit_code(error)
        if agreed:
            with suppress(Exception):  # a rank that is gone must not hide why the others leave
                self.part()
            code = self.reporter.status_together(code)
            if isinstance(error, RunnerError):
                error.exit_code = code
            if not self._speaks:
                raise SystemExit(code) from None
        if heard and not (agreed and self.leads):
            if isinstance(error, RunnerError):
                error.rank = self.rank
            else:
                streams.say(f"rank {self.rank} fails:")

    def _tell(self, error: BaseException) -> None:
        """Tell once why this process leaves."""
        if error is not self._told:
            self._told = error
            agreed = error is self._agreed
            self.reporter.left(
                self.rank,
                exit_code(error),
                (self._words if agreed else "") or _message(error),
                again=not agreed and _may_pass(error),
                follows=not agreed and isinstance(error, OtherRankError),
                agreed=agreed,
            )


def exit_code(error: BaseException) -> int:
    """Return the exit status that an error asks for."""
    if isinstance(error, KeyboardInterrupt):
        return 128 + signals.number_of(error)
    return error.exit_code if isinstance(error, RunnerError) else 1


@contextmanager
def telling_alone(reporter: Reporter, *, joins: bool = False) -> Iterator[None]:
    """Tell why this process leaves before it has met the others.

    Args:
        reporter: Of this process.
        joins: Whether it tries to meet them. That they do not come is no fault of this process;
            nor is it one of the device, which is open.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        missed = joins and (isinstance(error, DeviceError) or _may_pass(error))
        reporter.left(
            None,
            exit_code(error),
            _message(error),
            again=missed or _may_pass(error),
            follows=missed,
        )
        raise


def _words(error: Exception) -> str:
    words = {"host": socket.gethostname(), "message": _message(error), "code": exit_code(error)}
    return json.dumps(words)


def _message(error: BaseException) -> str:
    """Return what an error says; one that nobody has foreseen has its class in front."""
    if isinstance(error, KeyboardInterrupt):
        return signals.words(error)
    text = str(error) if isinstance(error, RunnerError) else f"{type(error).__name__}: {error}"
    return text + limits.hint(error)


def _may_pass(error: BaseException) -> bool:
    """Return whether an error that one rank alone has met may not come again."""
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
        if self._ranks.group is not None:
            self.hear(self._ranks.sum(self.asks()))

    def asks(self) -> list[float]:
        """Return what asks this rank, as numbers to be added over all ranks."""
        return [float(self._request.signal_number == number) for number in (BY_LISTENER, *SIGNALS)]

    def hear(self, asked: Sequence[float]) -> None:
        """Take what ``asks`` has become, added over all ranks."""
        for number, count in zip((BY_LISTENER, *SIGNALS), asked, strict=True):
            if count:
                self._agreed = int(number)

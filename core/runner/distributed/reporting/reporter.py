"""What a process of a run reports to its parent: the only door from the other rooms to a launcher.

``of_process`` reads the environment once. The ``Reporter`` of a process that nobody watches reports
to nobody, so that no caller has to ask.
"""

from __future__ import annotations

import json
import os
import socket
from contextlib import suppress
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from runner.distributed.reporting import channel
from runner.distributed.reporting.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Mapping


@final
class Reporter:
    """Reports of this process; without a file, to nobody."""

    def __init__(
        self,
        status: Path | None = None,
        continues: str = "",
        restarted: str = "",
        local_count: str = "",
    ) -> None:
        """Take what a parent has set; see ``channel`` for the variables."""
        self._status = status
        self.watched = status is not None
        """Whether another process of ``runner`` started this one, and waits for it."""
        self.continues = continues
        """Run folder or checkpoint that this attempt continues from; "" in the first one. Only some
        of the machines may know it. Whatever else starts processes again may set it, too."""
        self.restarted: Mapping[str, Any] | None = json.loads(restarted) if restarted else None
        """Fields of the event ``run.restarted``, for the run's log; ``None`` in the first attempt.
        The parent has printed them."""
        self.local_count = int(local_count) if local_count else None
        """How many processes this machine has; ``None`` if nobody tells."""

    @cached_property
    def progress(self) -> Progress:
        """Shows that the process makes progress.

        Raises:
            StorageError: Its file cannot be written.
        """
        return Progress(self._status)

    def started(self, local_rank: int | None = None) -> None:
        """Report that this process has started, and where its output goes.

        Args:
            local_rank: Its number among the processes of its machine; ``None`` while it may only
                help the others to meet.
        """
        self._tell("begun", log=_output(), local_rank=local_rank)

    def follow_parent(self, timeout_s: float) -> None:
        """Stop when the parent is killed, and show stacks on request; call it in the main thread.

        Args:
            timeout_s: Seconds without progress after which a process without a parent is killed.
        """
        if self._status is not None:
            from runner.distributed.reporting import orphan, stacks

            orphan.follow(self._status, timeout_s)
            stacks.show_on_request(self._status)

    def met(self, rank: int) -> None:
        """Report the rank of this process: all have met."""
        self._tell("met", rank=rank, host=socket.gethostname())

    def folder(self, path: Path) -> None:
        """Report the run folder."""
        self._tell("folder", path=str(path.absolute()))

    def checkpoint(self, path: Path) -> None:
        """Report that a checkpoint is complete."""
        self._tell("checkpoint", path=str(path.absolute()))

    def done(self, rank: int) -> None:
        """Report that the others no longer need this process."""
        self._tell("done", rank=rank)

    def left(
        self,
        rank: int | None,
        code: int,
        reason: str,
        *,
        again: bool,
        follows: bool = False,
        agreed: bool = False,
    ) -> None:
        """Report why this process leaves before the end.

        Args:
            rank: Its rank; ``None`` before all have met.
            code: The exit status that this asks for.
            reason: A line for people.
            again: Whether the next attempt may succeed: another process was lost, or this one broke
                in a way that nobody has foreseen.
            follows: Another process is gone, which is why this one leaves.
            agreed: All leave together for this reason, and rank 0 prints it.
        """
        fields = {"again": again, "follows": follows, "agreed": agreed}
        self._tell("left", rank=rank, code=code, reason=reason, **fields)

    def hand_over(self, result: dict[str, Any] | None) -> dict[str, Any] | None:
        """Give the result to the parent; return it where there is none."""
        if result is None or not self.watched:
            return result
        self._tell("result", result=result)
        return None

    def status_together(self, code: int) -> int:
        """Return the exit status of a process where all end together, for the same reason.

        It is 0 where a parent has been told: after another one, a launcher would kill the processes
        that end a little later.
        """
        return 0 if self.watched else code

    def _tell(self, what: str, **fields: object) -> None:
        if self._status is not None:
            channel.append(self._status, what, fields)


def of_process() -> Reporter:
    """Return the reporter of this process, the same one each time."""
    names = (channel.STATUS, channel.CONTINUE, channel.RESTARTED, channel.LOCAL_COUNT)
    return _of(*(os.environ.get(name, "") for name in names))


@cache
def _of(status: str, *told: str) -> Reporter:
    return Reporter(Path(status) if status else None, *told)


def _output() -> str | None:
    """Return the file that standard error goes to."""
    with suppress(OSError):
        path = Path("/proc/self/fd/2").resolve()
        if path.is_file():
            return str(path)
    return None

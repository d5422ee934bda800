"""One attempt: from the command that starts a launcher to how its processes have ended."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, final

from runner.distributed.reporting.channel import PARENT, STATUS
from runner.distributed.supervising import hung, output, processes
from runner.distributed.supervising.failures import Failure
from runner.distributed.supervising.reports import Told, may_only_help, own_words, silent_end
from runner.system import interpreter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from runner.distributed.machines import Machines
    from runner.distributed.supervising.failures import Failures
    from runner.distributed.supervising.heartbeat import Life
    from runner.distributed.supervising.reports import Process
    from runner.distributed.supervising.stop import Stop
    from runner.entries import Command
    from runner.recipe.schema import DistributedSection
    from runner.storage.events import EventLog

LAUNCHER_LOG = "launcher.log"
WATCH_S = 0.2
"""How often the watcher reads what processes report and print."""
FILE_S = 1.0
"""How often it reads what other machines report."""
LEAVE_S = 30.0
"""Time in which the others may end, when one process has said why it leaves, or has the result."""
LOST_S = 10.0
"""The same when a process was lost, here or on another machine: the others may wait for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What is started, and how long it may take."""

    command: Command
    environment: Mapping[str, str]
    """Further variables of all processes."""
    section: DistributedSection
    machines: Machines
    local_count: int
    log_folder: Path
    """Exists; receives what the launcher prints."""
    failures: Failures
    life: Life
    """Entered; notices when another machine is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How an attempt has ended."""

    told: Told
    failure: Failure | None
    """``None`` if the processes of this machine have done their work."""
    shown: bool = False
    """Whether what the process that has failed has printed is on the console."""


@final
class Watcher:
    """Watches over the processes of one attempt."""

    def __init__(self, attempt: Attempt, place: Path, stop: Stop, events: EventLog) -> None:
        """Prepare to watch.

        Args:
            attempt: What is started.
            place: A new folder for what the processes tell.
            stop: Whether signals ask to stop.
            events: Learns what hangs.
        """
        self._attempt = attempt
        self._stop = stop
        self._events = events
        self._status = place / "status"
        self._status.touch()
        self._told = Told(self._status)
        self._ends = processes.Ends()
        self._console = output.Console()
        self._hung = hung.Watch(
            self._status,
            attempt.section,
            attempt.local_count,
            attempt.log_folder,
            alone=not attempt.machines.several,
        )
        self._failure: Failure | None = None
        self._elsewhere: Failure | None = None
        """What has failed on another machine, which is why the processes here are ended."""
        self._deadline: float | None = None
        """When what is left of the processes is ended."""
        self._next_file = 0.0
        self._asked = False

    def run(self) -> Ended:
        """Start the launcher, and wait until it and its processes have ended.

        Raises:
            DeviceError: There is no such program.
        """
        own = {STATUS: str(self._status), PARENT: str(os.getpid())}
        environment = {**self._attempt.environment, **own}
        with (self._attempt.log_folder / LAUNCHER_LOG).open("ab") as log:
            launcher = processes.start(self._attempt.command, environment, log)
        try:
            self._attempt.life.begin()
            with self._ends:
                while (code := launcher.poll()) is None:
                    self._look()
                    if self._is_over():
                        code = launcher.end()
                        break
                else:
                    self._look(wait_s=0.0)
        finally:
            launcher.leave_none()
        self._told.update()
        self._copy(at_the_end=True)
        return self._conclude(code)

    def _look(self, wait_s: float = WATCH_S) -> None:
        # Asked before the reports are read: a process reports before it ends, so its report, if
        # there is one, is among those that are read next, and comes first.
        early = self._code_of_early_end()
        told = self._told
        owing = {number for number, process in told.processes.items() if told.owes(process)}
        codes = self._ends.wait(owing, wait_s)
        left = told.update()
        self._note(left, {told.processes[number]: code for number, code in codes.items()})
        if early:
            self._fail(self._early_end(early), LOST_S)
        self._copy()
        self._look_for_hung()
        if self._deadline is None and (told.result is not None or self._is_done_elsewhere()):
            self._deadline = time.monotonic() + LEAVE_S
        if self._deadline is not None and all(map(_is_gone, told.processes)):
            # a launcher may wait minutes for one of another machine that is gone
            self._deadline = min(self._deadline, time.monotonic() + LOST_S)
        self._pass_signal_on()
        self._ask_other_machines()

    def _look_for_hung(self) -> None:
        """Look for what hangs, also where what is known so far is that others have waited in vain.

        They give up after the same time in which a process counts as hung.
        """
        known = self._failure
        if known is not None and not known.follows:
            return
        found = self._hung.look(self._told)
        # What is known is an effect, so another effect explains nothing.
        if found is None or (known is not None and found[0].follows):
            return
        failure, sights = found
        self._events.emit("run.hung", processes=[str(sight) for sight in sights])
        # The cause takes the place of the effect; a process that hangs does not leave by itself, so
        # there is nothing to wait for.
        self._failure = self._deadline = None
        self._fail(failure, 0.0)

    def _note(self, left: Sequence[Process], ended: Mapping[Process, int | None]) -> None:
        """Note what has failed first.

        Of what is seen at the same time, an error that explains itself comes before a process that
        ends in silence, and that before what the others make of it.
        """
        words = [own_words(process) for process in left]
        silent = [
            silent_end(process, code)
            for process, code in ended.items()
            if self._told.owes(process) and (code or not may_only_help(process))
        ]
        for failure in words:
            if not failure.again:
                # rank 0 may still write a checkpoint where all have agreed to leave
                orderly = self._attempt.section.timeout_s
                self._fail(failure, orderly if failure.agreed else LEAVE_S)
        for failure in silent:
            self._fail(failure, LOST_S)
        for failure in sorted(words, key=lambda failure: failure.follows):
            if failure.follows:
                self._fail(replace(failure, marks=self._hung.marks(self._told)), LOST_S)
            else:
                self._fail(failure, LEAVE_S)

    def _code_of_early_end(self) -> int | None:
        """Return what a process has ended with that has not told anything, if its launcher knows.

        A launcher may wait for the others then, as long as they wait for it.
        """
        if self._failure is not None or len(self._told.ranks) == self._attempt.local_count:
            return None
        return output.first_code(self._launcher_log)

    def _early_end(self, code: int) -> Failure:
        return Failure(
            reason=processes.how_ended(code),
            log=str(self._launcher_log),
            ask_log=True,
            again=code < 0,
        )

    def _fail(self, failure: Failure, seconds: float) -> None:
        """Note a failure if none was before that it may follow, and let the processes end."""
        if self._failure is None:
            self._failure = failure
            self._deadline = self._deadline or time.monotonic() + seconds
            if not failure.agreed:
                self._attempt.failures.write(failure)

    def _ask_other_machines(self) -> None:
        """Learn whether something has failed there, which the processes here may wait for."""
        now = time.monotonic()
        if not self._attempt.machines.several or self._deadline or now < self._next_file:
            return
        self._next_file = now + FILE_S
        self._elsewhere = self._attempt.failures.of_others()
        if self._elsewhere:
            self._deadline = now + LOST_S
        elif not self._is_done() and (lost := self._attempt.life.lost()):
            self._fail(lost, LOST_S)

    def _copy(self, *, at_the_end: bool = False) -> None:
        """Print what the first process of this machine prints."""
        ranks = self._told.ranks
        known = len(ranks) == self._attempt.local_count or (at_the_end and ranks)
        if known and self._console.path is None:
            first = next(iter(ranks.values()))
            self._console.follow(first.log or self._launcher_log)
        self._console.copy()

    def _pass_signal_on(self) -> None:
        """Ask the first process of this machine to stop, which all others follow."""
        number, ranks = self._stop.number, self._told.ranks
        if number is None or self._asked:
            return
        if 0 < len(ranks) < self._attempt.local_count:
            return  # they have met, and are about to say so
        self._asked = True
        first = next((p for p in ranks.values() if self._told.owes(p)), None)
        if first is None:
            self._stop.at_once = True  # there is nothing to save yet
            return
        with suppress(ProcessLookupError):
            os.kill(first.number, number)

    def _is_over(self) -> bool:
        """Return whether what is left of the processes has to be ended."""
        late = self._deadline is not None and time.monotonic() >= self._deadline
        return late or self._stop.at_once

    def _conclude(self, code: int) -> Ended:
        told, failure = self._told, self._explained()
        if told.result is not None:
            failure = None
        elif failure is None and self._elsewhere:
            failure = replace(self._elsewhere, follows=True)
        elif failure is None and not self._is_done_elsewhere():
            failure = self._of_launcher(code)
            if not self._stop.at_once:
                self._attempt.failures.write(failure)
        leader = next(iter(told.ranks), None)
        shown = failure is not None and (
            leader == 0 if failure.agreed else failure.log == str(self._console.path)
        )
        return Ended(told=told, failure=failure, shown=shown)

    def _is_done(self) -> bool:
        """Return whether other machines no longer need the processes here, and so each other."""
        ranks = self._told.ranks
        all_here = len(ranks) == self._attempt.local_count
        return all_here and all(process.done for process in ranks.values())

    def _is_done_elsewhere(self) -> bool:
        """Return whether the processes here are done, and the result comes from another machine."""
        return 0 not in self._told.ranks and self._is_done()

    def _explained(self) -> Failure | None:
        """Return the failure, with what the launcher says of a process whose end came too fast."""
        failure = self._failure
        if failure is None or failure.process is None or failure.words:
            return failure
        if failure.reason != processes.how_ended(None):
            return failure
        code = output.find_code(self._launcher_log, failure.process)
        return replace(failure, reason=processes.how_ended(code))

    def _of_launcher(self, code: int) -> Failure:
        """Explain an end that no process explains."""
        name = interpreter.program(self._attempt.command.arguments)
        how = processes.how_ended(code).partition(",")[0]
        if self._told.ranks:
            when = "before the run was finished"
        elif self._told.processes:
            when = "before the processes had met"
        else:
            when = "before any process had begun"
        limit = output.limit(self._launcher_log)
        return Failure(
            reason=f"the launcher {name} {how} {when}" + (f": {limit}" if limit else ""),
            words=True,
            log=str(self._launcher_log),
            ask_log=True,
            # a command that is wrong, or an import that fails, would fail again
            again=code < 0 or bool(self._told.processes) or self._attempt.machines.several,
        )

    @property
    def _launcher_log(self) -> Path:
        return self._attempt.log_folder / LAUNCHER_LOG


def _is_gone(process: int) -> bool:
    return processes.state(process) in processes.GONE

"""Attempts to carry a run out: the first, and those after a process was lost.

A launcher starts its processes once. When one of them is lost, on any machine, the exchanges of
the others fail, so every launcher ends. Each machine then ends what is left, meets the others where
it met them before, and starts its own processes again, which continue from the last checkpoint.
``docs/architecture.md`` has the states of this as a picture.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, final

from runner import errors
from runner.distributed.launching import cards
from runner.distributed.launching.command import line
from runner.distributed.meeting import rendezvous
from runner.distributed.meeting.host import NotNeededError
from runner.distributed.reporting.channel import CONTINUE, LOCAL_COUNT, RESTARTED, SIGN
from runner.distributed.supervising import elastic
from runner.distributed.supervising.failures import FILE, Failure, Failures
from runner.distributed.supervising.heartbeat import Life
from runner.distributed.supervising.output import short, show_tail
from runner.distributed.supervising.stop import StoppedError
from runner.distributed.supervising.watcher import Attempt, Watcher
from runner.errors import (
    DeviceError,
    InterruptedRunError,
    OtherRankError,
    RunnerError,
    StorageError,
)
from runner.storage.rundir import RunDir
from runner.terminal.display import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runner.distributed.launching.request import Launch
    from runner.distributed.meeting.rendezvous import Meeting
    from runner.distributed.supervising.reports import Told
    from runner.distributed.supervising.stop import Stop
    from runner.distributed.supervising.watcher import Ended
    from runner.storage.events import EventLog

SETTLE_S = 3.0
"""Time in which another machine tells what has happened there, where only the effect is known. One
that is gone tells nothing, and is waited for until its signs are missed."""
LOOK_S = 0.2
AGAIN_S = 2.0
"""Pause after an attempt in which the processes have not met."""


@final
class Attempts:
    """Carries out a run on the devices of this machine, in as many attempts as it may take."""

    def __init__(self, launch: Launch, stamp: str, events: EventLog, stop: Stop) -> None:
        """Prepare to start.

        Args:
            launch: What is to be started.
            stamp: A new name for what the processes print.
            events: Receives the commands, and why they are started again.
            stop: Whether signals ask to stop.
        """
        self._launch = launch
        self._section = launch.plan.recipe.distributed
        self._stamp = stamp
        self._events = events
        self._stop = stop
        # what the next attempt works with
        self._left = launch.local_count
        self._hidden: dict[str, str] = {}
        self._number = 0
        self._restarts = 0
        self._restarted = ""
        # what the last one has told
        self._folder: Path | None = None
        self._checkpoint: Path | None = None

    def carry_out(self) -> dict[str, Any] | None:
        """Return the result of the run; ``None`` on a machine that does not have it.

        Raises:
            RunnerError: The run has failed, and may not be started again.
        """
        try:
            return self._carry_out()
        except StoppedError:
            assert self._stop.number is not None, "a signal has come"
            raise self._stopped(self._stop.number, "while no process was there") from None

    def _carry_out(self) -> dict[str, Any] | None:
        begun = time.monotonic()
        while True:
            waits = max(0.0, begun + self._section.rendezvous_s - time.monotonic())
            try:
                attempt = self._prepare(waits)
            except NotNeededError:  # the run goes on without this machine
                raise
            except DeviceError as error:
                raise DeviceError("; ".join([str(error), *self._advice()])) from error
            with attempt.life:
                ended = self._watch(attempt)
                failure = ended.failure or self._failure_elsewhere(attempt, ended.told)
                if failure is None:
                    return ended.told.result
                failure = self._first(attempt, failure)
            self._note(ended)
            # A signal has decided the end: what the processes report after it is its effect.
            if self._stop.number is not None or not failure.again:
                self._give_up(failure, ended)
            if self._may_meet_again(failure, ended, begun):
                time.sleep(AGAIN_S)
                continue
            self._restart(attempt, failure, ended)
            # Each restart has all of the time to meet: an attempt may have trained for days.
            begun = time.monotonic()

    def _prepare(self, waits: float) -> Attempt:
        """Meet the other machines, and decide together what is started."""
        meeting = self._meet(waits)
        launch, leader = self._launch, meeting.told[0]
        logs = launch.logs(leader["stamp"], launch.machines.rank) / f"attempt_{self._number}"
        shared = launch.logs(leader["stamp"], 0)
        failures = Failures(shared / FILE, leader["name"], launch.machines.rank)
        life = Life(
            shared,
            leader["name"],
            meeting.machines,
            launch.machines.rank,
            self._section.machine_timeout_s,
        )
        with _told_to(failures):
            return self._prepared(meeting, logs, failures, life)

    def _prepared(self, meeting: Meeting, logs: Path, failures: Failures, life: Life) -> Attempt:
        launch, machines = self._launch, meeting.machines
        plan = launch.plan_with(meeting.devices * machines.count)
        asked, found = launch.plan.recipe.device.count, plan.recipe.device.count
        if found < asked:
            self._events.emit("run.fewer_devices", asked=asked, found=found)
        [command] = launch.commands(plan, logs, machines, self._hidden)
        self._events.emit("run.launched", commands=[line(command)])
        logs.mkdir(parents=True, exist_ok=True)
        local_count = machines.share(plan.recipe.device.count)
        return Attempt(
            command=command,
            environment={
                **self._environment(),
                LOCAL_COUNT: str(local_count),
                SIGN: str(life.sign.absolute()),
            },
            section=self._section,
            machines=machines,
            local_count=local_count,
            log_folder=logs,
            failures=failures,
            life=life,
        )

    def _meet(self, waits: float) -> Meeting:
        news = {
            "name": secrets.token_hex(8),
            "stamp": self._stamp,
            "asks": self._launch.asks,
            "devices": self._left,
            "images": elastic.train_images(self._folder),
        }
        return rendezvous.meet(
            self._launch.machines,
            waits,
            news,
            lambda text: self._events.emit("run.waiting", message=text),
            self._launch.choose,
        )

    def _advice(self) -> list[str]:
        """Say how a run continues that has begun."""
        if self._folder is None:
            return []
        return [f"runner resume {short(self._folder)} continues the run"]

    def _environment(self) -> dict[str, str]:
        known = self._checkpoint or self._folder
        environment = {CONTINUE: str(short(known))} if known else {}
        return environment | ({RESTARTED: self._restarted} if self._restarted else {})

    def _watch(self, attempt: Attempt) -> Ended:
        with (
            _told_to(attempt.failures),
            tempfile.TemporaryDirectory(prefix="runner-launch-") as place,
            self._stop.politely(),
        ):
            ended = Watcher(attempt, Path(place), self._stop, self._events).run()
        self._number += 1
        self._folder = ended.told.folder or self._folder
        self._checkpoint = ended.told.checkpoint or self._checkpoint
        return ended

    def _failure_elsewhere(self, attempt: Attempt, told: Told) -> Failure | None:
        """Wait for rank 0, which may still export; return its failure on another machine."""
        if told.result is not None or self._folder is None:
            return None
        result = RunDir(self._folder).result
        deadline = time.monotonic() + self._section.timeout_s
        while not result.exists() and time.monotonic() < deadline:
            if found := attempt.failures.of_others() or attempt.life.lost():
                return found
            time.sleep(LOOK_S)
        if result.exists():
            return None
        return Failure(
            reason=f"rank 0 has not told its result within {self._section.timeout_s:g} s after the "
            "processes of this machine were done; its own machine knows whether it still exports",
            words=True,
            again=False,
        )

    def _first(self, attempt: Attempt, failure: Failure) -> Failure:
        """Return what has failed first, on whichever machine."""
        if failure.agreed or not attempt.machines.several:
            return failure
        begun = time.monotonic()
        while (found := attempt.failures.first()) is None:
            if failure.follows and (missed := attempt.life.missed()):
                attempt.failures.write(missed)
                return missed
            passed = time.monotonic() - begun
            if passed > SETTLE_S:
                behind = attempt.failures.furthest_behind()
                # what nobody explains is most often a machine that is gone, which is missed later
                if behind or not failure.follows or passed > attempt.life.patience_s:
                    return behind or failure
            time.sleep(LOOK_S)
        return found

    def _note(self, ended: Ended) -> None:
        """Note what has failed on this machine in the run folder, where it stays."""
        if self._folder is not None and ended.failure is not None and not ended.failure.agreed:
            name = f"{self._stamp}, attempt {self._number - 1}"
            machine = self._launch.machines.rank
            Failures(self._folder / FILE, name, machine).write(ended.failure)

    def _may_meet_again(self, failure: Failure, ended: Ended, begun: float) -> bool:
        """Return whether processes on several machines, which have not met, are to try once more.

        What is known to have failed is not tried again for nothing.
        """
        several = self._launch.machines.several
        if not several or ended.told.ranks or failure.rank is not None or not failure.follows:
            return False
        left = begun + self._section.rendezvous_s - time.monotonic()
        if left <= 0:
            self._give_up(failure, ended)
        self._events.emit(
            "warning",
            message=f"the processes have not met: {failure}; trying again for up to {left:.0f} s",
        )
        return True

    def _restart(self, attempt: Attempt, failure: Failure, ended: Ended) -> None:
        """Prepare another attempt, if there may be one."""
        # Without min_devices the same cards are tried again: most losses are not the card's fault.
        if self._section.min_devices is not None:
            self._leave_out(attempt, failure)
        if self._restarts == self._section.restarts or not self._left:
            self._give_up(failure, ended)
        self._restarts += 1
        known = self._checkpoint or self._folder
        fields = {
            "restart": self._restarts,
            "restarts": self._section.restarts,
            "reason": str(failure),
            "rank": None if failure.follows else failure.rank,
            "host": "" if failure.follows else failure.host,
            "log": failure.log,
            "continues": str(short(known)) if known else "",
        }
        self._restarted = json.dumps(fields)
        self._events.emit("run.restarted", **fields)

    def _leave_out(self, attempt: Attempt, failure: Failure) -> None:
        """Go on without the devices of this machine whose processes were lost."""
        local, machine = attempt.local_count, attempt.machines.rank
        lost = [rank % local for rank in failure.lost if rank // local == machine]
        if lost:
            device = self._launch.plan.device_entry
            chosen = self._launch.plan.recipe.device.cards
            environ = {**os.environ, **attempt.command.environment}
            self._hidden |= cards.without(device, chosen, lost, local, environ)
            self._left -= len(lost)

    def _give_up(self, failure: Failure, ended: Ended) -> NoReturn:
        """End; say why, if the processes have not.

        Raises:
            RunnerError: Why the run has ended.
        """
        if failure.agreed and ended.shown:
            raise errors.of_process(failure.code, str(failure))
        number = self._stop.number
        if not failure.agreed and number is not None:
            if failure.words and failure.code == 128 + number:  # it says what it has saved
                raise InterruptedRunError(str(failure), number)
            reason = "at once" if self._stop.at_once else f"and not saved: {failure}"
            raise self._stopped(number, reason)
        if failure.ask_log and not ended.shown:
            show_tail(failure.log)
        raise self._error(failure)

    def _error(self, failure: Failure) -> OtherRankError:
        details = [str(failure)]
        if not failure.agreed and failure.log is not None:
            details.append(f"what it has printed is in {short(Path(failure.log))}")
        if failure.again and self._restarts:
            details.append(f"{counted(self._restarts, 'restart')} did not help")
        if failure.again:
            details += self._advice()
        error = OtherRankError("; ".join(details))
        error.exit_code = failure.code
        return error

    def _stopped(self, number: int, reason: str) -> InterruptedRunError:
        kept = "there is no run folder yet"
        if self._folder is not None:
            kept = f"continue with: runner resume {short(self._folder)}"
        return InterruptedRunError(f"stopped by signal {number} {reason}; {kept}", number)


@contextmanager
def _told_to(failures: Failures) -> Iterator[None]:
    """Tell the other machines, which have met this one, of an error before its processes begin.

    Raises:
        StorageError: A file cannot be written.
    """
    try:
        yield
    except OSError as error:
        place = f" {error.filename}" if error.filename else ""
        found = StorageError(f"cannot write{place}: {error.strerror}")
        failures.write(_own(found))
        raise found from error
    except RunnerError as error:
        failures.write(_own(error))
        raise


def _own(error: RunnerError) -> Failure:
    host = socket.gethostname()
    return Failure(reason=f"{host}: {error}", words=True, code=error.exit_code, again=False)

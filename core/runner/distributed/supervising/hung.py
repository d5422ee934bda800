"""Processes that make no progress."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, final

from runner.distributed.reporting import progress, stacks
from runner.distributed.supervising.failures import Failure
from runner.distributed.supervising.processes import STATES, STOPPED, state, waits_in

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence
    from pathlib import Path

    from runner.distributed.reporting.stacks import Call
    from runner.distributed.supervising.reports import Process, Told
    from runner.recipe.schema import DistributedSection

STACKS = "stacks.txt"
WAITS = "waiting"
"""What the activity of a process begins with that waits for others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What is seen of one process."""

    process: Process
    seconds: float
    """Since it has shown progress."""
    marks: int
    activity: str
    state: str
    """The kernel's letter."""
    place: str
    """Where in the kernel it sleeps; "" if that is not known."""
    calls: Sequence[Call] = ()
    """Where its main thread is, the innermost first; none if it has not answered."""

    def __str__(self) -> str:
        """Describe it in one line."""
        process = self.process
        who = "a process that has not met the others"
        who = who if process.rank is None else f"rank {process.rank}"
        doing = STATES.get(self.state, self.state) + (f" in {self.place}" if self.place else "")
        activity = f"{self.activity}, " if self.activity else ""
        calls = f", at {self.calls[0]}" if self.calls else ""
        return f"{who} (process {process.number}): {activity}{doing}{calls}, {self.ago}"

    @property
    def ago(self) -> str:
        """For how long there was no progress."""
        return f"{self.seconds:.0f} s without progress"

    @property
    def functions(self) -> tuple[tuple[str, str], ...]:
        """Its calls without their lines, which change in one that asks again and again."""
        return tuple((call.file, call.function) for call in self.calls)


@final
class Watch:
    """Looks from time to time whether the processes of one attempt make progress."""

    def __init__(
        self,
        status: Path,
        section: DistributedSection,
        local_count: int,
        log_folder: Path,
        *,
        alone: bool,
    ) -> None:
        """Prepare to look.

        Args:
            status: The file that the processes tell in.
            section: Seconds that they may take.
            local_count: How many of them there are.
            log_folder: Receives the stacks of those that hang.
            alone: Whether there are none on other machines.
        """
        self._status = status
        self._section = section
        self._local_count = local_count
        self._log = log_folder / STACKS
        self._stacks: dict[int, str] = {}
        """Of those that were asked, by process; "" of one that has not answered."""
        self._alone = alone
        self._period = min(1.0, section.timeout_s / 4)
        self._begun = time.monotonic()
        self._next = 0.0

    def look(self, told: Told) -> tuple[Failure, Sequence[Sight]] | None:
        """Return what hangs, and what is seen of each process; ``None`` if all is well.

        Once one has left that waited in vain, the launcher is about to end the others, so this
        looks without a pause, and takes a stopped process for what it waited for.
        """
        now = time.monotonic()
        if now < self._next and not told.left:
            return None
        self._next = now + self._period
        to_meet = self._section.rendezvous_s + self._section.timeout_s
        if not told.processes and now >= self._begun + to_meet:
            return self._none_begins(now), []
        sights = [self._see(process, now) for process in self._of_interest(told)]
        stopped = told.left and any(sight.state in STOPPED for sight in sights)
        if not stopped and all(sight.seconds < self._allowed(sight.process) for sight in sights):
            return None
        sights = self._ask(sorted(sights, key=lambda sight: sight.process.rank or 0))
        return self._judge(sights), sights

    def marks(self, told: Told) -> int | None:
        """Return the steps of the process that has taken the fewest; ``None`` where none is known.

        Those count that have left, too.
        """
        seen = [progress.look(self._status, process.number) for process in told.ranks.values()]
        return min((found.marks for found in seen if found), default=None)

    def _of_interest(self, told: Told) -> list[Process]:
        """Return those that have to go on: not one that only helps the others to meet."""
        working = [process for process in told.processes.values() if told.works(process)]
        if len(told.ranks) == self._local_count:
            return [process for process in working if process.rank is not None]
        known = [p for p in working if p.rank is not None or p.local_rank is not None]
        return known or working

    def _allowed(self, process: Process) -> float:
        before = self._section.rendezvous_s if process.rank is None else 0.0
        return before + self._section.timeout_s

    def _none_begins(self, now: float) -> Failure:
        return Failure(
            reason=f"no process has begun within {now - self._begun:.0f} s of the launch; look "
            "whether the file system that Python and its packages are on answers",
            words=True,
        )

    def _see(self, process: Process, now: float) -> Sight:
        seen = progress.look(self._status, process.number)
        last = max(process.since, seen.time) if seen else process.since
        return Sight(
            process=process,
            seconds=now - last,
            marks=seen.marks if seen else 0,
            activity=seen.activity if seen else "",
            state=state(process.number),
            place=waits_in(process.number),
        )

    def _ask(self, sights: list[Sight]) -> list[Sight]:
        """Add where those are that answer, and keep it beside what they have printed."""
        # A stopped process cannot answer before it is continued.
        able = [sight.process.number for sight in sights if sight.state not in STOPPED]
        new = [process for process in able if process not in self._stacks]
        self._stacks |= dict.fromkeys(new, "") | stacks.ask(self._status, new)
        texts = [self._stacks.get(sight.process.number, "") for sight in sights]
        calls = map(stacks.main_thread, texts)
        sights = [replace(sight, calls=own) for sight, own in zip(sights, calls, strict=True)]
        if new and any(texts):
            told = zip(sights, texts, strict=True)
            with suppress(OSError):  # the console shows the innermost calls
                self._log.write_text(
                    "\n".join(f"{sight}\n{text}" for sight, text in told), encoding="utf-8"
                )
        return sights

    def _judge(self, sights: Sequence[Sight]) -> Failure:
        suspect = find_suspect(sights)
        elsewhere = find_elsewhere(sights)
        # Where others are on machines that are not seen from here, being the only one elsewhere
        # proves nothing: that machine may have none that hangs.
        if self._alone:
            suspect = suspect or elsewhere
        longest = max(sights, key=lambda sight: sight.seconds)
        if suspect is not None and suspect.process.rank is not None:
            return self._hangs(suspect, longest)
        place = f" on {longest.process.host}" if longest.process.host else ""
        where = f"; where its processes are: {self._log}" if any(self._stacks.values()) else ""
        reason = f"the run hangs{place}: {longest.ago}, {self._limit}{where}"
        failure = Failure(reason=reason, words=True)
        if suspect is not None or self._alone:
            return failure
        # Of several machines one may have none that hangs, and one that differs a moment only.
        fewest = min(sight.marks for sight in sights)
        found = elsewhere or (sights[0] if len(sights) == 1 else None)
        hangs = self._hangs(found, longest) if found else None
        differs = elsewhere is not None
        return replace(failure, follows=True, marks=fewest, hangs=hangs, differs=differs)

    @property
    def _limit(self) -> str:
        return f"distributed.timeout_s allows {self._section.timeout_s:g} s"

    def _hangs(self, suspect: Sight, longest: Sight) -> Failure:
        process = suspect.process
        since = suspect.ago
        if suspect.seconds < self._allowed(process) < longest.seconds:
            # It still shows progress, as in a loop of its own; the wait of the others is the proof.
            since = f"{longest.seconds:.0f} s that others have waited"
        doing = f" ({suspect.activity})" if suspect.activity else ""
        stopped = " and is stopped" if suspect.state in STOPPED else ""
        return Failure(
            reason=f"hangs{doing}{stopped}: {since}, {self._limit}",
            rank=process.rank,
            host=process.host,
            log=str(process.log) if process.log else None,
            lost=[] if process.rank is None else [process.rank],
        )


def find_suspect(sights: Sequence[Sight]) -> Sight | None:
    """Return the one process that the others wait for; ``None`` if nothing tells which it is.

    It is one that was stopped, has not met the others, has come less far than all of them, or is
    the only one that does not say that it waits.
    """
    fewest = min(sight.marks for sight in sights)
    for found in (
        [sight for sight in sights if sight.state in STOPPED],
        [sight for sight in sights if sight.process.rank is None],
        [sight for sight in sights if sight.marks == fewest],
        [sight for sight in sights if not sight.activity.startswith(WAITS)],
    ):
        if len(found) == 1 and (len(sights) > 1 or found[0].state in STOPPED):
            return found[0]
    return None


def find_elsewhere(sights: Sequence[Sight]) -> Sight | None:
    """Return the only process that is not where all others are; ``None`` if there is none."""
    places: Sequence[Callable[[Sight], Hashable]] = (
        lambda sight: sight.functions,
        lambda sight: sight.functions[:1],  # rank 0 comes to the same call on a way of its own
        lambda sight: sight.place,
    )
    for place in places:
        known = [sight for sight in sights if place(sight)]
        common = Counter(map(place, known)).most_common(1)
        if common and common[0][1] == len(known) - 1 > 1:
            [found] = [sight for sight in known if place(sight) != common[0][0]]
            return found
    return None

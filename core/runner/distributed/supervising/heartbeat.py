"""Signs of life of the machines of a run, so that one that is gone is missed soon.

A machine that loses its power tells nobody, and an exchange with it may wait as long as
``distributed.timeout_s`` allows. So during an attempt each machine renews a small file that the
others see, and takes it away when it leaves. Machine 0 looks at the files of all, and each other
one at that of machine 0, which tells them of the rest: thousands of pairs would load a file system.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, final

from runner.distributed.supervising.failures import Failure

if TYPE_CHECKING:
    from pathlib import Path

    from runner.distributed.machines import Machines

RENEW_S = 5.0
"""How often signs are given and looked for, or six times in the time that is allowed."""


@final
class Life:
    """Shows that this machine is there, and notices when another one is not; a context manager."""

    def __init__(
        self, folder: Path, attempt: str, machines: Machines, number: int, seconds: float
    ) -> None:
        """Prepare to show and look.

        Args:
            folder: A folder that all machines see.
            attempt: What they call this attempt, and no other.
            machines: Those that take part, and the place of this one among them.
            number: Of this machine, as people know it.
            seconds: Without a sign after which a machine is lost.
        """
        self._folder = folder
        self._attempt = attempt
        self._number = number
        self._place = machines.rank
        self._watched = range(1, machines.count) if machines.rank == 0 else range(1)
        self._seconds = seconds
        self._period = min(RENEW_S, seconds / 6)
        self._signs = 0
        self._looked = time.monotonic()
        self._seen: dict[int, tuple[str, float]] = {}
        """What each of the others has shown last, and for how long nothing new."""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._live, name="alive", daemon=True)
        self._several = machines.several

    @property
    def sign(self) -> Path:
        """The file of this machine."""
        return self._file(self._place)

    def __enter__(self) -> Life:
        """Do nothing yet: a launcher is started with Python after a fork, so without threads."""
        return self

    def begin(self) -> None:
        """Begin to show and to look, in a thread, whatever else takes its time here."""
        if self._several:
            self._thread.start()

    def __exit__(self, *_: object) -> None:
        """Leave."""
        self._over.set()
        if self._thread.ident is not None:  # it was started, and may have ended by now
            self._thread.join(self._period)  # longer where the file system does not answer
            with suppress(OSError):
                self.sign.unlink()

    def lost(self) -> Failure | None:
        """Return another machine that gives no sign."""
        return self._quiet_for(self._seconds)

    @property
    def patience_s(self) -> float:
        """Time in which a machine that is gone is missed, here or by machine 0, which tells."""
        return 3 * self._period + RENEW_S / 5

    def missed(self) -> Failure | None:
        """Return one that has missed two signs, where it is known that some process was lost."""
        return self._quiet_for(2 * self._period)

    def look(self) -> None:
        """Give a sign, and look for those of the others."""
        now = time.monotonic()
        passed, self._looked = now - self._looked, now
        self._show()
        for place in self._watched:
            before, quiet = self._seen.get(place, ("", 0.0))
            shown = self._read(place)
            if shown != before:
                quiet = 0.0
            elif passed < 2 * self._period:  # else this one stood still, as the others may have
                quiet += passed
            self._seen[place] = (shown, quiet)

    def _live(self) -> None:
        self.look()
        while not self._over.wait(self._period):
            self.look()

    def _show(self) -> None:
        self._signs += 1
        words = {
            "attempt": self._attempt,
            "machine": self._number,
            "host": socket.gethostname(),
            "signs": self._signs,
        }
        new = self.sign.with_name(f"{self.sign.name}.new")
        with suppress(OSError):  # machine 0 may not have made the folder yet
            new.write_text(json.dumps(words), encoding="utf-8")
            new.replace(self.sign)

    def _read(self, place: int) -> str:
        """Return what a machine shows; "" if it has not come yet, or has left."""
        with suppress(OSError, ValueError):
            text = self._file(place).read_text(encoding="utf-8")
            if json.loads(text)["attempt"] == self._attempt:
                return text
        return ""

    def _quiet_for(self, seconds: float) -> Failure | None:
        shown, quiet = max(
            (seen for seen in list(self._seen.values()) if seen[0]),
            key=lambda seen: seen[1],
            default=("", 0.0),
        )
        if not shown or quiet < seconds:
            return None
        words = json.loads(shown)
        return Failure(
            reason=f"machine {words['machine']} ({words['host']}) has given no sign of life for "
            f"{quiet:.0f} s: it is off, its runner is stopped, or it no longer reaches "
            f"{self._folder}",
            words=True,
        )

    def _file(self, place: int) -> Path:
        return self._folder / f".alive_{place}"

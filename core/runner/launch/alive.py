"""Signs of life of the machines of a run, so that one that is gone is missed within a minute.

A machine that loses its power tells nobody, and an exchange with it may wait as long as
``distributed.timeout_s`` allows. So during an attempt each machine renews a small file that the
others see, and takes it away when it leaves. Machine 0 looks at the files of all, and each other
one at that of machine 0, which tells them of the rest: thousands of pairs would load a file system.
"""

from __future__ import annotations

import json
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING, final

from runner.launch.failures import Failure

if TYPE_CHECKING:
    from pathlib import Path

    from runner.machines import Machines

RENEW_S = 5.0
LOST_S = 60.0
"""Time without a sign after which a machine is gone. A network file system may show a little later
what has changed, and a machine may stand still for a while."""
MISSED_S = 2 * RENEW_S
"""The same where it is known that some process was lost, and not which."""


@final
class Life:
    """Shows that this machine is there, and notices when another one is not; a context manager."""

    def __init__(self, folder: Path, attempt: str, machines: Machines, number: int) -> None:
        """Prepare to show and look.

        Args:
            folder: A folder that all machines see.
            attempt: What they call this attempt, and no other.
            machines: Those that take part, and the place of this one among them.
            number: Of this machine, as people know it.
        """
        self._folder = folder
        self._attempt = attempt
        self._place = machines.rank
        self._number = number
        self._watched = range(1, machines.count) if machines.rank == 0 else range(1)
        self._alone = not machines.several
        self._signs = 0
        self._looked = time.monotonic() - RENEW_S
        self._seen: dict[int, tuple[str, float]] = {}
        """What each of the others has shown last, and for how long nothing new."""

    def __enter__(self) -> Life:
        """Begin."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave."""
        with suppress(OSError):
            self._file(self._place).unlink()

    def lost(self, seconds: float = LOST_S) -> Failure | None:
        """Show that this machine is there, and return the first other one that is not.

        Call it every few seconds.

        Args:
            seconds: Without a sign after which a machine is taken for lost.
        """
        passed = time.monotonic() - self._looked
        if not self._alone and passed >= RENEW_S:
            self._looked += passed
            self._show()
            for place in self._watched:
                before, quiet = self._seen.get(place, ("", 0.0))
                shown = self._read(place)
                # where this process or the file system stood still, so may the others have
                quiet = quiet + min(passed, 2 * RENEW_S) if shown == before else 0.0
                self._seen[place] = (shown, quiet)
        for shown, quiet in self._seen.values():
            if shown and quiet >= seconds:
                return self._failure(shown, quiet)
        return None

    def _show(self) -> None:
        self._signs += 1
        words = {
            "attempt": self._attempt,
            "machine": self._number,
            "host": socket.gethostname(),
            "signs": self._signs,
        }
        file = self._file(self._place)
        new = file.with_name(f"{file.name}.new")
        with suppress(OSError):  # machine 0 may not have made the folder yet
            new.write_text(json.dumps(words), encoding="utf-8")
            new.replace(file)

    def _read(self, place: int) -> str:
        """Return what a machine shows; "" if it has not come yet, or has left."""
        with suppress(OSError, ValueError):
            text = self._file(place).read_text(encoding="utf-8")
            if json.loads(text)["attempt"] == self._attempt:
                return text
        return ""

    def _failure(self, shown: str, seconds: float) -> Failure:
        words = json.loads(shown)
        return Failure(
            reason=f"machine {words['machine']} ({words['host']}) has given no sign of life for "
            f"{seconds:.0f} s: it is off, its runner is stopped, or it no longer reaches "
            f"{self._folder}",
            words=True,
        )

    def _file(self, place: int) -> Path:
        return self._folder / f".alive_{place}"

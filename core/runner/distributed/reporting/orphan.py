"""Processes of a run notice that their parent, a ``runner``, was killed.

They stop as if it had been interrupted, and save. A launcher cannot be relied on for this: torchrun
asks its processes to stop when it is interrupted, msrun kills them.
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

from runner.distributed.reporting import channel, progress


def follow(status: Path, timeout_s: float) -> None:
    """Interrupt this process when the parent of its launcher is gone.

    Before the processes have met there is nothing to save, and they, or one that only helps them,
    may wait for each other: then all of this machine are killed.

    Args:
        status: The file in which processes report.
        timeout_s: Seconds without progress after which this process, which nobody else watches any
            more, is killed.
    """
    if parent := os.environ.get(channel.PARENT):
        arguments = (int(parent), status, timeout_s)
        threading.Thread(target=_wait, args=arguments, name="parent", daemon=True).start()


def _wait(parent: int, path: Path, timeout_s: float) -> None:
    # where a framework handles signals, every thread but one must hold them back
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    with suppress(ProcessLookupError):  # it is gone already
        descriptor = os.pidfd_open(parent)
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        poll.poll()
        os.close(descriptor)
    try:
        met = any(note.what == "met" for note in channel.read(path))
    except OSError:  # the parent has ended in order, and removed its folder
        met = True
    take_sign_away()
    if not met:
        family = channel.marked(frozenset([f"{channel.STATUS}={path}".encode()]))
        for process in sorted(family, key=os.getpid().__eq__):  # this one last
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGINT)
    asked = last = time.monotonic()
    while time.monotonic() < last + timeout_s:
        time.sleep(min(1.0, timeout_s / 4))
        seen = progress.look(path, os.getpid())
        last = max(asked, seen.time) if seen else asked
    os.kill(os.getpid(), signal.SIGKILL)


def take_sign_away() -> None:
    """Remove this machine's sign of life, which nobody renews any more.

    The other machines would miss it while all save and leave together.
    """
    if sign := os.environ.get(channel.SIGN):
        with suppress(OSError):
            Path(sign).unlink()

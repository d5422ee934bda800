"""Processes of a run notice that the ``runner`` that has started them was killed.

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
from runner.distributed.signals import SIGNALS
from runner.distributed.supervising import heartbeat
from runner.distributed.supervising.processes import marked

STARTER = "RUNNER_LAUNCH_STARTER"
"""Number of the process that has started a launcher."""


def follow(timeout_s: float) -> None:
    """Interrupt this process when who has started its launcher is gone.

    Before the processes have met there is nothing to save, and they, or one that only helps them,
    may wait for each other: then all of this machine are killed.

    Args:
        timeout_s: Seconds without progress after which this process, which nobody else watches any
            more, is killed.
    """
    starter, path = os.environ.get(STARTER), os.environ.get(channel.STATUS)
    if starter and path:
        arguments = (int(starter), Path(path), timeout_s)
        threading.Thread(target=_wait, args=arguments, name="starter", daemon=True).start()


def _wait(starter: int, path: Path, timeout_s: float) -> None:
    # where a framework handles signals, every thread but one must hold them back
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    with suppress(ProcessLookupError):  # it is gone already
        descriptor = os.pidfd_open(starter)
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        poll.poll()
        os.close(descriptor)
    try:
        met = any(note.what == "met" for note in channel.read(path))
    except OSError:  # its folder is gone: it had put things away
        met = True
    heartbeat.forget()
    if not met:
        mark = f"{channel.STATUS}={path}".encode()
        for process in sorted(marked(frozenset([mark])), key=os.getpid().__eq__):  # this one last
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGINT)
    asked = last = time.monotonic()
    while time.monotonic() < last + timeout_s:
        time.sleep(min(1.0, timeout_s / 4))
        seen = progress.look(path, os.getpid())
        last = max(asked, seen.time) if seen else asked
    os.kill(os.getpid(), signal.SIGKILL)

"""Threads that work in the background without slowing down the computation."""

from __future__ import annotations

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

NICENESS = 19


def background_threads(count: int) -> ThreadPoolExecutor:
    """Open a pool whose threads run at the lowest priority where the system allows it.

    On a CPU, a training step computes on all cores and waits for the slowest. A decoding thread
    of equal priority takes half a core for milliseconds, and all cores wait; one of low priority
    takes what the computation leaves.
    """
    return ThreadPoolExecutor(count, thread_name_prefix="runner-images", initializer=_lower)


def _lower() -> None:
    # Linux gives each thread its own niceness; elsewhere the call would change the whole process.
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)

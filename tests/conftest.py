"""What tests of all parts share."""

from __future__ import annotations

import ctypes
import gc
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from runner.distributed.signals import SIGNALS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

TRAPS = ("random", "queue", "statistics", "selectors", "numpy", "yaml", "torch", "mindspore")
TRAP = """
import sys
open({marker!r}, "a").write(__name__ + " " + " ".join(sys.orig_argv) + "\\n")
raise ImportError(__name__ + " is a file of the user")
"""


@pytest.fixture(scope="session")
def set_traps() -> Callable[[Path], Path]:
    """Put files into a folder that have the names of modules; return what they write to."""

    def put(folder: Path) -> Path:
        marker = folder / "executed.txt"
        for name in TRAPS:
            (folder / f"{name}.py").write_text(TRAP.format(marker=str(marker)), encoding="utf-8")
        return marker

    return put


@pytest.fixture(scope="session", autouse=True)
def usual_signals() -> None:
    """Let signals mean what they mean in a terminal.

    Tests send them to processes that inherit what this one ignores: SIGHUP where it was started
    with nohup, SIGINT and SIGQUIT where a shell runs it in the background.
    """
    for number in SIGNALS:
        if signal.getsignal(number) == signal.SIG_IGN:
            usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, usual)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


@pytest.fixture(autouse=True)
def give_memory_back(request: pytest.FixtureRequest) -> Iterator[None]:
    """Return what a slow test freed to the system.

    Networks of full size leave gigabytes behind, which device ``cpu`` keeps for its next step, and
    which the processes that other tests start would lack.
    """
    yield
    if sys.platform == "linux" and request.node.get_closest_marker("slow"):
        gc.collect()
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of the GNU C library
        if trim:
            trim(0)

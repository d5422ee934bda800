"""What tests of all parts share."""

from __future__ import annotations

import ctypes
import gc
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


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

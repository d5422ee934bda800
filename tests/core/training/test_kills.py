"""Runs that are killed at file events end, once resumed, as one that was not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FAKE = ROOT / "tests" / "data" / "third_party" / "fake_framework"


def kill(processes, kills):
    return subprocess.run(
        [
            *(sys.executable, ROOT / "benchmarks" / "kills.py", "fake", str(processes)),
            *("--kills", str(kills), "--seed", "1"),
        ],
        env={**os.environ, "PYTHONPATH": str(FAKE), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(("processes", "kills"), [(1, 4), (2, 1)])
def test_a_run_that_is_killed_at_a_file_event_ends_as_if_nothing_had_happened(processes, kills):
    done = kill(processes, kills)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("as if nothing had happened") == kills


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_thirty_kills_at_file_events_change_nothing(processes):
    done = kill(processes, 30)
    assert done.returncode == 0, done.stdout + done.stderr

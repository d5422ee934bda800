"""A stand-in for the vendor's compiler and inference tool."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

CANN = Path(__file__).parent / "cann"


@pytest.fixture
def ais_bench(monkeypatch):
    """Install the stand-in for the inference tool in this process, for one test."""
    monkeypatch.syspath_prepend(CANN)
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "ais_bench"]:
        del sys.modules[name]


@pytest.fixture
def with_atc(monkeypatch):
    """Put the stand-in for the compiler into the path."""
    tools = os.pathsep.join([str(CANN), str(Path(sys.executable).parent)])
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")


@pytest.fixture
def without_atc(monkeypatch):
    """Leave of the path what has no compiler."""
    folders = os.environ["PATH"].split(os.pathsep)
    kept = [folder for folder in folders if not (Path(folder) / "atc").exists()]
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), *kept]))

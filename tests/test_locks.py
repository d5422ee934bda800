"""The locks in requirements/ pin what pyproject.toml asks for, within its ranges."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
LOCKS = sorted((ROOT / "requirements").glob("python*.txt"))
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def requirements(key: str) -> list[Requirement]:
    """Return a list of pyproject.toml (Python 3.10 has no reader of TOML)."""
    found = re.search(rf"^{key} = \[(.*?)\]$", PROJECT, re.MULTILINE | re.DOTALL)
    assert found, key
    return [Requirement(text) for text in re.findall(r'"([^"]+)"', found[1])]


def pins(lock: Path) -> dict[str, str]:
    lines = lock.read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def test_every_python_has_its_locks():
    assert {lock.stem for lock in LOCKS} == {
        "python3.10",
        "python3.10-lowest",
        "python3.10-mindspore",
        "python3.11",
        "python3.11-mindspore",
        "python3.12",
        "python3.12-mindspore",
        "python3.13",
    }


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_a_lock_pins_everything_within_its_range(lock):
    extras = ["dependencies", "torch", "onnx", "digits", "tensorboard", "dev"]
    if lock.stem.endswith("mindspore"):
        extras.append("mindspore")
    pinned = pins(lock)
    for requirement in (item for key in extras for item in requirements(key)):
        version = pinned[requirement.name.lower()]
        assert requirement.specifier.contains(version), requirement


def test_the_lowest_lock_has_the_lower_end_of_every_range():
    pinned = pins(ROOT / "requirements" / "python3.10-lowest.txt")
    for requirement in requirements("dependencies") + requirements("torch"):
        [lower] = [item.version for item in requirement.specifier if item.operator == ">="]
        assert pinned[requirement.name.lower()].startswith(lower), requirement

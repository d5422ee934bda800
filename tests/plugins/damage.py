"""What becomes of weights files, and what reading one may cost."""

from __future__ import annotations

import random
import tracemalloc
from typing import TYPE_CHECKING

from runner.errors import CheckpointError
from runner.plugins.registry import Registry
from runner.weights import given

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from runner.entries import FrameworkEntry

MEMORY = 64 << 20
"""Bytes that a file of a few KB may take."""
EXTREMES = (0, 1, 255, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1)
"""Numbers that are no sizes."""


def damaged(content: bytes, chance: random.Random) -> bytes:
    """Return what a bad disk, a broken transfer or a forger may make of a file."""
    data = bytearray(content)
    kind = chance.randrange(5)
    if kind == 0:  # a few bits
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    elif kind == 1:
        del data[chance.randrange(len(data)) :]
    elif kind == 2:  # a part that is missing, or there twice
        start = chance.randrange(len(data))
        end = min(len(data), start + chance.randint(1, 64))
        data[start:end] = data[start:end] * chance.choice((0, 2))
    elif kind == 3:  # a number that is no size
        width = chance.choice((1, 2, 4, 8))
        start = chance.randrange(max(1, len(data) - width))
        number = chance.choice(EXTREMES) % (1 << 8 * width)
        data[start : start + width] = number.to_bytes(width, "little")
    else:
        start = chance.randrange(len(data))
        data[start : start + 16] = chance.randbytes(16)
    return bytes(data)


def check(path: Path, framework: FrameworkEntry) -> str:
    """Read a file, and return why it is refused; empty if it is not."""
    tracemalloc.start()
    try:
        stored = given.read(path, framework, Registry([], [])).stored
        assert stored.sets
        message = ""
    except CheckpointError as error:
        message = str(error)
        assert str(path) in message
        assert len(message) < 1000
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < MEMORY, f"{peak} bytes were taken"
    return message


def check_many(
    write: Callable[[Path], None], path: Path, framework: FrameworkEntry, seeds: range
) -> None:
    """Damage a file once with each seed, and read it."""
    write(path)
    content = path.read_bytes()
    assert not check(path, framework)
    refused = 0
    for seed in seeds:
        path.write_bytes(damaged(content, random.Random(seed)))
        refused += bool(check(path, framework))
    assert refused > len(seeds) // 4

"""Damage to what a run has left: every record bit by bit, every other file at random, by a seed.

A reader must refuse what it is given with an error of its own, or find in it what was written.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runner.artifacts import artifact
from runner.errors import RunnerError
from runner.storage import checkpoint, rundir

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@dataclass(frozen=True)
class Target:
    """A file, and what reads it."""

    path: Path
    read: Callable[[], Any]


def records_of(run: Path) -> list[Target]:
    """Return the records of a finished run that has exported."""
    folder = rundir.RunDir(run)
    saved = checkpoint.latest(folder.checkpoints)
    [exported] = folder.exports.iterdir()
    return [
        Target(folder.manifest, folder.read_manifest),
        Target(folder.result, folder.read_result),
        Target(folder.checkpoints / checkpoint.BEST, lambda: checkpoint.best(folder.checkpoints)),
        Target(saved / checkpoint.INFO, lambda: checkpoint.read_info(saved)),
        Target(exported / artifact.INFO, lambda: artifact.read(exported)),
    ]


def files_of(run: Path) -> list[Target]:
    """Return the other files that have a checksum."""
    folder = rundir.RunDir(run)
    saved = checkpoint.latest(folder.checkpoints)
    [exported] = folder.exports.iterdir()

    def read_artifact() -> Any:
        return artifact.read(exported)

    listed = sorted(path for path in exported.rglob("*") if path.is_file())
    return [
        *(
            Target(saved / name, lambda: len(checkpoint.load(saved).weights))
            for name in (checkpoint.WEIGHTS, checkpoint.STATE, checkpoint.RECIPE)
        ),
        *(Target(path, read_artifact) for path in listed if path.name != artifact.INFO),
    ]


def every_bit(data: bytes) -> Iterator[bytes]:
    """Yield ``data`` with one bit changed, for each of its bits."""
    for position in range(8 * len(data)):
        yield _flipped(data, position)


def some_bits(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Yield ``data`` with one bit changed, ``count`` times."""
    chosen = random.Random(seed)
    for _ in range(count):
        yield _flipped(data, chosen.randrange(8 * len(data)))


def damaged(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Yield ``data`` cut, extended, with bytes changed, exchanged or set to zero."""
    chosen = random.Random(seed)
    for number in range(count):
        start = chosen.randrange(len(data))
        end = min(len(data), start + chosen.choice((1, 2, 8, 100)))
        part = chosen.randbytes(end - start)
        yield (
            data[:start],
            data + part,
            data[:start] + part + data[end:],
            data[:start] + data[end:],
            data[:start] + bytes(end - start) + data[end:],
        )[number % 5]


def accepted(target: Target, changes: Iterator[bytes]) -> tuple[int, int]:
    """Give each change to the reader; return how many it took for the original, and of how many.

    Raises:
        AssertionError: One was taken for something else.
        Exception: Any that a reader raises that is none of its own.
    """
    original, expected = target.path.read_bytes(), target.read()
    taken = total = 0
    try:
        for data in changes:
            total += 1
            target.path.write_bytes(data)
            try:
                found = target.read()
            except RunnerError:
                continue
            assert found == expected, (target.path, data)
            taken += 1
    finally:
        target.path.write_bytes(original)
    return taken, total


def _flipped(data: bytes, position: int) -> bytes:
    changed = bytearray(data)
    changed[position // 8] ^= 1 << position % 8
    return bytes(changed)

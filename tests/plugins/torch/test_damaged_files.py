"""Weights files that were cut, changed or forged: refused in words, at no cost of memory."""

from __future__ import annotations

import random
import struct
import tracemalloc
from typing import TYPE_CHECKING

import pytest
from safetensors.torch import save_file
from tests.plugins.torch.test_saved_files import write_tar

from runner import weights
from runner.errors import CheckpointError
from runner.registry import Registry
from runner_torch.autoload import torch
from runner_torch.plugin import runner_register_frameworks

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

[FRAMEWORK] = runner_register_frameworks()
MEMORY = 64 << 20
"""Bytes that a file of a few KB may take."""
EXTREMES = (0, 1, 255, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1)
TENSORS = {
    "conv1.weight": torch.arange(108.0).reshape(4, 3, 3, 3),
    "bn1.running_mean": torch.arange(4.0),
    "fc.weight": torch.arange(12.0).reshape(3, 4),
}


def write_archive(path: Path) -> None:
    torch.save({"model": TENSORS, "epoch": 3}, path)


def write_plain(path: Path) -> None:
    torch.save({"model": TENSORS, "epoch": 3}, path, _use_new_zipfile_serialization=False)


def write_old(path: Path) -> None:
    write_tar(path, TENSORS)


def write_safetensors(path: Path) -> None:
    save_file({name: tensor.bfloat16() for name, tensor in TENSORS.items()}, path)


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


def check(path: Path) -> str:
    """Read a file, and return why it is refused; empty if it is not."""
    tracemalloc.start()
    try:
        stored = weights.read(path, FRAMEWORK, Registry([], [])).stored
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


def check_many(write: Callable[[Path], None], path: Path, seeds: range) -> None:
    write(path)
    content = path.read_bytes()
    assert not check(path)
    refused = 0
    for seed in seeds:
        path.write_bytes(damaged(content, random.Random(seed)))
        refused += bool(check(path))
    assert refused > len(seeds) // 4


FORMS = pytest.mark.parametrize(
    ("write", "name"),
    [
        (write_archive, "model.pth"),
        (write_plain, "model.pth"),
        (write_old, "model.pth"),
        (write_safetensors, "model.safetensors"),
    ],
    ids=["archive", "plain", "tar", "safetensors"],
)


@FORMS
def test_a_hundred_damaged_files(tmp_path: Path, write: Callable[[Path], None], name: str) -> None:
    check_many(write, tmp_path / name, range(100))


@pytest.mark.slow
@FORMS
def test_more_damaged_files(tmp_path: Path, write: Callable[[Path], None], name: str) -> None:
    check_many(write, tmp_path / name, range(100, 2000))


def test_a_header_of_all_memory(tmp_path: Path) -> None:
    for length in EXTREMES:
        path = tmp_path / "model.safetensors"
        path.write_bytes(struct.pack("<Q", length) + b'{"a":{}}')
        assert check(path)


def test_a_pickle_that_takes_what_it_has_not(tmp_path: Path) -> None:
    """Sizes and places in a pickle for which the machine would take memory at once."""
    path = tmp_path / "model.pth"
    write_plain(path)
    start = path.read_bytes()[: len(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.")]
    for operation in (
        b"r\xff\xff\xff\x7f",  # a place far away in the memo
        b"\x96\xff\xff\xff\xff\xff\xff\xff\x7f",  # a byte array
        b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f",  # bytes
        b"\x8b\xff\xff\xff\x7f",  # a number
        b"X\xff\xff\xff\xff",  # a text
        b"I" + b"9" * 100_000 + b"\n",  # a number in decimal
    ):
        path.write_bytes(start + b"\x80\x04N" + operation + b".")
        assert check(path)

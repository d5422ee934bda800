"""Weights files that were cut, changed or forged: refused in words, at no cost of memory."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest
from safetensors.torch import save_file
from tests.plugins.damage import EXTREMES, check, check_many
from tests.plugins.torch.test_saved_files import write_tar

from runner_torch.autoload import torch
from runner_torch.plugin import runner_register_frameworks

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

[FRAMEWORK] = runner_register_frameworks()
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
    check_many(write, tmp_path / name, FRAMEWORK, range(100))


@pytest.mark.slow
@FORMS
def test_more_damaged_files(tmp_path: Path, write: Callable[[Path], None], name: str) -> None:
    check_many(write, tmp_path / name, FRAMEWORK, range(100, 600))


def test_a_header_of_all_memory(tmp_path: Path) -> None:
    for length in EXTREMES:
        path = tmp_path / "model.safetensors"
        path.write_bytes(struct.pack("<Q", length) + b'{"a":{}}')
        assert check(path, FRAMEWORK)


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
        assert check(path, FRAMEWORK)

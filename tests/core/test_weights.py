"""Weights files that NumPy cannot hold."""

from __future__ import annotations

import json
import struct

import pytest

from runner import weights
from runner.errors import CheckpointError
from runner.testing.fake import runner_register_frameworks

[FRAMEWORK] = runner_register_frameworks()


@pytest.mark.parametrize(("kind", "size"), [("BF16", 2), ("F8_E4M3", 1)])
def test_number_types_that_numpy_lacks(tmp_path, kind, size):
    entry = {"a": {"dtype": kind, "shape": [2], "data_offsets": [0, 2 * size]}}
    header = json.dumps(entry).encode()
    file = tmp_path / "weights.safetensors"
    file.write_bytes(struct.pack("<Q", len(header)) + header + bytes(2 * size))
    with pytest.raises(CheckpointError, match=r"NumPy lacks, .* convert them to float32"):
        weights.read(file, FRAMEWORK)


def test_a_file_that_cannot_be_read(tmp_path, monkeypatch):
    def denied(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("safetensors.numpy.load_file", denied)
    (tmp_path / "weights.safetensors").touch()
    with pytest.raises(CheckpointError, match=r"cannot be read: .*Permission denied"):
        weights.read(tmp_path / "weights.safetensors", FRAMEWORK)

"""Weights files that NumPy cannot hold, and those of other frameworks."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from runner import plugins, weights
from runner.entries import FrameworkEntry
from runner.errors import CheckpointError, PluginError
from runner.registry import PluginInfo, Registered, Registry
from runner.testing.fake import open_engine, runner_register_frameworks

if TYPE_CHECKING:
    from tests.core.conftest import Project

[FAKE] = runner_register_frameworks()
OTHER = FrameworkEntry(name="other", summary="Reads nothing", open=open_engine)
NOTHING = Registry([], [])
FAKE_DISTRIBUTION = Path(__file__).parents[1] / "data" / "third_party" / "fake_framework"


@pytest.mark.parametrize(("kind", "size"), [("BF16", 2), ("F8_E4M3", 1)])
def test_number_types_that_numpy_lacks(tmp_path, kind, size):
    entry = {"a": {"dtype": kind, "shape": [2], "data_offsets": [0, 2 * size]}}
    header = json.dumps(entry).encode()
    file = tmp_path / "weights.safetensors"
    file.write_bytes(struct.pack("<Q", len(header)) + header + bytes(2 * size))
    with pytest.raises(CheckpointError, match=r"NumPy lacks, .* convert them to float32"):
        weights.read(file, FAKE, NOTHING)


def test_a_file_that_cannot_be_read(tmp_path, monkeypatch):
    def denied(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("safetensors.numpy.load_file", denied)
    (tmp_path / "weights.safetensors").touch()
    with pytest.raises(CheckpointError, match=r"cannot be read: .*Permission denied"):
        weights.read(tmp_path / "weights.safetensors", FAKE, NOTHING)


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    """A file of the fake framework."""
    path = tmp_path / "weights.npz"
    head = np.arange(1, 7, dtype=np.float32).reshape(2, 3).T
    np.savez(path, **{"head.weight": head, "steps": np.array(3)})
    return path


def test_the_own_framework_reads_in_this_process(npz: Path) -> None:
    assert set(weights.read(npz, FAKE, NOTHING)) == {"head.weight", "steps"}


@pytest.fixture
def registry(project: Project, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """The plugins of a machine where the fake framework is installed."""
    monkeypatch.setenv("PYTHONPATH", str(FAKE_DISTRIBUTION))
    return plugins.load().registry


def test_another_framework_reads_in_a_child_process(npz: Path, registry: Registry) -> None:
    found = weights.read(npz, OTHER, registry)
    assert found["head.weight"].tolist() == [[1, 4], [2, 5], [3, 6]]
    assert found["steps"].shape == ()
    assert found["steps"].dtype == np.int64


def test_what_another_framework_says_of_a_damaged_file(npz: Path, registry: Registry) -> None:
    npz.write_bytes(npz.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"weights.npz cannot be read as weights: BadZipFile"):
        weights.read(npz, OTHER, registry)


def test_a_child_process_that_fails(
    npz: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONPATH")
    message = r"weights.npz cannot be read with fake: .* ended with status 1: .*RUNNER_PLUGINS"
    with pytest.raises(CheckpointError, match=message):
        weights.read(npz, OTHER, registry)


def test_a_framework_that_is_not_installed(npz: Path) -> None:
    plugin = PluginInfo(name="fake", module="fake", distribution="acme", version="2", state="ready")
    item = Registered(
        kind="framework", entry=FAKE, plugin=plugin, reason="fake is not installed; pip install it"
    )
    with pytest.raises(PluginError) as caught:
        weights.read(npz, OTHER, Registry([plugin], [item]))
    assert str(caught.value) == (
        f"{npz} is a file of fake, which plugin 'fake' (acme 2) reads, but fake is not installed; "
        "pip install it; or convert it to .safetensors where that is installed"
    )


def test_a_format_that_nobody_reads(tmp_path: Path, registry: Registry) -> None:
    (tmp_path / "weights.h5").touch()
    message = r"weights.h5 is of no format .* a file that ends in .safetensors, .npz$"
    with pytest.raises(CheckpointError, match=message):
        weights.read(tmp_path / "weights.h5", FAKE, registry)

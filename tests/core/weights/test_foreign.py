"""Weights files that NumPy cannot hold, and those of other frameworks."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from runner.entries import FrameworkEntry
from runner.errors import CheckpointError, PluginError
from runner.plugins import loading
from runner.plugins.registry import PluginInfo, Registered, Registry
from runner.testing.fake import open_engine, runner_register_frameworks
from runner.weights import given

if TYPE_CHECKING:
    from tests.core.conftest import Project

[FAKE] = runner_register_frameworks()
OTHER = FrameworkEntry(name="other", summary="Reads nothing", open=open_engine)
NOTHING = Registry([], [])
FAKE_DISTRIBUTION = Path(__file__).parents[2] / "data" / "third_party" / "fake_framework"


def safetensors(path: Path, kind: str, numbers: bytes, count: int) -> Path:
    entry = {"a": {"dtype": kind, "shape": [count], "data_offsets": [0, len(numbers)]}}
    header = json.dumps(entry).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + numbers)
    return path


@pytest.mark.parametrize(
    ("kind", "numbers", "expected"),
    [
        # 1, -2.5, 3e38 and NaN in bfloat16: the upper halves of the same numbers in fp32
        ("BF16", "803f 20c0 627f c07f", [1, -2.5, float.fromhex("0x1.c4p+127"), np.nan]),
        # the largest, the smallest, a negative one and NaN (Micikevicius et al. 2022, table 1)
        ("F8_E4M3", "7e 01 c4 7f", [448, 2**-9, -3, np.nan]),
        ("F8_E5M2", "7b 01 c4 7f", [57344, 2**-16, -4, np.nan]),
    ],
)
def test_number_types_that_numpy_lacks(tmp_path, kind, numbers, expected):
    file = safetensors(tmp_path / "weights.safetensors", kind, bytes.fromhex(numbers), 4)
    found = given.read(file, FAKE, NOTHING).stored.sets[""]["a"]
    assert found.dtype == np.float32
    assert np.array_equal(found, np.array(expected, np.float32), equal_nan=True)


def test_a_number_type_that_no_weights_have(tmp_path):
    file = safetensors(tmp_path / "weights.safetensors", "F8_E8M0", bytes(2), 2)
    # safetensors 0.4 knows no such type either
    reason = "NumPy lacks .* convert them to float32|not a complete safetensors file"
    with pytest.raises(CheckpointError, match=reason):
        given.read(file, FAKE, NOTHING)


def test_a_file_that_cannot_be_read(tmp_path, monkeypatch):
    def denied(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("safetensors.safe_open", denied)
    (tmp_path / "weights.safetensors").touch()
    with pytest.raises(CheckpointError, match=r"cannot be read: .*Permission denied"):
        given.read(tmp_path / "weights.safetensors", FAKE, NOTHING)


@pytest.mark.parametrize("name", ["x.safetensors", "x.npz", "x.unknown"])
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "a pointer of Git LFS"),
        ("<html>\n", "a web page"),
    ],
)
def test_what_lies_in_the_place_of_a_file_is_named(tmp_path, name, text, reason):
    (tmp_path / name).write_text(text)
    with pytest.raises(CheckpointError, match=f"{name} is {reason}"):
        given.read(tmp_path / name, FAKE, NOTHING)


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    """A file of the fake framework."""
    path = tmp_path / "weights.npz"
    head = np.arange(1, 7, dtype=np.float32).reshape(2, 3).T
    values: dict[str, Any] = {"head.weight": head, "steps": np.array(3)}
    np.savez(path, **values)
    return path


def test_the_own_framework_reads_in_this_process(npz: Path) -> None:
    assert set(given.read(npz, FAKE, NOTHING).stored.sets[""]) == {"head.weight", "steps"}


@pytest.fixture
def registry(project: Project, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """The plugins of a machine where the fake framework is installed."""
    monkeypatch.setenv("PYTHONPATH", str(FAKE_DISTRIBUTION))
    return loading.load()


def test_another_framework_reads_in_a_child_process(npz: Path, registry: Registry) -> None:
    found = given.read(npz, OTHER, registry).stored.sets[""]
    assert found["head.weight"].tolist() == [[1, 4], [2, 5], [3, 6]]
    assert found["steps"].shape == ()
    assert found["steps"].dtype == np.int64


def test_what_another_framework_says_of_a_damaged_file(npz: Path, registry: Registry) -> None:
    npz.write_bytes(npz.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"weights.npz cannot be read as weights: BadZipFile"):
        given.read(npz, OTHER, registry)


def test_a_child_process_that_fails(
    npz: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONPATH")
    message = r"weights.npz cannot be read with fake: .* ended with status 1: .*RUNNER_PLUGINS"
    with pytest.raises(CheckpointError, match=message):
        given.read(npz, OTHER, registry)


def test_a_framework_that_is_not_installed(npz: Path) -> None:
    plugin = PluginInfo(name="fake", module="fake", distribution="acme", version="2", state="ready")
    item = Registered(entry=FAKE, plugin=plugin, reason="fake is not installed; pip install it")
    with pytest.raises(PluginError) as caught:
        given.read(npz, OTHER, Registry([plugin], [item]))
    assert str(caught.value) == (
        f"{npz} is a file of fake, which plugin 'fake' (acme 2) reads, but fake is not installed; "
        "pip install it; or convert it to .safetensors where that is installed"
    )


def test_a_format_that_nobody_reads(tmp_path: Path, registry: Registry) -> None:
    (tmp_path / "weights.h5").touch()
    message = r"weights.h5 is of no format .* a file that ends in .safetensors, .npz$"
    with pytest.raises(CheckpointError, match=message):
        given.read(tmp_path / "weights.h5", FAKE, registry)


def test_what_a_plugin_reads_must_be_arrays(npz: Path) -> None:
    def read(_: Path) -> Any:
        return {"head.weight": [1.0, 2.0]}

    framework = replace(FAKE, read_weights=read)
    with pytest.raises(PluginError, match=r"read_weights\(\) of framework 'fake' returned .*list"):
        given.read(npz, framework, NOTHING)

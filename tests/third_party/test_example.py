"""The example plugin is installed with pip into a fresh environment, and its recipe is run."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence

EXAMPLE = Path(__file__).parents[2] / "examples" / "runner_blobs"


def call(command: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="module")
def fresh_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create an environment that borrows the packages of this one, and install the example."""
    pytest.importorskip("torch")
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    site = call([str(python), "-c", "import site; print(site.getsitepackages()[0])"], folder)
    # addsitedir, unlike a plain line, also reads the .pth file of an editable installation.
    borrowed = sysconfig.get_path("purelib")
    (Path(site.stdout.strip()) / "borrowed.pth").write_text(
        f"import site; site.addsitedir({borrowed!r})\n"
    )
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    offline = ["--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    call([*pip, *offline, str(EXAMPLE)], folder)
    return python


def runner(python: Path, folder: Path, *arguments: str) -> Any:
    done = call([str(python), "-m", "runner", *arguments, "--json"], folder)
    return json.loads(done.stdout)


def test_the_installed_example_is_listed(fresh_python: Path, tmp_path: Path) -> None:
    plugins = {row["name"]: row for row in runner(fresh_python, tmp_path, "list-plugins")}
    blobs = plugins["blobs"]
    assert (blobs["distribution"], blobs["version"]) == ("runner-blobs", "0.1.0")
    assert (blobs["state"], blobs["reason"]) == ("ready", "")
    assert [row["name"] for row in blobs["entries"]["model"]] == ["tiny_cnn"]
    assert [row["name"] for row in blobs["entries"]["dataset"]] == ["blobs"]
    assert plugins["torch"]["state"] == "ready"


def test_the_example_keeps_the_promises_of_the_kit(fresh_python: Path, tmp_path: Path) -> None:
    program = """
from runner import DatasetEntry, DeviceEntry, FrameworkEntry, ModelEntry, OptimizerEntry
from runner.plugins.loading import load
from runner.testing import check_dataset, check_framework, check_plugin
check_plugin("runner_blobs.plugin")
find = load().find
dataset = find(DatasetEntry, "blobs").entry
check_dataset(dataset, dataset.config())
check_framework(
    find(FrameworkEntry, "torch").entry, find(DeviceEntry, "cpu", "torch").entry,
    find(ModelEntry, "tiny_cnn", "torch").entry, find(OptimizerEntry, "sgd", "torch").entry,
    learning_rate=0.1,
)
"""
    call([str(fresh_python), "-c", program], tmp_path)


def test_the_recipe_of_the_example_runs_by_name(fresh_python: Path, tmp_path: Path) -> None:
    result = runner(fresh_python, tmp_path, "run", "blobs")
    assert result["metrics"]["val.count"] == 240
    assert result["metrics"]["val.top1"] > 0.8
    assert (tmp_path / result["folder"] / "result.json").is_file()

"""No process of this program imports files of the folder in which a user stands."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runner.plugins import probe
from runner.system import interpreter
from runner.system.own_path import without_empty
from runner.testing import check_plugin
from runner.weights import foreign

PATHS = """
import json, os, sys
print(json.dumps([path for path in sys.path if os.path.abspath(path) == os.getcwd()]))
"""


@pytest.fixture
def executed(project, set_traps):
    """Stand among files with the names of modules; provide the file that they write to."""
    marker = set_traps(project.path)
    yield marker
    assert not marker.exists(), marker.read_text()


def python(*arguments: str, folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=False,
    )


def test_neither_the_launcher_nor_its_processes_import_them(project, executed):
    process = project.start("train", project.write_recipe(), "--devices", "2")
    _, err = process.communicate()
    assert process.returncode == 0, err


def test_the_process_that_asks_for_a_device_does_not(project, executed, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", project.environment["PYTHONPATH"])
    assert probe.probe("fake", "fake_cpu").available


def test_the_process_that_reads_foreign_weights_does_not(project, executed, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", project.environment["PYTHONPATH"])
    weights: dict[str, Any] = {"linear.weight": np.ones((2, 3), np.float32)}
    np.savez(project.path / "weights.npz", **weights)
    assert foreign.read(project.path / "weights.npz", "fake").sets[""].keys() == weights.keys()


def test_the_process_that_checks_what_a_plugin_imports_does_not(executed):
    check_plugin("runner.data.plugin")


@pytest.mark.parametrize(
    "python_path", ["", "{}/nowhere:", ":{}/nowhere", "{}/nowhere::{}/elsewhere"]
)
def test_a_command_started_by_hand_does_not(project, executed, python_path):
    value = python_path.replace("{}", str(project.path))
    done = python(
        "-m",
        "runner",
        "list",
        "datasets",
        folder=project.path,
        RUNNER_PLUGINS="data",
        PYTHONPATH=value,
    )
    assert done.returncode == 0, done.stderr


def test_children_are_given_no_empty_part_of_the_python_path(project, monkeypatch):
    (project.path / "show.py").write_text(PATHS)
    monkeypatch.setenv("PYTHONPATH", f"{project.path / 'nowhere'}:")
    command = interpreter.module("show")
    done = python(*command.arguments[1:], folder=project.path, **command.environment)
    assert "No module named show" in done.stderr


def test_a_folder_that_the_python_path_names_is_searched(project, monkeypatch):
    (project.path / "show.py").write_text(PATHS)
    monkeypatch.setenv("PYTHONPATH", ".")
    command = interpreter.module("show")
    assert command.environment == {}
    done = python(*command.arguments[1:], folder=project.path)
    assert done.returncode == 0, done.stderr


def test_a_program_that_imports_runner_keeps_its_own_folder(tmp_path):
    (tmp_path / "own.py").write_text("import runner, other\nprint('both')\n")
    (tmp_path / "other.py").write_text("")
    for arguments in (["own.py"], ["-m", "own"], ["-c", "import own"]):
        assert python(*arguments, folder=tmp_path).stdout == "both\n"


def test_empty_parts_go_and_all_others_stay():
    assert without_empty("") == ""
    assert without_empty(os.pathsep.join(["", "/a", "", ".", "/b", ""])) == "/a:.:/b"


def test_a_child_finds_its_arguments_and_its_name():
    command = interpreter.module("json.tool", "--help")
    done = python(*command.arguments[1:], folder=Path.cwd())
    assert "json.tool" in done.stdout
    assert interpreter.program(command.arguments) == "json.tool"
    assert interpreter.program(["msrun", "python"]) == "msrun"

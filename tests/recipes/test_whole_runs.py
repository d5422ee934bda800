"""Recipes from end to end, in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def run(folder, *arguments):
    done = subprocess.run(
        [sys.executable, "-m", "runner", "run", *arguments, "--json"],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("framework", "recipe"), [("torch", "quickstart"), ("mindspore", "quickstart_mindspore")]
)
def test_a_quickstart_learns_the_digits(framework, recipe, tmp_path):
    pytest.importorskip(framework)
    pytest.importorskip("sklearn")
    result = run(tmp_path, recipe)
    assert result["framework"] == framework
    assert result["best_top1"] > 0.975
    assert result["exports"]
    for record in result["exports"]:
        assert record["verified"]
        assert record["metrics"]["val.top1"] == result["best_top1"]


@pytest.mark.parametrize(
    ("framework", "arguments", "exports"),
    [
        ("mindspore", [], ["mindir", "onnx"]),
        ("torch", ["--framework", "torch", "--precision", "fp32"], ["onnx"]),
    ],
)
def test_the_real_resnext152_takes_steps_here(framework, arguments, exports, tmp_path):
    pytest.importorskip(framework)
    pytest.importorskip("onnxruntime")
    result = run(tmp_path, "resnext152_ascend", *arguments, "--device", "cpu", "--smoke")
    manifest = json.loads(next(tmp_path.rglob("manifest.json")).read_text())
    assert manifest["engine"]["parameters"] == 114_971_944
    assert result["steps"] == 3
    assert [record["name"] for record in result["exports"]] == exports
    assert all(record["verified"] for record in result["exports"])

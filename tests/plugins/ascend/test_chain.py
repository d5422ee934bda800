"""The whole offline chain, with stand-ins for compiler and card: its score is that of `eval`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

CANN = Path(__file__).parent / "cann"
RECIPE = """\
summary: Photographs with a small ResNet, for an offline model
framework: torch
device: cpu
dataset: {name: class_folders, root: images}
transforms:
  train:
    - {name: random_resized_crop, size: 32}
  eval:
    - {name: resize, shorter_side: 40}
    - {name: center_crop, size: 32}
model: {name: resnet18, stem: small}
optimizer: {name: sgd, learning_rate: 0.05}
schedule: {name: cosine}
train: {epochs: 2, batch_size: 10}
eval: {batch_size: 5}
export:
  - {name: onnx, opset: 11, verify_images: 2}
  - {name: om, soc_version: Ascend910A, batch_size: 4, verify_images: 2}
"""


def make_images(root):
    """Write photographs of seven classes that a network tells apart in part, of many sizes."""
    random = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 2)):
        for label in range(7):
            folder = root / split / f"class_{label}"
            folder.mkdir(parents=True)
            for number in range(count):
                height, width = random.integers(41, 90, 2)
                noise = random.integers(0, 120, (height, width, 3))
                noise[..., label % 3] += 15 * (label + 1)
                pixels = np.clip(noise, 0, 255).astype(np.uint8)
                name = f"val_{label * count + number:08}.JPEG"
                Image.fromarray(pixels).save(folder / name, "JPEG")


def call(folder, *command, **environ):
    """Run a command with the environment's programs, and the stand-ins where they are asked for."""
    tools = [str(Path(sys.executable).parent), os.environ["PATH"]]
    path = os.pathsep.join([str(CANN), *tools] if environ.pop("stand_ins", False) else tools)
    done = subprocess.run(
        [str(item) for item in command],
        cwd=folder,
        env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", **environ},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Provide a finished run whose offline model could not be compiled."""
    folder = tmp_path_factory.mktemp("chain")
    make_images(folder / "images")
    (folder / "photos.yaml").write_text(RECIPE)
    done = call(folder, "runner", "run", "photos.yaml", "--json")
    [run] = (folder / "runs" / "photos").iterdir()
    return folder, run, json.loads(done.stdout), done.stderr


@pytest.mark.slow
def test_a_model_that_is_not_compiled_is_reported(project):
    _, run, result, printed = project
    onnx, om = result["exports"]
    assert onnx["verified"] is True
    assert om["verified"] is None
    assert "atc was not found when it was exported" in om["reason"]
    assert om["details"]["compiled"] is False
    # what it was converted from is verified and evaluated all the same
    assert om["source"]["verified"] is True
    assert om["source_metrics"]["val.top1"] == onnx["metrics"]["val.top1"]
    assert "is not verified: the model is not compiled: atc was not found" in printed
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    assert any("atc was not found" in item.get("message", "") for item in events)


@pytest.mark.slow
def test_the_numbered_commands_give_the_score_of_eval(project, tmp_path):
    folder, run, result, _ = project
    artifact = tmp_path / "om"
    shutil.copytree(run / "exports" / "om", artifact)
    work = tmp_path / "work"
    work.mkdir()
    recipe = ("--recipe", folder / "photos.yaml", "--set", f"dataset.root={folder / 'images'}")
    call(work, artifact / "1_pixels.sh", *recipe)
    assert len(list((work / "prep_dataset").iterdir())) == 14
    assert (work / "prep_dataset" / "val_00000003.bin").stat().st_size == 40 * 40 * 3
    call(work, artifact / "2_convert.sh", stand_ins=True)
    call(work, artifact / "3_infer.sh", "--device", "0", PYTHONPATH=str(CANN))
    # four runs of four images, the last filled up with two that are not written
    assert len(list((work / "result").iterdir())) == 14
    found = json.loads(call(work, artifact / "4_score.sh", "--json").stdout)["metrics"]
    expected = result["exports"][0]["metrics"]
    assert found["val.loss"] == pytest.approx(expected["val.loss"], rel=1e-5)
    summary = json.loads((work / "result.json").read_text())["value"]
    assert {item["key"]: item["value"] for item in summary} | {
        "Number of images": "14",
        "Number of classes": "7",
        "Top1 accuracy": f"{100 * expected['val.top1']:.2f}%",
        "Top5 accuracy": f"{100 * expected['val.top5']:.2f}%",
    } == {item["key"]: item["value"] for item in summary}
    # a card computes in fp16
    half = {"PYTHONPATH": str(CANN), "STAND_IN_AIPP_DTYPE": "float16"}
    call(work, artifact / "3_infer.sh", **half)
    found = json.loads(call(work, artifact / "4_score.sh", "--json").stdout)["metrics"]
    assert found["val.loss"] == pytest.approx(expected["val.loss"], rel=1e-2)
    assert found["val.loss"] != pytest.approx(expected["val.loss"], rel=1e-7)


def test_a_compiled_model_is_verified_and_evaluated(project):
    """Where compiler and card are, the artifact is used like any other."""
    folder, run, result, _ = project
    there = {"stand_ins": True, "PYTHONPATH": str(CANN)}
    command = ("runner", "export", run, "--format", "om", "--output", "exported", "--json")
    [record] = json.loads(call(folder, *command, **there).stdout)
    assert record["verified"] is True
    assert record["verification"]["runtime"]["runtime"] == "ais_bench"
    assert record["details"]["compiled"] is True
    assert record["metrics"]["val.top1"] == result["exports"][0]["metrics"]["val.top1"]
    assert record["comparison"]["top1_agreement"] == 1
    timed = (
        "runner",
        "bench",
        "exported/om",
        "--trust",
        "--warmup",
        "1",
        "--steps",
        "3",
        "--json",
    )
    assert json.loads(call(folder, *timed, **there).stdout)["batch_size"] == 4

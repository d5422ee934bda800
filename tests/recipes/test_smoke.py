"""The recipes of two vendors take real steps here: their networks, precisions and update rules.

The quick ones see images of 32 to 64 pixels, to which every one of these networks adapts; the slow
ones are what ``runner run NAME --device cpu --smoke`` does.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from runner.planning.loading import load
from runner.training import dispatch
from runner.training.run import Request

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("torch")
pytest.importorskip("torchvision")

HALF = "precision.loss_scale=1"
"""Four images have larger gradients than a whole batch: with the recipe's factor they overflow, and
the steps are skipped."""


def smoke(name: str, folder: Path, *overrides: str, size: int | None = None) -> dict[str, Any]:
    """Carry a recipe out as ``--device cpu --smoke`` does, maybe with smaller images."""
    changes = ["device=cpu", *overrides]
    if size:
        exact = f"[{{name: resize, exact: [{size}, {size}]}}]"
        changes += [f"transforms.train={exact}", f"transforms.eval={exact}"]
    loaded = load(name, changes, shortened=True)
    result = dispatch.start(loaded, folder, Request(command=["run", name]))
    assert result is not None
    return result


def check_trained(result: dict[str, Any]) -> None:
    assert (result["steps"], result["metrics"]["val.count"]) == (3, 5)
    assert "train.loss" in result["metrics"], "every step was skipped"


@pytest.mark.parametrize(
    ("name", "size", "overrides"),
    [
        ("resnet18_mlu", 64, []),
        ("resnet50_mlu", 64, ["precision=fp32"]),
        ("mobilenet_v2_mlu", 32, [HALF]),
        ("googlenet_mlu", 32, [HALF]),
        ("shufflenet_v2_x0_5_mlu", 64, []),
        ("shufflenet_v2_x1_0_mlu", 64, []),
        ("shufflenet_v2_x1_5_mlu", 64, []),
        ("resnet50_npu", 48, [HALF]),
        ("resnet50_npu_1card", 32, [HALF]),
        ("mobilenet_v2_npu", 32, []),
        pytest.param("resnet50_mlu", 48, [HALF], marks=pytest.mark.slow),
        pytest.param("alexnet_mlu", 64, [], marks=pytest.mark.slow),
        pytest.param("resnet101_mlu", 64, [], marks=pytest.mark.slow),
        pytest.param("vgg16_mlu", 32, [HALF], marks=pytest.mark.slow),
    ],
)
def test_small_images_are_trained_on(name, size, overrides, tmp_path):
    check_trained(smoke(name, tmp_path, *overrides, size=size))


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("resnet50_mlu", ["precision=fp32"]),
        ("resnet18_mlu", []),
        ("resnet101_mlu", []),
        ("vgg16_mlu", ["precision=fp32"]),
        ("vgg16_bn_mlu", []),
        ("vgg19_mlu", []),
        ("mobilenet_v2_mlu", [HALF]),
        ("alexnet_mlu", []),
        ("googlenet_mlu", [HALF]),
        ("shufflenet_v2_x0_5_mlu", []),
        ("shufflenet_v2_x1_0_mlu", []),
        ("shufflenet_v2_x1_5_mlu", []),
        ("resnet50_npu", []),
        ("mobilenet_v2_npu", []),
    ],
)
def test_images_of_full_size_are_trained_on(name, overrides, tmp_path):
    sets = [word for text in overrides for word in ("--set", text)]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "runner", "run", name, "--device", "cpu", "--smoke"),
            "--json",
            *sets,
        ],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    check_trained(json.loads(done.stdout))


@pytest.mark.parametrize(
    "model",
    [
        "resnet50",
        "resnet18",
        "mobilenet_v2",
        "alexnet",
        "googlenet",
        "shufflenet_v2_x0_5",
        "shufflenet_v2_x1_0",
        "shufflenet_v2_x1_5",
        *(
            pytest.param(model, marks=pytest.mark.slow)
            for model in ("resnet101", "vgg16", "vgg16_bn", "vgg19")
        ),
    ],
)
def test_images_of_full_size_are_evaluated(model, tmp_path):
    result = smoke(f"{model}_mlu_infer", tmp_path)
    assert result["metrics"]["val.count"] == 5


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("resnet50_npu_eval", ["precision.level=O2"]),
        ("resnet18_mlu_infer", ["precision={compute: fp16, level: O3}"]),
    ],
)
def test_half_precision_is_evaluated(name, overrides, tmp_path):
    exact = "transforms.eval=[{name: resize, exact: [64, 64]}]"
    result = smoke(name, tmp_path, exact, *overrides)
    assert result["metrics"]["val.count"] == 5
    assert result["precision"] == "fp16"


def test_an_offline_model_is_prepared(tmp_path):
    pytest.importorskip("onnxruntime")
    [record] = smoke("mobilenet_v2_npu_om", tmp_path)["exports"]
    assert (record["name"], record["source"]["verified"]) == ("om", True)

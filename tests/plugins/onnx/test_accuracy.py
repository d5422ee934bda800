"""What a trained network loses in smaller types, on images that it has not seen."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

from runner import ModelEntry, hookimpl, recipe
from runner.planning import plan
from runner.plugins import loading
from runner.training import run

torch = pytest.importorskip("torch")
pytest.importorskip("onnxruntime")
pytest.importorskip("sklearn")

RECIPE = """\
summary: Digits with three convolutions
framework: torch
device: cpu
dataset: digits
transforms:
  train:
    - {name: resize, exact: [16, 16]}
  eval:
    - {name: resize, exact: [16, 16]}
model: small_net
optimizer: {name: sgd, learning_rate: 0.1, momentum: 0.9}
schedule: {name: cosine}
train: {epochs: 4, batch_size: 64}
eval: {batch_size: 50}
export:
  - {name: onnx_int8, reduce_range: true, max_top1_drop: 0.02}  # as any processor computes it
  - {name: onnx_int16, calibration_batches: 6, max_top1_drop: 0.01}
  - {name: onnx_fp16, keep_io_types: false, max_top1_drop: 0.005}
"""


def build(options: object, num_classes: int) -> Any:
    nn = torch.nn
    layers: list[Any] = []
    for before, after in ((3, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, num_classes))


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Train the network, and return what is told about each conversion."""
    folder = tmp_path_factory.mktemp("runs")
    module: Any = ModuleType("small")
    module.runner_register_models = hookimpl(
        lambda: [ModelEntry(name="small_net", framework="torch", summary="Small", build=build)],
        specname="runner_register_models",
    )
    registry = loading.load(extra=[("small", module)])
    file = folder / "digits.yaml"
    file.write_text(RECIPE)
    document = recipe.compose(file, [], environ={}, registry=registry)
    resolved = plan.resolve("digits", recipe.validate(document, registry), registry)
    result = run.start(resolved, registry, folder, run.Request(command=[]))
    assert result is not None
    return {record["name"]: record for record in result["exports"]}


@pytest.mark.parametrize(
    ("name", "agreement", "difference", "details"),
    [
        ("onnx_int8", 0.97, 0.1, {"calibration_images": 250, "activations": "uint8"}),
        ("onnx_int16", 0.98, 0.05, {"calibration_images": 300, "activations": "int16"}),
        ("onnx_fp16", 0.99, 0.01, {"weights": "float16"}),
    ],
)
def test_accuracy_beside_fp32(records, name, agreement, difference, details):
    record = records[name]
    assert record["verified"] is True
    assert record["source"]["verified"] is True
    assert record["source_metrics"]["val.top1"] > 0.9
    assert record["source_metrics"]["val.count"] == record["metrics"]["val.count"] == 359
    comparison = record["comparison"]
    assert comparison["images"] == 359
    assert comparison["top1_agreement"] >= agreement
    assert 0 < comparison["max_difference"] < difference
    assert comparison["top1_drop"] == pytest.approx(
        record["source_metrics"]["val.top1"] - record["metrics"]["val.top1"]
    )
    assert details.items() <= record["details"].items()


def test_more_bits_are_nearer(records):
    differences = [record["comparison"]["max_difference"] for record in records.values()]
    assert np.all(np.diff(differences) < 0)


def test_the_type_of_the_input(records):
    assert [record["input_type"] for record in records.values()] == [
        "float32",
        "float32",
        "float16",
    ]

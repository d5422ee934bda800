"""Recipes and compiled models on simulated MLUs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from runner.storage import checkpoint

pytest.importorskip("torch")

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.plugins.conftest import Machine, Outcome

RECIPE = """
summary: Shapes on a simulated MLU
framework: torch
device: mlu
seed: 3
dataset: {name: blobs, num_classes: 4, count: 64, size: 16}
transforms:
  train: [{name: random_crop, size: 16, padding: 2}]
  eval: [{name: resize, exact: [16, 16]}]
model: {name: tiny_cnn, width: 4}
optimizer: {name: sgd, learning_rate: 0.05, momentum: 0.9}
schedule: {name: cosine}
train: {epochs: 1, batch_size: 16}
eval: {batch_size: 8}
"""
EXPORTS = [
    {"name": "magicmind", "batch_size": 6},
    {"name": "magicmind", "batch_size": 6, "precision": "fp16"},
    {"name": "magicmind", "batch_size": 6, "quantize": "int8", "calibration_batches": 2},
    {"name": "magicmind", "batch_size": 4, "quantize": "int16", "precision": "fp16"},
]
LIBRARY = "libcnrt.so: cannot open shared object file: No such file or directory"


def train(runs: str, *arguments: str) -> list[str]:
    return ["train", "mlu.yaml", "--runs-dir", runs, "--json", *arguments]


@pytest.fixture(scope="module")
def machine(make_machine: Callable[..., Machine]) -> Machine:
    machine = make_machine(plugins="cambricon")
    (machine.path / "mlu.yaml").write_text(RECIPE)
    return machine


@pytest.fixture(scope="module")
def done(machine: Machine) -> Mapping[str, Outcome]:
    """Carry out what works, in one process: starting torch takes seconds."""
    commands = {
        "card": ["run", *train("card")[1:], "--set", f"export={json.dumps(EXPORTS)}"],
        "host": train("host", "--device", "cpu", "--set", "framework.memory_format=contiguous"),
        "bf16": train("bf16", "--precision", "bf16"),
        "fp16": train("fp16", "--precision", "fp16"),
        "artifact": [
            "eval",
            "card/mlu/*/exports/magicmind-2",
            "--recipe",
            "mlu.yaml",
            "--trust",
            "--json",
        ],
    }
    return dict(zip(commands, machine.together(*commands.values()), strict=True))


def test_training_happens_on_the_card_and_equals_the_processors(
    done: Mapping[str, Outcome], machine: Machine
):
    assert done["card"].json["device"] == "mlu"
    operations = done["card"].record["cards"]["0"]["operations"]
    assert operations["convolution_backward"] == 3 * 4, "three convolutions, four steps"
    assert not done["host"].record["cards"]
    card, host = machine.last_checkpoint("card"), machine.last_checkpoint("host")
    assert (card / checkpoint.WEIGHTS).read_bytes() == (host / checkpoint.WEIGHTS).read_bytes()
    [manifest] = machine.path.glob("card/*/*/manifest.json")
    device = json.loads(manifest.read_text())["device"]
    assert device["name"] == "Simulated MLU"
    assert device["torch_mlu"] == "0.0.simulated"


@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_autocast_runs_on_the_card(done: Mapping[str, Outcome], name: str):
    assert done[name].json["precision"] == name
    assert done[name].record["cards"]["0"]["operations"]["convolution_backward"] == 3 * 4


def test_models_are_compiled_for_the_card_as_the_vendors_example_does(
    done: Mapping[str, Outcome],
):
    exports = done["card"].json["exports"]
    assert [item["verified"] for item in exports] == [True] * 4, exports
    assert [item["input_shape"] for item in exports] == [[6, 3, 16, 16]] * 3 + [[4, 3, 16, 16]]
    compiled = done["card"].record["options"]["compiled"]
    assert [item["precisions"] for item in compiled] == [
        ["torch.float32"],
        ["torch.float16"],
        ["torch.float32", "torch.int8"],
        ["torch.float16", "torch.int16"],
    ]
    assert all(item["truncate_long_and_double"] for item in compiled)
    assert all(item["device"] == {"mlu_id": 0} for item in compiled)
    # whole batches of the 16 validation images: two of six, and four of the five of four asked for
    assert [item["details"].get("calibration_images") for item in exports] == [None, None, 12, 16]
    assert done["card"].record["calls"]["ptq.images"] == 12 + 16
    assert exports[0]["verification"]["runtime"]["device"] == "mlu:0"
    assert exports[1]["verification"]["runtime"]["input"] == "fp16"


def test_a_compiled_model_is_evaluated_in_whole_batches_without_the_models_code(
    done: Mapping[str, Outcome],
):
    [evaluated] = done["artifact"].json
    assert evaluated["metrics"]["val.count"] == 16
    assert (
        evaluated["metrics"]["val.top1"] == done["card"].json["exports"][1]["metrics"]["val.top1"]
    )
    assert done["artifact"].record["cards"], "its images were on the card"


@pytest.mark.slow  # only the back-end's name differs from what the tests of the NPU run
def test_two_processes_take_a_card_each(machine: Machine):
    together, records = machine.runner(*train("two", "--devices", "2"))
    assert together.returncode == 0, together.stderr
    workers = [record for record in records if record["cards"]]
    assert sorted(index for record in workers for index in record["cards"]) == ["0", "1"]
    assert all(record["calls"]["cncl.allreduce"] > 0 for record in workers)


def test_what_cannot_work_is_refused_and_never_runs_on_the_processor(machine: Machine):
    magicmind = ["export", "card/mlu/*", "--device", "cpu", "--format", "magicmind"]
    broken, empty, older, few, none = machine.together(
        [f"SIMULATED_BROKEN={LIBRARY}", *train("no")],
        ["SIMULATED_CARDS=0", "MLU_VISIBLE_DEVICES=", *train("no")],
        ["SIMULATED_BF16=0", *train("no", "--precision", "bf16")],
        [
            *(*magicmind, "--output", "few"),
            *("--set", 'export=[{"name": "magicmind", "batch_size": 17, "quantize": "int8"}]'),
        ],
        ["SIMULATED_CARDS=0", *magicmind, "--output", "none"],
    )
    for outcome in (broken, empty, older):
        assert outcome.code == 4, outcome.err
    assert f"answer: ImportError: {LIBRARY}" in broken.err, "the vendor's words"
    assert "torch_mlu finds no card" in empty.err
    assert "MLU_VISIBLE_DEVICES is ''" in empty.err
    assert "device mlu cannot compute in bf16: the hardware has no bf16" in older.err
    assert few.code == 7, few.err
    assert "has 16 images, fewer than one batch of 17" in few.err
    assert none.code == 7, none.err
    assert "models compiled by MagicMind need an MLU: torch_mlu finds no card" in none.err
    assert not (machine.path / "no").exists()
    assert not [name for name in ("few", "none") if any(machine.path.glob(f"{name}/**/*.json"))]


def test_without_the_package_the_recipe_is_explained_and_not_run(
    make_machine: Callable[..., Machine],
):
    bare = make_machine(plugins="cambricon", plugged_in=False)
    (bare.path / "mlu.yaml").write_text(RECIPE)
    missing, explained = bare.together(train("no"), ["explain", "mlu.yaml", "--devices", "4"])
    assert missing.code == 4
    assert "; to try it here: runner train" in missing.err
    assert "torch_mlu is not installed; install torch_mlu from Cambricon's SDK" in missing.err
    assert explained.code == 0, explained.err
    assert "4 mlu" in explained.out

"""An accelerator that nobody has heard of is one new folder; nothing else names a vendor."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.plugins.conftest import Machine

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "tests" / "data" / "third_party" / "acme"
RECIPE = """
summary: Shapes on a simulated Acme card
framework: torch
device: acme
seed: 3
dataset: {name: blobs, num_classes: 4, count: 32, size: 16}
transforms:
  train: [{name: random_crop, size: 16, padding: 2}]
  eval: [{name: resize, exact: [16, 16]}]
model: {name: tiny_cnn, width: 4}
optimizer: {name: sgd, learning_rate: 0.05, momentum: 0.9}
schedule: {name: cosine}
train: {epochs: 1, batch_size: 16}
"""
VENDORS = re.compile(
    r"ascend|huawei|hccl|aipp|cambricon|cncl|magicmind|\b(torch_)?(npu|mlu)\b|\b(cann|atc)\b",
    re.IGNORECASE,
)


def test_a_recipe_runs_on_it(make_machine: Callable[..., Machine]):
    pytest.importorskip("torch")
    machine = make_machine(plugins="acme", installed=[FOLDER])
    (machine.path / "acme.yaml").write_text(RECIPE)
    train = ["train", "acme.yaml", "--json"]
    fp32, bf16, evaluated, gone = machine.together(
        train,
        [*train, "--precision", "bf16", "--runs-dir", "bf16"],
        ["eval", "runs/acme/*", "--json"],
        ["SIMULATED_CARDS=0", *train],
    )
    for outcome in (fp32, bf16):
        assert outcome.json["device"] == "acme"
        assert outcome.record["cards"]["0"]["operations"]["convolution_backward"] == 3 * 2
    [result] = evaluated.json
    assert result["metrics"]["val.top1"] == fp32.json["metrics"]["val.top1"]
    assert gone.code == 4
    assert "probed torch acme, answer: it reports no device" in gone.err


def test_one_of_a_third_party_runs_mindspore(make_machine: Callable[..., Machine]):
    pytest.importorskip("mindspore")
    installed = [FOLDER.parent / "acme_mindspore"]
    machine = make_machine(
        plugins="mindspore,acme_mindspore", installed=installed, plugged_in=False
    )
    recipe = RECIPE.replace("torch", "mindspore").replace("{name: tiny_cnn, width: 4}", "resnet18")
    (machine.path / "acme.yaml").write_text(recipe)
    train = ["train", "acme.yaml", "--json", "--set", "device.fast_math=true"]
    gone, trained = machine.together(
        ["train", "acme.yaml", "--set", "device.index=2"],
        train,
    )
    assert gone.code == 4
    assert "device acme has no index 2: 2 visible" in gone.err
    assert trained.json["device"] == "acme"
    [manifest] = machine.path.glob("runs/*/*/manifest.json")
    assert '"fast_math": true' in manifest.read_text()


@pytest.mark.parametrize("folder", ["core/runner", "plugins/runner_torch"])
def test_what_all_accelerators_share_names_no_vendor(folder: str):
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if VENDORS.search(line)
    ]
    assert found == []

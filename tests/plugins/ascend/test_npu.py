"""Recipes on simulated NPUs: what runs there, what it equals, and what is said without them."""

from __future__ import annotations

import json
import os
import re
import signal
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from runner.storage import checkpoint
from runner_ascend.options import NpuOptions

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.plugins.conftest import Machine, Outcome

ROOT = Path(__file__).parents[3]
RECIPE = """
summary: Shapes on a simulated NPU
framework: torch
device: npu
seed: 3
dataset: {name: blobs, num_classes: 4, count: 64, size: 16}
transforms:
  train: [{name: random_crop, size: 16, padding: 2}, {name: horizontal_flip}]
  eval: [{name: resize, exact: [16, 16]}]
model: {name: tiny_cnn, width: 4}
optimizer: {name: sgd, learning_rate: 0.05, momentum: 0.9, weight_decay: 1.0e-4}
schedule: {name: cosine}
train: {epochs: 3, batch_size: 16, log_every_steps: 2, ema_decay: 0.9}
eval: {batch_size: 8}
"""
STEPS = 12
SWITCHES = (
    "device.jit_compile=false",
    "device.internal_format=false",
    "device.precision_mode=must_keep_origin_dtype",
)
IMAGES = "card/npu/*/exports/onnx/golden/0*"
ON_THE_CARD = """
from runner.entries import DeviceEntry, FrameworkEntry, ModelEntry, OptimizerEntry
from runner.plugins.loading import load
from runner.testing import check_framework
from runner_torch.autoload import torch

find = load().find
framework, entry = find(FrameworkEntry, "torch").entry, find(DeviceEntry, "npu", "torch").entry
model = find(ModelEntry, "tiny_cnn", "torch").entry
optimizer = find(OptimizerEntry, "sgd", "torch").entry
seen = set()
step = torch.optim.SGD.step

def watched_step(self, *arguments, **options):
    done = step(self, *arguments, **options)
    for group in self.param_groups:
        for parameter in group["params"]:
            tensors = [parameter, parameter.grad, *self.state[parameter].values()]
            seen.update(str(item.device) for item in tensors if item is not None)
    return done

torch.optim.SGD.step = watched_step
check_framework(framework, entry, model, optimizer, learning_rate=0.1)
print(sorted(seen))

card = torch.ones(2, device="npu")
print(card.device.type, type(card).__name__, (card + 1).tolist())
for refused in (lambda: card + torch.ones(2), card.numpy):
    try:
        refused()
    except (RuntimeError, TypeError) as error:
        print(error)
    else:
        print("not refused")
torch.manual_seed(1)
host = torch.randn(3)
torch.manual_seed(1)
drawn = torch.randn(3, device="npu")
print(torch.equal(host, torch.randn(3)), drawn.device.type)
with torch.autocast("npu", dtype=torch.bfloat16):
    print((torch.ones(2, 2, device="npu") @ torch.ones(2, 2, device="npu")).dtype)
"""
LIBRARY = "libhccl.so: cannot open shared object file: No such file or directory"


def overrides(*settings: str) -> list[str]:
    return [part for setting in settings for part in ("--set", setting)]


def train(runs: str, *arguments: str) -> list[str]:
    return ["train", "npu.yaml", "--runs-dir", runs, "--json", *arguments]


@pytest.fixture(scope="module")
def machine(make_machine: Callable[..., Machine]) -> Machine:
    machine = make_machine(plugins="ascend,onnx")
    (machine.path / "npu.yaml").write_text(RECIPE)
    return machine


@pytest.fixture(scope="module")
def done(machine: Machine) -> Mapping[str, Outcome]:
    """Carry out what works, in one process: starting torch takes seconds."""
    run = ["run", *train("card")[1:], "--set", "export=[{name: onnx, opset: 13}]"]
    o2 = overrides("precision.level=O2", "precision.loss_scale=1024")
    commands = {
        "card": run + overrides(*SWITCHES),
        "host": train("host", "--device", "cpu", "--set", "framework.memory_format=contiguous"),
        "passes": train("passes", "--set", "train.micro_batch_size=8"),
        "bf16": train("bf16", "--precision", "bf16"),
        "fp16": train("fp16", "--precision", "fp16"),
        "static": train("static", "--precision", "fp16", "--set", "precision.loss_scale=64"),
        "O2": train("O2", "--precision", "fp16", *o2),
        "evaluated": ["eval", "card/npu/*", "--json"],
        "predicted": ["predict", "card/npu/*", IMAGES, "--format", "json"],
    }
    return dict(zip(commands, machine.together(*commands.values()), strict=True))


def test_training_happens_on_the_card(done: Mapping[str, Outcome]):
    run = done["card"]
    assert run.json["device"] == "npu"
    [(index, card)] = run.record["cards"].items()
    assert index == "0"
    assert card["operations"]["convolution_backward"] == 3 * STEPS, "three convolutions"
    assert card["operations"]["convolution"] >= 3 * STEPS
    assert card["operations"]["_log_softmax"] >= STEPS
    assert card["peak"] > 0
    assert not done["host"].record["cards"]


def test_the_result_is_that_of_the_processor_bit_for_bit(
    done: Mapping[str, Outcome], machine: Machine
):
    assert done["host"].json["metrics"]["val.top1"] == done["card"].json["metrics"]["val.top1"]
    card, host = machine.last_checkpoint("card"), machine.last_checkpoint("host")
    assert (card / checkpoint.WEIGHTS).read_bytes() == (host / checkpoint.WEIGHTS).read_bytes()


def test_switches_reach_the_vendor_and_are_recorded(done: Mapping[str, Outcome], machine: Machine):
    assert done["card"].record["options"] == {
        "jit_compile": False,
        "allow_internal_format": False,
        "ACL_PRECISION_MODE": "must_keep_origin_dtype",
    }
    assert done["bf16"].record["options"] == {}
    [manifest] = machine.path.glob("card/*/*/manifest.json")
    device = json.loads(manifest.read_text())["device"]
    assert device["name"] == "Simulated NPU"
    assert device["torch_npu"] == "0.0.simulated"
    assert device["internal_format"] is False
    assert device["precision_mode"] == "must_keep_origin_dtype"


def test_the_run_is_exported_evaluated_and_used(done: Mapping[str, Outcome]):
    [export] = done["card"].json["exports"]
    assert export["verified"], export
    [evaluated] = done["evaluated"].json
    assert evaluated["metrics"]["val.top1"] == done["card"].json["metrics"]["val.top1"]
    assert done["predicted"].code == 0, done["predicted"].err
    for name in ("evaluated", "predicted"):
        assert done[name].record["cards"]["0"]["operations"]["conv2d"] >= 3


def test_tensors_live_on_the_card_and_the_kit_accepts_it(machine: Machine):
    lines = machine.python(ON_THE_CARD).splitlines()
    assert lines[0] == "['npu:0']", "parameters, gradients and momenta"
    assert lines[1] == "npu DeviceTensor [2.0, 2.0]"
    assert "Expected all tensors to be on the same device" in lines[2]
    assert lines[3] == "can't convert npu:0 device type tensor to numpy"
    assert lines[4] == "True npu", "the card's random numbers are its own"
    assert lines[5] == "torch.bfloat16"


@pytest.mark.parametrize("name", ["fp16", "static", "O2"])
def test_loss_scales_are_the_vendors(done: Mapping[str, Outcome], name: str):
    assert done[name].json["steps"] == STEPS
    assert done[name].record["calls"]["amp.GradScaler"] == 1, "torch's would see no overflow"


def test_reduced_precision_computes_in_it_on_the_card(
    done: Mapping[str, Outcome], machine: Machine
):
    weights = {
        name: checkpoint.load(machine.last_checkpoint(name)).weights
        for name in ("card", "bf16", "fp16", "O2")
    }
    for name in ("bf16", "fp16", "O2"):
        assert done[name].record["cards"]["0"]["operations"]["convolution_backward"] >= 3 * (
            STEPS - 1
        )
        for key, value in weights[name].items():
            assert value.dtype == weights["card"][key].dtype, "checkpoints hold fp32"
        assert any(np.any(weights[name][key] != value) for key, value in weights["card"].items())
    assert "amp.GradScaler" not in done["bf16"].record["calls"]


@pytest.mark.slow
def test_a_killed_run_continues_bit_for_bit(done: Mapping[str, Outcome], machine: Machine):
    process = machine.start(*train("killed", "--set", "checkpoint.every_steps=1"))
    saved = "killed/*/*/checkpoints/step_*"
    machine.wait_for(lambda: list(machine.path.glob(saved)), process)
    process.kill()
    process.wait()
    [folder] = machine.path.glob("killed/*/*")
    assert not (folder / "result.json").exists()
    resumed, _ = machine.runner("resume", str(folder))
    assert resumed.returncode == 0, resumed.stderr
    killed, straight = machine.last_checkpoint("killed"), machine.last_checkpoint("card")
    for name in (checkpoint.WEIGHTS, checkpoint.STATE):
        assert (killed / name).read_bytes() == (straight / name).read_bytes(), name


@pytest.mark.slow
def test_two_processes_take_a_card_each(done: Mapping[str, Outcome], machine: Machine):
    together, records = machine.runner(*train("two", "--devices", "2"))
    assert together.returncode == 0, together.stderr
    workers = [record for record in records if record["cards"]]
    assert sorted(index for record in workers for index in record["cards"]) == ["0", "1"]
    for record in workers:
        [card] = record["cards"].values()
        # one pass comes before the first step, which settles how gradients are exchanged
        assert card["operations"]["convolution_backward"] == 3 * (STEPS + 1)
        assert record["calls"]["hccl.allreduce"] > 0
    # passes of the same size take the same statistics in batch normalisation
    two, one = (
        checkpoint.load(machine.last_checkpoint(name)).weights for name in ("two", "passes")
    )
    trainable = [name for name in one if "running" not in name and "num_batches" not in name]
    for name in trainable:
        np.testing.assert_allclose(two[name], one[name], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_chosen_cards_share_statistics_and_a_lost_process_is_replaced(
    done: Mapping[str, Outcome], machine: Machine
):
    """With statistics over all images of a pass, two cards do what one does."""
    settings = ("train.sync_batch_norm=true", "distributed.restarts=1", "checkpoint.every_steps=1")
    process = machine.start(
        *train("chosen", "--devices", "1,3", *overrides(*settings)), SIMULATED_CARDS="4"
    )
    saved = "chosen/*/*/checkpoints/step_*"
    machine.wait_for(lambda: list(machine.path.glob(saved)), process)
    os.kill(machine.worker("RANK=1"), signal.SIGKILL)
    assert process.wait() == 0
    [log] = machine.path.glob("chosen/*/*/events.jsonl")
    assert '"run.restarted"' in log.read_text(encoding="utf-8")
    workers = [record for record in machine.records() if record["cards"]]
    cards = [card for record in workers for card in record["cards"].values()]
    assert {card["number"] for card in cards} == {1, 3}
    for record in workers:
        assert record["calls"]["hccl.allgather"] > 0
    two, one = (
        checkpoint.load(machine.last_checkpoint(name)).weights for name in ("chosen", "card")
    )
    for name, array in one.items():
        np.testing.assert_allclose(two[name], array, rtol=1e-4, atol=1e-5, err_msg=name)


def test_what_cannot_work_is_refused_and_never_runs_on_the_processor(machine: Machine):
    broken, empty, layout, mode, index, older = machine.together(
        [f"SIMULATED_BROKEN={LIBRARY}", *train("no")],
        ["SIMULATED_CARDS=0", *train("no")],
        train("no", "--set", "framework.memory_format=channels_last"),
        train("no", "--set", "device.precision_mode=allow_mix_precision"),
        train("no", "--set", "device.index=2"),
        ["SIMULATED_BF16=0", *train("no", "--precision", "bf16")],
    )
    for outcome in (broken, empty, layout, mode, index, older):
        assert outcome.code == 4, outcome.err
    assert f"answer: ImportError: {LIBRARY}" in broken.err, "the vendor's words"
    assert "to try it here: runner train npu.yaml" in broken.err
    assert "torch_npu finds no card" in empty.err
    assert "ASCEND_HOME_PATH is not set: source CANN's set_env.sh" in empty.err
    assert "device npu does not support channels-last" in layout.err
    assert "torch_npu 0.0.simulated does not accept device.precision_mode" in mode.err
    assert "['allow_fp32_to_fp16', 'must_keep_origin_dtype']" in mode.err, "the vendor's words"
    assert "2 visible" in index.err
    assert "ASCEND_RT_VISIBLE_DEVICES" in index.err
    assert "device npu cannot compute in bf16" in older.err
    assert not (machine.path / "no").exists()


def test_a_missing_package_names_what_comes_first(make_machine: Callable[..., Machine]):
    bare = make_machine(plugins="ascend", plugged_in=False)
    (bare.path / "npu.yaml").write_text(RECIPE)
    missing, explained = bare.together(train("no"), ["explain", "npu.yaml", "--devices", "8"])
    assert missing.code == 4
    assert "; to try it here: runner train" in missing.err
    expected = "torch_npu is not installed; pip install torch_npu, which needs CANN first"
    assert expected in missing.err
    assert explained.code == 0, explained.err
    assert "8 npu" in explained.out
    assert not (bare.path / "no").exists()


def test_the_page_on_devices_has_every_key_and_variable():
    page = (ROOT / "docs" / "devices.md").read_text(encoding="utf-8")
    simulation = ROOT / "tests" / "simulated" / "packages" / "simulated_accelerator" / "state.py"
    variables = re.findall(r'environ\.get\("(\w+)"', simulation.read_text(encoding="utf-8"))
    assert len(set(variables)) == 3
    assert [item.name for item in fields(NpuOptions) if f"| `{item.name}` |" not in page] == []
    assert [name for name in variables if f"`{name}" not in page] == []

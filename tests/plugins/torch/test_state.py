"""A run that is saved and continued ends with the weights of one that was not."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from runner.errors import CheckpointError, PluginError
from runner.framework.options import AdamWOptions
from runner.recipe.schema import PrecisionSection
from runner_torch.autoload import torch

if TYPE_CHECKING:
    from tests.plugins.torch.conftest import MakeBatches, MakeEngine, MakeEntry

    from runner import EngineState

CASES: dict[str, dict[str, Any]] = {
    "sgd": {"optimizer": "sgd"},
    "adamw, ema, accumulation": {"optimizer": "adamw", "ema_decay": 0.9, "micro_batch_size": 3},
    "fp16 with dynamic scale": {
        "optimizer": "sgd",
        "ema_decay": 0.9,
        "precision": PrecisionSection(compute="fp16", loss_scale="dynamic"),
    },
    "bf16, clipping": {
        "optimizer": "adamw",
        "optimizer_options": AdamWOptions(betas=(0.8, 0.9)),
        "precision": PrecisionSection(compute="bf16"),
        "clip_grad_norm": 0.5,
    },
}


def through_json(state: EngineState) -> EngineState:
    return replace(state, values=json.loads(json.dumps(state.values)))


@pytest.mark.parametrize("case", CASES)
def test_continuing_is_bit_exact(
    make_engine: MakeEngine, make_batches: MakeBatches, make_tiny: MakeEntry, case: str
) -> None:
    changes = {"model": make_tiny(dropout=0.5), **CASES[case]}
    batches = make_batches(6)
    straight = make_engine(**changes)
    for batch in batches:
        straight.train_step(batch, 0.05)

    saved = make_engine(**changes)
    for batch in batches[:3]:
        saved.train_step(batch, 0.05)
    weights, state = saved.weights(), through_json(saved.state())
    torch.rand(11)

    continued = make_engine(**changes, seed=99)
    continued.load_weights(weights)
    continued.load_state(state)
    for batch in batches[3:]:
        continued.train_step(batch, 0.05)

    for which in ("weights", "evaluation_weights"):
        expected, found = getattr(straight, which)(), getattr(continued, which)()
        for name, value in expected.items():
            assert np.array_equal(found[name], value), name
    expected_state, state = straight.state(), continued.state()
    assert state.values == expected_state.values
    assert set(state.tensors) == set(expected_state.tensors)
    for name, value in expected_state.tensors.items():
        assert np.array_equal(state.tensors[name], value), name


def test_names_of_the_state(make_engine: MakeEngine, make_batches: MakeBatches) -> None:
    engine = make_engine(ema_decay=0.9)
    fresh = engine.state()
    assert not [name for name in fresh.tensors if name.startswith("optimizer/")]
    engine.train_step(make_batches(1)[0], 0.1)
    tensors = engine.state().tensors
    assert "optimizer/fc.weight/momentum_buffer" in tensors
    assert "ema/bn.running_mean" in tensors
    assert "random/cpu" in tensors
    assert all(value.flags.c_contiguous for value in tensors.values())


def test_optimizer_state_keeps_the_memory_format(
    make_engine: MakeEngine, make_batches: MakeBatches
) -> None:
    engine = make_engine()
    engine.train_step(make_batches(1)[0], 0.1)
    other = make_engine()
    other.load_state(engine.state())
    assert other._optimizer is not None
    parameter = other._model.get_parameter("conv.weight")
    buffer = other._optimizer.state[parameter]["momentum_buffer"]
    assert buffer.stride() == parameter.stride()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "adamw"}, "optimizer 'SGD', this run has 'AdamW'"),
        ({"precision": PrecisionSection(compute="bf16")}, "compute 'fp32', this run has 'bf16'"),
        ({"precision": PrecisionSection(loss_scale="dynamic")}, "loss scale 'none'"),
        ({"ema_decay": 0.9}, "ema False, this run has True"),
    ],
)
def test_state_of_another_run_is_refused(
    make_engine: MakeEngine, changes: dict[str, Any], message: str
) -> None:
    state = make_engine().state()
    with pytest.raises(CheckpointError, match=message):
        make_engine(**changes).load_state(state)


def test_state_of_another_model_is_refused(
    make_engine: MakeEngine, make_batches: MakeBatches, make_tiny: MakeEntry
) -> None:
    engine = make_engine()
    engine.train_step(make_batches(1)[0], 0.1)
    with pytest.raises(CheckpointError, match=r"bn\.weight, bn\.bias \(2 in all\)"):
        make_engine(model=make_tiny(norm=False)).load_state(engine.state())


def test_state_that_no_checkpoint_can_hold_is_refused(make_engine: MakeEngine) -> None:
    engine = make_engine()
    assert engine._optimizer is not None
    parameter = engine._model.get_parameter("fc.weight")
    engine._optimizer.state[parameter]["history"] = [1, 2]
    with pytest.raises(PluginError, match="keeps a list as 'history'"):
        engine.state()

"""A run that is saved and continued ends with the weights of one that was not."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("mindspore")

from runner.errors import CheckpointError
from runner.framework.options import AdamWOptions, SgdOptions
from runner.recipe.schema import PrecisionSection

if TYPE_CHECKING:
    from tests.plugins.mindspore.conftest import MakeBatches, MakeEngine, MakeEntry, Mode

    from runner import EngineState

CASES: dict[str, dict[str, Any]] = {
    "sgd": {"optimizer": "sgd"},
    "nesterov": {"optimizer": "sgd", "optimizer_options": SgdOptions(nesterov=True)},
    "adamw, ema, accumulation": {"optimizer": "adamw", "ema_decay": 0.9, "micro_batch_size": 3},
    "fp16 with dynamic scale": {
        "optimizer": "sgd",
        "ema_decay": 0.9,
        "precision": PrecisionSection(compute="fp16", loss_scale="dynamic"),
    },
    "O2, clipping": {
        "optimizer": "adamw",
        "optimizer_options": AdamWOptions(betas=(0.8, 0.9)),
        "precision": PrecisionSection(compute="fp16", level="O2", loss_scale=128.0),
        "clip_grad_norm": 0.5,
    },
}


def through_json(state: EngineState) -> EngineState:
    return replace(state, values=json.loads(json.dumps(state.values)))


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=pytest.mark.slow) if case in {"sgd", "nesterov"} else case
        for case in CASES
    ],
)
def test_continuing_is_bit_exact(
    make_engine: MakeEngine, make_batches: MakeBatches, make_tiny: MakeEntry, mode: Mode, case: str
) -> None:
    changes = {"model": make_tiny(dropout=0.5), "mode": mode, **CASES[case]}
    batches = make_batches(6)
    straight = make_engine(**changes)
    for batch in batches[:3]:
        straight.train_step(batch, 0.05)
    weights, state = straight.weights(), through_json(straight.state())
    for batch in batches[3:]:
        straight.train_step(batch, 0.05)

    continued = make_engine(**changes)
    continued.train_step(batches[5], 0.05)
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


def test_dropout_masks_are_of_the_step_and_the_pass(
    make_engine: MakeEngine, make_batches: MakeBatches, make_tiny: MakeEntry
) -> None:
    model = make_tiny(dropout=0.5)
    (batch,) = make_batches(1)
    engine = make_engine(model=model, micro_batch_size=2)
    weights = engine.weights()
    first = engine.train_step(batch, 0.0).read().loss
    engine.load_weights(weights)
    assert engine.train_step(batch, 0.0).read().loss != first
    other = make_engine(model=model, micro_batch_size=2, seed=2)
    other.load_weights(weights)
    assert other.train_step(batch, 0.0).read().loss != first


@pytest.mark.parametrize(
    ("optimizer", "slot"), [("sgd", "moments"), ("adamw", "mean"), ("adamw", "square")]
)
def test_names_of_the_state(
    make_engine: MakeEngine, make_batches: MakeBatches, optimizer: str, slot: str
) -> None:
    engine = make_engine(optimizer=optimizer, ema_decay=0.9)
    engine.train_step(make_batches(1)[0], 0.1)
    tensors = engine.state().tensors
    assert tensors[f"optimizer/bn.bias/{slot}"].shape == (8,)
    assert "optimizer/learning_rate" not in tensors
    assert tensors["optimizer/global_step"] == 1
    assert "ema/bn.running_mean" in tensors
    assert all(value.flags.c_contiguous for value in tensors.values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "adamw"}, "optimizer 'Momentum', this run has 'AdamW'"),
        ({"precision": PrecisionSection(compute="fp16")}, "compute 'fp32', this run has 'fp16'"),
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


def test_state_of_another_model_is_refused(make_engine: MakeEngine, make_tiny: MakeEntry) -> None:
    engine = make_engine()
    with pytest.raises(CheckpointError, match=r"unexpected: bn\.weight/moments.* \(2 in all\)"):
        make_engine(model=make_tiny(norm=False)).load_state(engine.state())
    with pytest.raises(
        CheckpointError, match=r"shape: fc\.weight/moments is \[10, 8\], .* \[3, 8\]"
    ):
        make_engine(num_classes=3).load_state(engine.state())

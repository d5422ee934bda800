"""Weights that do not fit, and those that do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from runner.errors import CheckpointError

if TYPE_CHECKING:
    from tests.plugins.torch.conftest import MakeEngine


def test_every_difference_is_listed(make_engine: MakeEngine) -> None:
    engine = make_engine()
    weights = engine.weights()
    weights["fc.bias"] = np.zeros(3, np.float32)
    weights["head.weight"] = weights.pop("fc.weight")
    with pytest.raises(CheckpointError) as caught:
        engine.load_weights(weights)
    assert str(caught.value).splitlines()[1:] == [
        "  missing: fc.weight",
        "  unexpected: head.weight",
        "  shape: fc.bias is [3], the model has [10]",
    ]
    assert "(3 differences, 9 tensors in the model)" in str(caught.value)


def test_many_differences_are_counted(make_engine: MakeEngine) -> None:
    engine = make_engine()
    weights = {f"{number}.weight": np.zeros(1) for number in range(30)}
    with pytest.raises(CheckpointError, match=r"\(39 differences") as caught:
        engine.load_weights(weights)
    lines = str(caught.value).splitlines()
    assert len(lines) == 10
    assert lines[-1] == "  and 31 more"


def test_another_number_of_classes_is_recognised(make_engine: MakeEngine) -> None:
    weights = make_engine(num_classes=7).weights()
    message = "the number of classes differs: the weights have 7, the model has 10"
    with pytest.raises(CheckpointError, match=message):
        make_engine().load_weights(weights)
    weights["fc.weight"] = weights["fc.weight"][:, :3]
    with pytest.raises(CheckpointError, match="use weights of the same model"):
        make_engine().load_weights(weights)


def test_weights_go_from_one_engine_to_another(make_engine: MakeEngine) -> None:
    weights = make_engine().weights()
    other = make_engine(seed=2)
    other.load_weights(weights)
    assert all(np.array_equal(other.weights()[name], weights[name]) for name in weights)

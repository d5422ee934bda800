"""Weights that do not fit, and files that other programs wrote."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from runner.errors import CheckpointError
from runner_torch.autoload import torch
from runner_torch.weights import read_weights

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.plugins.torch.conftest import MakeEngine, TinyNet


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


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3, "best_acc1": 71.5},
        lambda state: {"model": state},
        lambda state: {"model_state_dict": state, "epoch": 3},
        lambda state: {f"module.{name}": value for name, value in state.items()},
        lambda state: {"state_dict": {f"module.submodule.{n}": v for n, v in state.items()}},
        lambda state: {f"_orig_mod.{name}": value for name, value in state.items()},
    ],
)
def test_files_of_training_scripts(
    tmp_path: Path, tiny: type[TinyNet], wrap: Callable[[dict[str, torch.Tensor]], dict[str, Any]]
) -> None:
    state = tiny(10, norm=True, dropout=0).to(memory_format=torch.channels_last).state_dict()
    torch.save(wrap(dict(state)), tmp_path / "weights.pth")
    weights = read_weights(tmp_path / "weights.pth")
    assert set(weights) == set(state)
    assert np.array_equal(weights["conv.weight"], state["conv.weight"].numpy())
    assert weights["conv.weight"].flags.c_contiguous


def test_old_files_lack_the_counter_of_batch_norm(
    tmp_path: Path, tiny: type[TinyNet], make_engine: MakeEngine
) -> None:
    state = dict(tiny(10, norm=True, dropout=0).state_dict())
    del state["bn.num_batches_tracked"]
    torch.save(state, tmp_path / "old.pth")
    weights = read_weights(tmp_path / "old.pth")
    assert weights["bn.num_batches_tracked"] == 0
    make_engine().load_weights(weights)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3, "optimizer": {}}, r"no state dict: found keys \['epoch', 'optimizer'\]"),
        ([1, 2], "no state dict: found <class 'list'>"),
        ({"state_dict": {}, "when": datetime.date(2020, 1, 1)}, "UnpicklingError"),
    ],
)
def test_files_without_weights(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(CheckpointError, match=message):
        read_weights(tmp_path / "odd.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"hello", "KeyError: "),
        (b"", "EOFError; expected"),
        (b"<html></html>", "UnpicklingError: Unsupported operand 60; expected"),
    ],
)
def test_a_file_of_another_kind(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "odd.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=f"cannot be read as a torch weights file: {message}"):
        read_weights(tmp_path / "odd.pth")


def test_advice_for_torch_programmers_is_left_out(tmp_path: Path) -> None:
    torch.save({"when": datetime.date(2020, 1, 1)}, tmp_path / "odd.pth")
    with pytest.raises(CheckpointError) as caught:
        read_weights(tmp_path / "odd.pth")
    assert "datetime.date was not an allowed global" in str(caught.value)
    assert not any(part in str(caught.value) for part in ("\x1b", "\n", "weights_only"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn])
def test_short_numbers_become_fp32(tmp_path: Path, dtype: torch.dtype) -> None:
    torch.save({"fc.bias": torch.tensor([0.5, -3.0]).to(dtype)}, tmp_path / "short.pth")
    bias = read_weights(tmp_path / "short.pth")["fc.bias"]
    assert bias.dtype == np.float32
    assert bias.tolist() == [0.5, -3.0]

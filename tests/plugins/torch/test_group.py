"""Two processes of torchrun on the CPU: what they exchange, train and refuse."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from runner.entries import LaunchRequest
from runner_torch.launch import launch
from runner_torch.options import CpuOptions, TorchOptions

if TYPE_CHECKING:
    from tests.plugins.torch.conftest import MakeBatches, MakeEntry, MakeSpec

    from runner_torch.device import TorchDevice

pytest.importorskip("torch")

SCRIPT = Path(__file__).with_name("two_processes.py")
Found = tuple[list[dict[str, Any]], list[dict[str, np.ndarray[Any, Any]]]]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What each rank has found, and the weights that it ended with."""
    folder = tmp_path_factory.mktemp("group")
    request = LaunchRequest(
        count=2,
        arguments=[],
        device="cpu",
        device_options=CpuOptions(),
        framework_options=TorchOptions(),
        log_folder=folder / "logs",
    )
    (command,) = launch(request)
    arguments = [str(SCRIPT) if word == "runner" else word for word in command.arguments]
    arguments.pop(len(arguments) - 1 - arguments[::-1].index("-m"))
    done = subprocess.run(
        arguments,
        cwd=folder,
        env={**os.environ, **command.environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Warning" not in done.stderr
    ranks = [json.loads((folder / f"rank{i}.json").read_text(encoding="utf-8")) for i in range(2)]
    arrays = []
    for i in range(2):
        with np.load(folder / f"rank{i}.npz") as file:
            arrays.append({name: file[name] for name in file.files})
    return ranks, arrays


@pytest.mark.parametrize("rank", [0, 1])
def test_numbers_are_added_with_all_their_digits(found: Found, rank: int) -> None:
    total = found[0][rank]["sum"]
    assert total[:3] == [2**41 - 1, 2 / 3, -2.0]
    assert np.isnan(total[3])  # on one rank, so on all


@pytest.mark.parametrize("rank", [0, 1])
def test_tensors_are_gathered_averaged_and_shared(found: Found, rank: int) -> None:
    exchanged = found[0][rank]
    assert exchanged["gathered"] == [[0], [1]]
    assert exchanged["mean"][:2] == [[1.5], [5.0]]
    assert exchanged["kept"]  # what is equal on all ranks, to the last bit
    assert exchanged["broadcast"] == [[5.0, 5.0], [7.0, 7.0]]


def test_two_processes_train_as_one_does(
    found: Found,
    device: TorchDevice,
    make_spec: MakeSpec,
    make_batches: MakeBatches,
    make_tiny: MakeEntry,
) -> None:
    """Without batch normalisation, whose statistics are of each process's images."""
    ranks, arrays = found
    train = runpy.run_path(str(SCRIPT))["train"]
    batches = make_batches(4, images=8, size=8)
    losses, engine = train(make_spec, make_tiny(norm=False), batches, device)
    np.testing.assert_allclose(ranks[0]["plain losses"], losses, rtol=1e-6)
    for name, array in engine.weights().items():
        np.testing.assert_allclose(arrays[0][f"plain {name}"], array, atol=1e-6, err_msg=name)


def test_all_ranks_end_with_the_same_weights_statistics_and_averages(found: Found) -> None:
    _, (first, second) = found
    assert np.unique(first["noisy average bn.running_var"]).size > 1
    assert len(first) == 2 * (4 + 9 + 9)
    for name, array in first.items():
        np.testing.assert_array_equal(second[name], array, err_msg=name)


@pytest.mark.parametrize("name", ["plain", "noisy", "cast"])
def test_every_rank_continues_where_it_was_from_the_state_of_rank_0(
    found: Found, name: str
) -> None:
    """Dropout masks included, which differ between the ranks."""
    assert [rank[f"{name} continues"] for rank in found[0]] == [True, True]
    assert found[0][0]["random"][0] == 2


def test_an_overflow_on_one_rank_skips_the_step_on_all(found: Found) -> None:
    for rank in found[0]:
        assert rank["overflow"] == [True, False, 2**15]


def test_a_layer_without_gradient_is_named(found: Found) -> None:
    for rank in found[0]:
        assert "model half" in rank["unused"]
        assert "spare.weight, spare.bias" in rank["unused"]


def test_processes_leave_together_and_say_how_they_met(found: Found) -> None:
    for rank in found[0]:
        assert rank["waited"]
        before, after = rank["threads"]
        assert after == before  # one of gloo's may abort the process when the interpreter ends
        assert rank["report"] == {"world_size": rank["world_size"], "backend": "cpu:gloo"}

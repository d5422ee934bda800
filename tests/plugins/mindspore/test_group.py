"""Two processes of msrun on the CPU: what they add, average, share, train, and how they leave."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runner.entries import LaunchRequest
from runner.options import NoOptions
from runner_mindspore.launch import launch
from runner_mindspore.options import MindSporeOptions

pytest.importorskip("mindspore")

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
        device_options=NoOptions(),
        framework_options=MindSporeOptions(),
        log_folder=folder / "logs",
    )
    (command,) = launch(request)
    arguments = [str(SCRIPT) if word == "runner" else word for word in command.arguments]
    arguments.remove("-m")
    done = subprocess.run(
        arguments,
        cwd=folder,
        env={**os.environ, **command.environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    # The scheduler runs the script as well, and must not come past join().
    assert len(list(folder.glob("rank*.json"))) == 2
    ranks = [json.loads((folder / f"rank{i}.json").read_text(encoding="utf-8")) for i in range(2)]
    arrays = []
    for i in range(2):
        with np.load(folder / f"rank{i}.npz") as file:
            arrays.append({name: file[name] for name in file.files})
    return ranks, arrays


@pytest.mark.parametrize("rank", [0, 1])
def test_numbers_are_added_with_all_their_digits(found, rank):
    total = found[0][rank]["sum"]
    assert total[:3] == [2**41 - 1, 2 / 3, -2.0]
    assert np.isnan(total[3])  # on one rank, so on all


@pytest.mark.parametrize("mode", ["graph", "pynative"])
@pytest.mark.parametrize("rank", [0, 1])
def test_tensors_are_averaged_and_shared(found, rank, mode):
    exchanged = found[0][rank][mode]
    assert exchanged["gradients"] == [[2, 3, 3.0], [1, 30.0], [300.0]]
    # in place: what was compiled before reads the new values
    assert exchanged["mean"] == [[2, 3, 1.5], [1, 15.0], [150.0], [2, 3, 3.0]]
    assert exchanged["broadcast"] == [[2, 3, 1.0], [1, 10.0], [100.0]]


def test_processes_leave_together(found):
    for rank in found[0]:
        assert (rank["role"], rank["world_size"], rank["waited"]) == ("MS_WORKER", 2, True)


def test_two_processes_train_as_one_does(found, device, make_spec, make_batches, make_tiny):
    """Without batch normalisation, whose statistics are of each process's images."""
    ranks, arrays = found
    train = runpy.run_path(str(SCRIPT))["train"]
    batches = make_batches(4, images=8, size=8)
    losses, weights = train(make_spec, make_tiny(norm=False), batches, device)
    np.testing.assert_allclose(ranks[0]["plain losses"], losses, rtol=1e-6)
    for name, array in weights.items():
        np.testing.assert_allclose(arrays[0][f"plain {name}"], array, atol=1e-6, err_msg=name)


def test_all_ranks_end_with_the_same_weights_and_statistics(found):
    _, (first, second) = found
    assert "norm bn.running_var" in first
    assert np.unique(first["norm bn.running_var"]).size > 1
    for name, array in first.items():
        np.testing.assert_array_equal(second[name], array, err_msg=name)

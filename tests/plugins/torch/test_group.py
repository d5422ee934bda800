"""Several processes of torchrun on the CPU: what they exchange, train and refuse."""

from __future__ import annotations

import json
import os
import re
import runpy
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from runner.errors import DeviceError
from runner.recipe.schema import PrecisionSection

if TYPE_CHECKING:
    from tests.plugins.torch.conftest import MakeBatches, MakeEntry, MakeSpec

    from runner_torch.device import TorchDevice

pytest.importorskip("torch")

from runner_torch.group import join

SCRIPT = Path(__file__).with_name("two_processes.py")
Found = tuple[list[dict[str, Any]], list[dict[str, np.ndarray[Any, Any]]]]


def carry_out(folder: Path, count: int, *arguments: str) -> list[dict[str, Any]]:
    """Run the script in some processes, and return what each rank has found."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*launcher, "--nproc-per-node", str(count), str(SCRIPT), *arguments],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not re.search(r"\wWarning: ", done.stderr)  # of Python; torch 2.11 logs others
    files = [folder / f"rank{rank}.json" for rank in range(count)]
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What each rank has found, and the weights that it ended with."""
    folder = tmp_path_factory.mktemp("group")
    ranks = carry_out(folder, 2)
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


def test_without_synchronising_each_pass_has_its_own_statistics(
    found: Found,
    device: TorchDevice,
    make_spec: MakeSpec,
    make_batches: MakeBatches,
    make_tiny: MakeEntry,
) -> None:
    """So two processes train as one with two passes, except for running statistics.

    Those of one process move once for each pass, one after the other; those of several move once
    on each, and are averaged.
    """
    two = found[1][0]
    train = runpy.run_path(str(SCRIPT))["train"]
    batches = make_batches(4, images=8, size=8)
    losses, engine = train(make_spec, make_tiny(), batches, device)
    np.testing.assert_allclose(two["apart losses"], losses, rtol=1e-5)
    one = engine.weights()
    for name in (name for name in one if "running" not in name and "tracked" not in name):
        np.testing.assert_allclose(two[f"apart {name}"], one[name], atol=1e-5, err_msg=name)
    assert one["bn.num_batches_tracked"] == 2 * two["apart bn.num_batches_tracked"] == 8
    halves = []
    for half in (slice(4), slice(4, 8)):
        whole = batches[0]
        part = replace(whole, images=whole.images[half], labels=whole.labels[half])
        halves.append(train(make_spec, make_tiny(), [part], device, passes=1)[1].weights())
    for name in ("bn.running_mean", "bn.running_var"):
        mean = (halves[0][name] + halves[1][name]) / 2
        np.testing.assert_allclose(two[f"one step apart {name}"], mean, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize(("name", "tolerance"), [("synced", 1e-5), ("synced O3", 2e-2)])
def test_synchronised_statistics_are_those_of_the_whole_batch(
    found: Found,
    device: TorchDevice,
    make_spec: MakeSpec,
    make_batches: MakeBatches,
    make_tiny: MakeEntry,
    name: str,
    tolerance: float,
) -> None:
    """Running statistics, averages and evaluation included, and under torchvision's names."""
    two = found[1][0]
    train = runpy.run_path(str(SCRIPT))["train"]
    batches = make_batches(4, images=8, size=8)
    changes: dict[str, Any] = {"ema_decay": 0.9}
    if name != "synced":
        changes = {"precision": PrecisionSection(compute="bf16", level="O3")}
    # alone, to ask for it changes nothing
    losses, engine = train(
        make_spec, make_tiny(), batches, device, passes=1, sync_batch_norm=True, **changes
    )
    assert not engine.report()["sync_batch_norm"]
    np.testing.assert_allclose(two[f"{name} losses"], losses, rtol=tolerance)
    averages = {f"average {key}": array for key, array in engine.evaluation_weights().items()}
    for key, array in {**engine.weights(), **averages}.items():
        np.testing.assert_allclose(
            two[f"{name} {key}"], array, rtol=tolerance, atol=tolerance, err_msg=key
        )
    logits = engine.predict(batches[0].images)
    np.testing.assert_allclose(two[f"{name} logits"], logits, atol=10 * tolerance)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of three ranks has found."""
    return carry_out(tmp_path_factory.mktemp("three"), 3, "many")


@pytest.mark.slow
def test_three_processes_continue_to_the_same_bits(three: list[dict[str, Any]]) -> None:
    """Of more than two numbers the sum depends on the order."""
    for rank in three:
        assert rank["continues"]
        assert all(rank["saved"])  # saving changes nothing
        assert rank["random"][0] == 3


def test_three_processes_get_the_same_bits_of_a_mean_each_time(three: list[dict[str, Any]]) -> None:
    assert len({digest for rank in three for digest in rank["averaged"]["digests"]}) == 1
    for rank in three:
        assert rank["averaged"]["kept"]  # though a third of them cannot be written exactly
        assert rank["averaged"]["error"] < 1e-6


def test_who_takes_no_part_is_named(three: list[dict[str, Any]]) -> None:
    for rank in (0, 2):
        assert three[rank]["waited"].startswith("waited 3 s for rank 1 in vain (RuntimeError: ")


def test_all_ranks_end_with_the_same_weights_statistics_and_averages(found: Found) -> None:
    _, (first, second) = found
    assert np.unique(first["noisy average bn.running_var"]).size > 1
    assert len([name for name in first if name.startswith("noisy")]) == 2 * 9
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


def test_what_a_launcher_has_not_set_is_named(
    monkeypatch: pytest.MonkeyPatch, device: TorchDevice
) -> None:
    """An environment that is left from elsewhere must not look like a launcher's."""
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("MASTER_PORT", "29500")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(DeviceError, match=r"are set.*, and MASTER_ADDR is not.*torchrun"):
        join(device, 1)


def test_a_place_where_nobody_is_ends_the_search(
    monkeypatch: pytest.MonkeyPatch, device: TorchDevice
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    for name, value in (("RANK", 1), ("WORLD_SIZE", 2), ("MASTER_PORT", port)):
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with pytest.raises(DeviceError, match=f"rank 1 of 2 has not met .* 127.0.0.1:{port} .*timed"):
        join(device, 1)

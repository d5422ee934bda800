"""Two processes of msrun on the CPU: what they add, average, share, train, and how they leave."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from runner.distributed.machines import Machines
from runner.entries import LaunchRequest
from runner.options import NoOptions
from runner.system import interpreter
from runner_mindspore.launch import launch
from runner_mindspore.options import MindSporeOptions

pytest.importorskip("mindspore")

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.plugins.mindspore.conftest import MakeBatches, MakeEntry, MakeSpec

    from runner import Batch
    from runner_mindspore.device import MindSporeDevice

SCRIPT = Path(__file__).with_name("two_processes.py")
ROUNDING = 1e-5
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    """What the script defines."""
    return runpy.run_path(str(SCRIPT))


@dataclass(frozen=True)
class Found:
    """What two processes have found, beside what one finds alone."""

    ranks: list[dict[str, Any]]
    arrays: list[dict[str, np.ndarray[Any, Any]]]
    """Weights of each rank, after each training."""
    alone: dict[str, list[float]]
    """Losses of one process, for each training."""
    weights: dict[str, dict[str, np.ndarray[Any, Any]]]
    """Its weights, after each training."""

    def compare(self, training: str, *, statistics: bool) -> None:
        """Compare the weights of two processes with those of one, and running statistics too."""
        for name, array in self.weights[training].items():
            if statistics or not name.endswith(STATISTICS):
                other = self.arrays[0][f"{training} {name}"]
                np.testing.assert_allclose(other, array, rtol=ROUNDING, atol=ROUNDING, err_msg=name)

    def losses(self, training: str) -> Sequence[float]:
        """Return the losses of two processes."""
        losses: list[float] = self.ranks[0]["losses"][training]
        return losses


def start(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the script in two processes, until all have ended."""
    request = LaunchRequest(
        count=2,
        local_count=2,
        arguments=[],
        device="cpu",
        device_options=NoOptions(),
        framework_options=MindSporeOptions(),
        machines=Machines(),
        rendezvous_s=600,
        log_folder=folder / "logs",
    )
    (command,) = launch(request)
    words = [str(SCRIPT) if word == "runner" else word for word in command.arguments]
    words.remove(interpreter.BOOT)
    return subprocess.run(
        [*words, *arguments],
        cwd=folder,
        env={**os.environ, **command.environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def found(
    tmp_path_factory: pytest.TempPathFactory,
    script: dict[str, Any],
    device: MindSporeDevice,
    make_spec: MakeSpec,
    make_batches: MakeBatches,
    make_tiny: MakeEntry,
) -> Found:
    """What each rank has found, and the weights that it ended with."""
    folder = tmp_path_factory.mktemp("group")
    trained, save = script["Trained"], script["save"]
    images, half = script["IMAGES"], script["HALF"]
    batches = make_batches(script["STEPS"], images=images, size=8)
    alone, weights = {}, {}

    def keep(name: str, engine: Any, of: Sequence[Batch]) -> None:
        alone[name] = engine.steps(of)
        weights[name] = engine.engine.weights()

    # As many images in a pass as each of two processes has, and so twice as many passes.
    one = trained(make_spec, make_tiny(dropout=0.2), device, micro_batch_size=images // 2)
    keep("first half", one, batches[:half])
    save(one.engine, folder / "one")
    keep("second half", one, batches[half:])
    for mode, count in (("graph", script["STEPS"]), ("pynative", 3)):
        whole = trained(make_spec, make_tiny(), device, mode=mode, micro_batch_size=images)
        keep(f"synchronized {mode}", whole, batches[:count])

    done = start(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    # The scheduler runs the script as well, and must not come past join().
    assert len(list(folder.glob("rank*.json"))) == 2
    ranks = [json.loads((folder / f"rank{i}.json").read_text(encoding="utf-8")) for i in range(2)]
    arrays = []
    for i in range(2):
        with np.load(folder / f"rank{i}.npz") as file:
            arrays.append({name: file[name] for name in file.files})

    resumed = trained(
        make_spec,
        make_tiny(dropout=0.2),
        device,
        micro_batch_size=images // 2,
        saved=folder / "two",
    )
    keep("resumed", resumed, batches[half:])
    return Found(ranks, arrays, alone, weights)


@pytest.mark.parametrize("rank", [0, 1])
def test_numbers_are_added_with_all_their_digits(found: Found, rank: int) -> None:
    total = found.ranks[rank]["sum"]
    assert total[:3] == [2**41 - 1, 2 / 3, -2.0]
    assert np.isnan(total[3])  # on one rank, so on all


@pytest.mark.parametrize("mode", ["graph", "pynative"])
@pytest.mark.parametrize("rank", [0, 1])
def test_tensors_are_averaged_and_shared(found: Found, rank: int, mode: str) -> None:
    exchanged = found.ranks[rank][mode]
    assert exchanged["gradients"] == [[2, 3, 3.0], [1, 30.0], [300.0]]
    # in place: what was compiled before reads the new values
    assert exchanged["mean"] == [[2, 3, 1.5], [1, 15.0], [150.0], [2, 3, 3.0]]
    assert exchanged["kept"]
    assert exchanged["not finite"] == ["nan", "inf", "nan"]
    assert exchanged["broadcast"] == [[2, 3, 1.0], [1, 10.0], [100.0]]


def test_processes_leave_together(found: Found) -> None:
    for rank in found.ranks:
        assert (rank["role"], rank["world_size"], rank["waited"]) == ("MS_WORKER", 2, True)
        assert rank["described"] == {"world_size": 2, "backend": "mccl"}


@pytest.mark.parametrize("training", ["first half", "second half"])
def test_two_processes_take_the_steps_of_one_with_twice_as_many_passes(
    found: Found, training: str
) -> None:
    """The batch, its passes, its statistics and its dropout masks are the same."""
    np.testing.assert_allclose(found.losses(training), found.alone[training], rtol=ROUNDING)
    # one process has moved its running statistics twice as often
    found.compare(training, statistics=False)


@pytest.mark.parametrize("mode", ["graph", "pynative"])
def test_synchronized_batch_norm_is_that_of_one_process_with_larger_passes(
    found: Found, mode: str
) -> None:
    training = f"synchronized {mode}"
    np.testing.assert_allclose(found.losses(training), found.alone[training], rtol=ROUNDING)
    found.compare(training, statistics=True)


def test_another_number_of_processes_continues(found: Found) -> None:
    straight = found.alone["second half"]
    np.testing.assert_allclose(found.losses("resumed"), straight, rtol=ROUNDING)  # begun by one
    np.testing.assert_allclose(found.alone["resumed"], straight, rtol=ROUNDING)  # begun by two
    found.compare("resumed", statistics=False)


def test_all_ranks_end_with_the_same_weights_and_statistics(found: Found) -> None:
    first, second = found.arrays
    assert np.unique(first["first half bn.running_var"]).size > 1
    for name, array in first.items():
        np.testing.assert_array_equal(second[name], array, err_msg=name)


@pytest.mark.slow
def test_a_process_that_waits_in_vain_says_so_in_time(tmp_path: Path) -> None:
    start(tmp_path, "in_vain")
    error = (tmp_path / "error").read_text(encoding="utf-8")
    assert error.startswith("an exchange failed: another process is gone, or took no part in it ")
    assert "for 10 s (RuntimeError: " in error
    assert "raise distributed.timeout_s" in error


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("way", ["often", "resumed"])
def test_saving_changes_nothing(found: Found, rank: int, way: str) -> None:
    assert all(found.ranks[rank]["saved"][way])

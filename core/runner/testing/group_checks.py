"""Checks of several processes that train together: the numbers of their steps, against NumPy."""

from __future__ import annotations

import io
import json
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from runner.contracts import EngineState
from runner.testing import returned
from runner.testing.engine_checks import difference
from runner.testing.reference import small_network
from runner.testing.step_checks import RATE, draw_batch, make_trial
from runner.testing.subject import BATCH

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runner.contracts import Device, Group
    from runner.entries import FrameworkEntry, ModelEntry, OptimizerEntry
    from runner.testing.reference import Arrays, Network

FULL = 2.0**40
"""Numbers up to this one are added exactly."""


def check_group(
    framework: FrameworkEntry,
    device: Device,
    network: ModelEntry,
    optimizer: OptimizerEntry,
    group: Group,
    *,
    function: Network = small_network,
    tolerance: float = 1e-3,
    framework_options: object | None = None,
    model_options: object | None = None,
) -> None:
    """Take the steps of ``check_step`` in several processes, each of which calls this.

    Numbers add up; all begin with the same weights; gradients are averaged over the processes
    before they are clipped; each process has running statistics of its own, ``agree`` gives all
    their mean, and the step after it goes on with each one's own; all continue bit for bit from the
    weights and the state of the first.

    Args:
        framework: The framework.
        device: Its device, open.
        network: See ``check_step``.
        optimizer: See ``check_step``.
        group: What ``join`` returned, of 2 or 4 processes.
        function: See ``check_step``.
        tolerance: See ``check_step``.
        framework_options: Options of each entry; the defaults when left out.
        model_options: See above.

    Raises:
        AssertionError: A number differs; the other processes may wait for this one until the
            timeout of the group.
    """
    count, rank = group.world_size, group.rank
    assert BATCH % count == 0, f"the group has {count} processes, expected 2 or 4"
    _check_sums(group)
    trial = make_trial(
        framework,
        device,
        network,
        optimizer,
        function=function,
        tolerance=tolerance,
        framework_options=framework_options,
        model_options=model_options,
        group=group,
    )
    _check_equal(group, trial.subject.engine().weights(), "fresh weights")
    changes: dict[str, Any] = {
        "momentum": 0.9,
        "weight_decay": 0.1,
        "clip": 0.1,
        "ema_decay": 0.7,
        "pass_size": BATCH // count - 1,
    }
    run = trial.run(**changes)
    for number in range(2):
        run.step(draw_batch(number), RATE)
    for _ in range(2):
        returned.nothing("agree()", run.engine.agree)
        run.compare_shared()
    weights, state = run.engine.weights(), returned.state(run.engine.state())
    _check_equal(group, weights, "weights after agree()")
    run.step(draw_batch(2), RATE)
    _check_equal(group, run.weights(), "weights after a step")

    tensors = _from_first(group, state.tensors)
    values = json.loads(_text_from_first(group, json.dumps(state.values)))
    resumed = trial.run(**changes)
    resumed.engine.load_weights(weights)
    resumed.engine.load_state(EngineState(tensors=tensors, values=values))
    resumed.take(draw_batch(2), RATE)
    for what, one, other in (
        ("weights", run.engine.weights(), resumed.engine.weights()),
        ("averages", run.engine.evaluation_weights(), resumed.engine.evaluation_weights()),
    ):
        found = difference(one, other)
        assert not found, (
            f"process {rank} has other {what} after it has continued from the state of process 0: "
            f"{found}"
        )


def _check_sums(group: Group) -> None:
    count, rank = group.world_size, group.rank
    found = list(group.sum([FULL - rank, 0.1, float("nan") if rank else 0.0]))
    assert found[0] == count * FULL - sum(range(count)), (
        f"sum() of 2**40 - rank over {count} processes is {found[0]:.0f}, expected "
        f"{count * FULL - sum(range(count)):.0f}"
    )
    assert np.isclose(found[1], count * 0.1), f"sum() of {count} times 0.1 is {found[1]}"
    assert not np.isfinite(found[2]), f"sum() of 0 and NaN is {found[2]}, expected one not finite"


def _check_equal(group: Group, arrays: Arrays, what: str) -> None:
    """Compare arrays of all processes, bit for bit."""
    own = zlib.crc32(b"".join(arrays[name].tobytes() for name in sorted(arrays)))
    total = group.sum([float(own)])[0]
    assert total == group.world_size * own, f"the {what} of the processes differ"


def _from_first(group: Group, arrays: Arrays) -> Mapping[str, Any]:
    """Return the arrays of the first process."""
    content = io.BytesIO()
    np.savez(content, **arrays)
    with np.load(io.BytesIO(_bytes_from_first(group, content.getvalue()))) as file:
        return {name: file[name] for name in file.files}


def _text_from_first(group: Group, text: str) -> str:
    return _bytes_from_first(group, text.encode()).decode()


def _bytes_from_first(group: Group, content: bytes) -> bytes:
    own = content if group.rank == 0 else b""
    length = int(group.sum([float(len(own))])[0])
    return bytes(int(value) for value in group.sum([float(b) for b in own.ljust(length, b"\0")]))

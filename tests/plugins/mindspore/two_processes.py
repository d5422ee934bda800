"""What test_group.py runs in each of two processes; ``Trained`` also in one alone.

Each process leaves what it found in ``rank<number>.json`` and its weights in
``rank<number>.npz``, in the working directory.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from runner import Batch
from runner.contracts import EngineState
from runner.errors import OtherRankError
from runner.testing import check_group
from runner_mindspore.autoload import Tensor, ms, nn
from runner_mindspore.device import configure_cpu, open_device
from runner_mindspore.engine import MindSporeEngine
from runner_mindspore.group import MindSporeGroup, join
from runner_mindspore.options import CpuOptions, MindSporeOptions
from runner_mindspore.traits import CPU

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from runner import ModelEntry
    from runner.entries import EngineSpec
    from runner_mindspore.device import MindSporeDevice

IMAGES = 8
"""Of a batch, over all processes."""
STEPS = 20
HALF = 10
LEARNING_RATE = 0.1


class Reduce(nn.Cell):
    """Averages three gradients."""

    def __init__(self, reducer: nn.Cell) -> None:
        super().__init__()
        self.reducer = reducer

    def construct(self, first: Tensor, second: Tensor, third: Tensor) -> tuple[Tensor, ...]:
        averaged: tuple[Tensor, ...] = self.reducer((first, second, third))
        return averaged


class Read(nn.Cell):
    """Reads a parameter; compiled before its values change, as an engine's steps are."""

    def __init__(self, parameter: ms.Parameter) -> None:
        super().__init__()
        self.parameter = parameter

    def construct(self) -> Tensor:
        return self.parameter * 2


def parameters(value: float) -> list[ms.Parameter]:
    arrays = [np.full((2, 3), value), np.full((1,), 10 * value), np.array(100 * value)]
    tensors = [Tensor(array.astype(np.float32)) for array in arrays]
    return [ms.Parameter(tensor, name=f"p{i}") for i, tensor in enumerate(tensors)]


def values(tensors: Sequence[Tensor]) -> list[Any]:
    """Each tensor's values, which must be one, after its shape."""
    return [[*tensor.shape, *np.unique(tensor.asnumpy()).tolist()] for tensor in tensors]


def exchange(group: MindSporeGroup) -> dict[str, Any]:
    """Use everything that a group offers, with numbers that differ between the ranks."""
    mine = parameters(group.rank + 1)
    read = Read(mine[0])
    read()
    reduce = Reduce(group.gradient_reducer(mine))
    found: dict[str, Any] = {"gradients": values(reduce(*parameters(4 * group.rank + 1)))}
    group.mean_in_place(mine)
    found["mean"] = [*values(mine), *values([read()])]
    found["kept"] = keep_equal(group)
    found["not finite"] = mean_of_what_is_not_finite(group)
    mine = parameters(group.rank + 1)
    group.broadcast_in_place(mine)
    found["broadcast"] = values(mine)
    return found


def keep_equal(group: MindSporeGroup) -> bool:
    """Average numbers of every size that are equal on all ranks: do all bits stay?"""
    random = np.random.default_rng(0)
    bits = random.integers(0, 2**32, 10_000, np.uint32)
    numbers = np.append(bits.view(np.float32), np.array([0, -1 / 3, 1e-45, 1e-40], np.float32))
    numbers = numbers[np.abs(numbers) < 1e38]
    parameter = ms.Parameter(Tensor(numbers))
    group.mean_in_place([parameter])
    return bool(np.array_equal(parameter.asnumpy(), numbers))


def mean_of_what_is_not_finite(group: MindSporeGroup) -> list[str]:
    first = group.rank == 0
    numbers = [np.nan if first else 1.0, np.inf if first else 1.0, np.inf if first else -np.inf]
    parameter = ms.Parameter(Tensor(np.array(numbers, np.float32)))
    group.mean_in_place([parameter])
    return [str(number) for number in parameter.asnumpy()]


class Trained:
    """An engine that has taken steps on this process's share of some batches.

    With another seed for each rank they begin with other weights, of which those of rank 0 must
    become everybody's.
    """

    def __init__(
        self,
        make_spec: Callable[..., EngineSpec],
        model: ModelEntry,
        device: MindSporeDevice,
        group: MindSporeGroup | None = None,
        *,
        mode: Literal["graph", "pynative"] = "graph",
        saved: Path | None = None,
        **changes: Any,
    ) -> None:
        self._group = group
        self._rank, self._size = (group.rank, group.world_size) if group else (0, 1)
        options = MindSporeOptions(mode=mode)
        spec = make_spec(model=model, framework_options=options, group=group, **changes)
        self.engine = MindSporeEngine(spec, device)
        if saved:
            restore(self.engine, saved)

    def steps(self, batches: Sequence[Batch]) -> list[float]:
        """Take a step on each batch, and return the losses of all processes together."""
        images = IMAGES // self._size
        part = slice(self._rank * images, (self._rank + 1) * images)
        losses = []
        for batch in batches:
            share = Batch(
                images=batch.images[part], labels=batch.labels[part], indices=batch.indices[part]
            )
            losses.append(self.engine.train_step(share, LEARNING_RATE).read().loss)
        self.engine.agree()
        if self._group is None:
            return losses
        return self._group.sum([loss / self._size for loss in losses])


def save(engine: MindSporeEngine, folder: Path) -> None:
    """Write weights and state, as a checkpoint does."""
    folder.mkdir()
    state = engine.state()
    weights: dict[str, Any] = dict(engine.weights())
    tensors: dict[str, Any] = dict(state.tensors)
    np.savez(folder / "weights.npz", **weights)
    np.savez(folder / "state.npz", **tensors)
    (folder / "state.json").write_text(json.dumps(state.values), encoding="utf-8")


def restore(engine: MindSporeEngine, folder: Path) -> None:
    """Read what ``save`` wrote."""
    with np.load(folder / "weights.npz") as weights, np.load(folder / "state.npz") as state:
        engine.load_weights(dict(weights))
        tensors = dict(state)
    written = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    engine.load_state(EngineState(tensors=tensors, values=written))


def train_all(
    group: MindSporeGroup, device: MindSporeDevice, conftest: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train in several ways; return losses and weights by name."""
    batches = conftest._make_batches(STEPS, images=IMAGES, size=8)
    model, make_spec = conftest.tiny_entry(dropout=0.2), conftest._make_spec
    losses: dict[str, Any] = {}
    arrays: dict[str, Any] = {}

    def keep(name: str, trained: Trained, of: Sequence[Batch]) -> None:
        losses[name] = trained.steps(of)
        arrays.update({f"{name} {key}": array for key, array in trained.engine.weights().items()})

    trained = Trained(make_spec, model, device, group, micro_batch_size=IMAGES // 2)
    keep("first half", trained, batches[:HALF])
    if group.rank == 0:
        save(trained.engine, Path("two"))
    keep("second half", trained, batches[HALF:])
    resumed = Trained(
        make_spec, model, device, group, micro_batch_size=IMAGES // 2, saved=Path("one")
    )
    keep("resumed", resumed, batches[HALF:])
    whole = conftest.tiny_entry()
    modes: Sequence[tuple[Literal["graph", "pynative"], int]] = [("graph", STEPS), ("pynative", 3)]
    for mode, count in modes:
        trained = Trained(
            make_spec,
            whole,
            device,
            group,
            mode=mode,
            micro_batch_size=IMAGES // 2,
            sync_batch_norm=True,
            seed=1 + group.rank,
        )
        keep(f"synchronized {mode}", trained, batches[:count])
    return losses, arrays


def save_often(
    group: MindSporeGroup, device: MindSporeDevice, conftest: Any
) -> dict[str, list[bool]]:
    """Save after each step, and continue from the first: is all as in one that saves at the end?

    Each process has running statistics of its own, of 4 images.
    """
    batches = conftest._make_batches(3, images=IMAGES, size=8)
    spec, model = conftest._make_spec, conftest.tiny_entry()
    straight, often, resumed = (
        Trained(spec, model, device, group, mode="pynative", ema_decay=0.9) for _ in range(3)
    )
    straight.steps(batches)
    often.steps(batches[:1])
    resumed.engine.load_weights(often.engine.weights())
    resumed.engine.load_state(often.engine.state())
    resumed.steps(batches[1:])
    for batch in batches[1:]:
        often.steps([batch])
    expected = content(straight.engine)
    names = sorted(name for name in expected if name.startswith("own/"))
    assert len(names) == 2, names
    return {
        name: [bool(np.array_equal(other[key], expected[key])) for key in expected]
        for name, other in (("often", content(often.engine)), ("resumed", content(resumed.engine)))
    }


def content(engine: MindSporeEngine) -> dict[str, Any]:
    """Return everything that a checkpoint would hold."""
    return {**engine.weights(), **engine.state().tensors}


def main() -> None:
    import conftest  # type: ignore[import-not-found]  # it lies beside this file

    sys.path.append(str(Path(__file__).parents[2] / "contracts"))
    import networks  # type: ignore[import-not-found]  # MindSpore imports it by its name

    device = open_device(CPU, configure=lambda: configure_cpu(CpuOptions()))
    group = join(device, 600)
    found: dict[str, Any] = {
        "saved": save_often(group, device, conftest),
        "role": os.environ["MS_ROLE"],
        "world_size": group.world_size,
        "described": group.describe(),
    }
    # 2**40 and 1 need more digits than the float32 sums of the CPU have.
    found["sum"] = group.sum([2**40 - 1 + group.rank, 1 / 3, -1.0, np.nan if group.rank else 0.0])
    for name, mode in (("graph", ms.GRAPH_MODE), ("pynative", ms.PYNATIVE_MODE)):
        ms.set_context(mode=mode)
        found[name] = exchange(group)
    check_group(group=group, **{**networks.in_mindspore(), "device": device})
    found["losses"], arrays = train_all(group, device, conftest)
    np.savez(f"rank{group.rank}.npz", **arrays)
    if group.rank == 1:
        time.sleep(1)
        Path("late").touch()
    group.close()
    found["waited"] = Path("late").exists()
    Path(f"rank{group.rank}.json").write_text(json.dumps(found), encoding="utf-8")


def wait_in_vain() -> None:
    """Meet, and let rank 1 take no part in the step of rank 0."""
    import conftest

    device = open_device(CPU, configure=lambda: configure_cpu(CpuOptions()))
    group = join(device, 10)
    [batch] = conftest._make_batches(1, images=4, size=8)
    model = conftest.tiny_entry(norm=False)
    trained = Trained(conftest._make_spec, model, device, group)
    if group.rank == 0:
        try:
            trained.engine.train_step(batch, LEARNING_RATE).read()
        except OtherRankError as error:
            Path("error").write_text(str(error), encoding="utf-8")
        finally:
            Path("end").touch()
    while not Path("end").exists():
        time.sleep(0.1)
    os._exit(0)  # MindSpore would wait for what has failed


if __name__ == "__main__":
    wait_in_vain() if sys.argv[1:] == ["in_vain"] else main()

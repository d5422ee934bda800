"""What test_group.py runs in each of two processes; ``train`` also in one alone.

Each process leaves what it found in ``rank<number>.json`` and its weights in
``rank<number>.npz``, in the working directory.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from runner import Batch
from runner_mindspore.autoload import Tensor, ms, nn
from runner_mindspore.device import open_cpu
from runner_mindspore.engine import MindSporeEngine
from runner_mindspore.group import MindSporeGroup, join
from runner_mindspore.options import CpuOptions, MindSporeOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from runner import ModelEntry
    from runner.contracts import EngineSpec
    from runner_mindspore.device import MindSporeDevice


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
    found = {"gradients": values(reduce(*parameters(4 * group.rank + 1)))}
    group.mean_in_place(mine)
    found["mean"] = [*values(mine), *values([read()])]
    mine = parameters(group.rank + 1)
    group.broadcast_in_place(mine)
    found["broadcast"] = values(mine)
    return found


def train(
    make_spec: Callable[..., EngineSpec],
    model: ModelEntry,
    batches: Sequence[Batch],
    device: MindSporeDevice,
    group: MindSporeGroup | None = None,
) -> tuple[list[float], dict[str, Any]]:
    """Take a step on this process's share of each batch; return losses and weights.

    Every rank begins with other weights, of which those of rank 0 must become everybody's.
    """
    rank, size = (group.rank, group.world_size) if group else (0, 1)
    images = len(batches[0].labels) // size
    spec = make_spec(
        model=model,
        framework_options=MindSporeOptions(mode="graph"),
        seed=1 + rank,
        micro_batch_size=images // 2,
        group=group,
    )
    engine = MindSporeEngine(spec, device)
    losses = []
    for batch in batches:
        part = slice(rank * images, (rank + 1) * images)
        share = Batch(
            images=batch.images[part], labels=batch.labels[part], indices=batch.indices[part]
        )
        losses.append(engine.train_step(share, 0.1).read().loss)
    engine.agree()
    return losses, engine.weights()


def main() -> None:
    import conftest  # type: ignore[import-not-found]  # it lies beside this file

    device = open_cpu(CpuOptions())
    group = join(device, 600)
    found: dict[str, Any] = {"role": os.environ["MS_ROLE"], "world_size": group.world_size}
    # 2**40 and 1 need more digits than the float32 sums of the CPU have.
    found["sum"] = group.sum([2**40 - 1 + group.rank, 1 / 3, -1.0, np.nan if group.rank else 0.0])
    for name, mode in (("graph", ms.GRAPH_MODE), ("pynative", ms.PYNATIVE_MODE)):
        ms.set_context(mode=mode)
        found[name] = exchange(group)
    arrays: dict[str, Any] = {}
    batches = conftest._make_batches(4, images=8, size=8)
    for norm in ("plain", "norm"):
        model = conftest.tiny_entry(norm=norm == "norm")
        losses, weights = train(conftest._make_spec, model, batches, device, group)
        found[f"{norm} losses"] = group.sum([loss / group.world_size for loss in losses])
        arrays |= {f"{norm} {name}": array for name, array in weights.items()}
    np.savez(f"rank{group.rank}.npz", **arrays)
    if group.rank == 1:
        time.sleep(1)
        Path("late").touch()
    group.close()
    found["waited"] = Path("late").exists()
    Path(f"rank{group.rank}.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()

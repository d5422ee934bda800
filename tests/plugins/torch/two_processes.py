"""What test_group.py runs in each of several processes; ``train`` also in one alone.

Each process leaves what it found in ``rank<number>.json`` and its weights in
``rank<number>.npz``, in the working directory.
"""

from __future__ import annotations

import hashlib
import json
import math
import runpy
import sys
import time
import warnings
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from runner import Batch, ModelEntry
from runner.errors import OtherRankError, PluginError
from runner.recipe.schema import PrecisionSection
from runner.testing import check_group
from runner_torch.autoload import torch
from runner_torch.device import configure_cpu, open_device
from runner_torch.engine import TorchEngine
from runner_torch.group import TorchGroup, join
from runner_torch.options import CpuOptions
from runner_torch.traits import CPU

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from runner.entries import EngineSpec
    from runner_torch.device import TorchDevice

RATE = 0.1


def share(batch: Batch, group: TorchGroup | None) -> Batch:
    """This process's part of a batch."""
    rank, size = (group.rank, group.world_size) if group else (0, 1)
    images = len(batch.labels) // size
    part = slice(rank * images, (rank + 1) * images)
    return Batch(images=batch.images[part], labels=batch.labels[part], indices=batch.indices[part])


def train(
    make_spec: Callable[..., EngineSpec],
    model: ModelEntry | str,
    batches: Sequence[Batch],
    device: TorchDevice,
    group: TorchGroup | None = None,
    passes: int = 2,
    **changes: Any,
) -> tuple[list[float], TorchEngine]:
    """Take a step on this process's share of each batch, in passes; return losses and engine.

    Every rank begins with other weights, of which those of rank 0 must become everybody's.
    """
    rank, size = (group.rank, group.world_size) if group else (0, 1)
    images = len(batches[0].labels) // size // passes
    spec = make_spec(model=model, seed=1 + rank, micro_batch_size=images, group=group, **changes)
    engine = TorchEngine(spec, device)
    losses = [engine.train_step(share(batch, group), RATE).read().loss for batch in batches]
    engine.agree()
    return losses, engine


def exchange(group: TorchGroup) -> dict[str, Any]:
    """Use everything that a group offers, with numbers that differ between the ranks."""
    # 2**40 and 1 need more digits than float32 has.
    numbers = [2**40 - 1 + group.rank, 1 / 3, -1.0, math.nan if group.rank else 0.0]
    own = [torch.full((2, 3), group.rank + 1.0), torch.tensor(10.0 * group.rank), torch.ones(2) / 3]
    group.mean_in_place(own)
    module = torch.nn.BatchNorm1d(2)
    module.bias.data.fill_(group.rank + 5.0)
    module.running_mean.fill_(group.rank + 7.0)  # type: ignore[union-attr]  # it has statistics
    group.broadcast_in_place(module)
    return {
        "sum": group.sum(numbers),
        "gathered": group.gather(torch.tensor([group.rank])).tolist(),
        "mean": [tensor.unique().tolist() for tensor in own],
        "kept": torch.equal(own[2], torch.ones(2) / 3),
        "broadcast": [module.bias.tolist(), module.running_mean.tolist()],  # type: ignore[union-attr]
    }


def continue_training(
    engine: TorchEngine, spec: EngineSpec, batch: Batch, device: TorchDevice, group: TorchGroup
) -> bool:
    """Save on rank 0, go on, load on all, go on again: is every rank where it was?"""
    state, weights = engine.state(), engine.weights()
    box = [(state, weights)]
    torch.distributed.broadcast_object_list(box, 0)
    own = share(batch, group)
    first = engine.train_step(own, RATE).read().loss
    other = TorchEngine(spec, device)
    other.load_weights(box[0][1])
    other.load_state(box[0][0])
    second = other.train_step(own, RATE).read().loss
    after = other.weights()
    return first == second and all(np.array_equal(v, after[k]) for k, v in engine.weights().items())


class HalfUsed(torch.nn.Module):
    """Has a layer that takes no part."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.fc = torch.nn.Linear(3, num_classes)
        self.spare = torch.nn.Linear(3, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.fc(images.mean(dim=(2, 3)))
        return logits


def refuse_unused(
    make_spec: Callable[..., EngineSpec], batch: Batch, device: Any, group: Any
) -> str:
    """Train a model of which a part is not used."""
    entry = ModelEntry(
        name="half", summary="Half", framework="torch", build=lambda _, classes: HalfUsed(classes)
    )
    try:
        train(make_spec, entry, [batch, batch], device, group)
    except PluginError as error:
        return str(error)
    return "nothing"


def overflow_on_one(
    make_spec: Callable[..., EngineSpec], model: ModelEntry, batch: Batch, device: Any, group: Any
) -> list[Any]:
    """Let the gradients of rank 1 alone overflow."""
    precision = PrecisionSection(loss_scale="dynamic")
    engine = TorchEngine(make_spec(model=model, group=group, precision=precision), device)
    fc = dict(engine._model.named_parameters())["fc.weight"]
    handle = fc.register_hook(lambda gradient: gradient * math.inf) if group.rank else None
    result = engine.train_step(share(batch, group), RATE).read()
    if handle is not None:
        handle.remove()
    again = engine.train_step(share(batch, group), RATE).read()
    return [result.skipped, again.skipped, engine.report()["loss_scale"]["scale"]]


def train_with_batch_norm(conftest: Any, device: TorchDevice, group: TorchGroup) -> dict[str, Any]:
    """Take statistics over one process or all, in one pass for each; return losses and weights."""
    batches, spec = conftest._make_batches(4, images=8, size=8), conftest._make_spec
    lower = PrecisionSection(compute="bf16", level="O3")
    arrays: dict[str, Any] = {}
    for name, steps, changes in (
        ("apart", 4, {}),
        ("one step apart", 1, {}),
        ("synced", 4, {"sync_batch_norm": True, "ema_decay": 0.9}),
        ("synced O3", 4, {"sync_batch_norm": True, "precision": lower}),
    ):
        losses, engine = train(
            spec, conftest.tiny_entry(), batches[:steps], device, group, passes=1, **changes
        )
        arrays |= {f"{name} {key}": array for key, array in engine.weights().items()}
        arrays |= {f"{name} average {k}": v for k, v in engine.evaluation_weights().items()}
        arrays[f"{name} losses"] = group.sum([loss / group.world_size for loss in losses])
        arrays[f"{name} logits"] = engine.predict(batches[0].images)
    return arrays


def save_often(conftest: Any, device: TorchDevice, group: TorchGroup) -> list[bool]:
    """Save after each step: is all as where it is saved at the end?"""
    batches = conftest._make_batches(3, images=4 * group.world_size, size=8)
    found = []
    for times in (1, len(batches)):
        spec = conftest._make_spec(model=conftest.tiny_entry(), group=group, ema_decay=0.9)
        engine = TorchEngine(spec, device)
        for number, batch in enumerate(batches, start=1):
            engine.train_step(share(batch, group), RATE)
            if times > 1 or number == len(batches):
                engine.agree()
        found.append({**engine.weights(), **engine.state().tensors})
    once, often = found
    assert group.rank or len([name for name in once if name.startswith("own/")]) == 2
    return [bool(np.array_equal(often[name], array)) for name, array in once.items()]


def continue_with_many(conftest: Any, device: TorchDevice, group: TorchGroup) -> dict[str, Any]:
    """Train a network whose gradients are exchanged in another order after the first step."""
    batches = conftest._make_batches(2, images=4 * group.world_size, size=48)
    _, engine = train(conftest._make_spec, "mobilenet_v2", batches, device, group, passes=1)
    continues = continue_training(engine, engine._spec, batches[0], device, group)
    return {"continues": continues, "random": engine.state().tensors["random/cpu"].shape}


def average_often(group: TorchGroup) -> dict[str, Any]:
    """Average what differs and what is equal on all ranks, more than once."""
    generator = torch.Generator().manual_seed(0)
    equal = torch.randn(10_000, generator=generator)
    own = torch.randn(10_000, generator=generator.manual_seed(1 + group.rank))
    digests, kept = [], True
    for _ in range(3):
        tensors = [own.clone(), equal.clone()]
        group.mean_in_place(tensors)
        digests.append(hashlib.sha256(tensors[0].numpy().tobytes()).hexdigest())
        kept = kept and torch.equal(tensors[1], equal)
    error = (tensors[0] - group.gather(own).double().mean(0)).abs().max()
    return {"digests": digests, "kept": kept, "error": float(error)}


def wait_in_vain(group: TorchGroup) -> str:
    """Exchange something that rank 1 takes no part in."""
    short = replace(group, timeout_s=3)
    limit = timedelta(seconds=short.timeout_s)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch 2.11 has no other name for it
        torch.distributed.distributed_c10d._set_pg_timeout(limit, torch.distributed.group.WORLD)
    group.sum([0.0])
    if group.rank == 1:
        while len(list(Path().glob("waited*"))) < group.world_size - 1:
            time.sleep(0.1)
        return ""
    try:
        short.sum([1.0])
    except OtherRankError as error:
        Path(f"waited{group.rank}").touch()
        return str(error)
    return "nothing"


def main() -> None:
    import conftest  # type: ignore[import-not-found]  # it lies beside this file

    device = open_device(CPU, configure=lambda: configure_cpu(CpuOptions(threads=1)))
    torch.ones(8, 8).requires_grad_().sum().backward()
    threads = len(list(Path("/proc/self/task").iterdir()))
    group = join(device, 600)
    if sys.argv[1:] == ["many"]:
        found = {
            **continue_with_many(conftest, device, group),
            "saved": save_often(conftest, device, group),
            "averaged": average_often(group),
            "waited": wait_in_vain(group),
        }
        Path(f"rank{group.rank}.json").write_text(json.dumps(found), encoding="utf-8")
        return
    make_spec = conftest._make_spec
    found = {"world_size": group.world_size, **exchange(group)}
    arguments = runpy.run_path(str(Path(__file__).parents[2] / "contracts" / "networks.py"))
    check_group(group=group, **{**arguments["in_torch"](), "device": device})
    arrays = train_with_batch_norm(conftest, device, group)
    batches = conftest._make_batches(4, images=8, size=8)
    noisy = {"ema_decay": 0.9, "optimizer": "adamw"}
    for name, model, changes in (
        ("plain", conftest.tiny_entry(norm=False), {}),
        ("noisy", conftest.tiny_entry(norm=True, dropout=0.5), noisy),
        (
            "cast",
            conftest.tiny_entry(),
            {"precision": PrecisionSection(compute="bf16", level="O2")},
        ),
    ):
        losses, engine = train(make_spec, model, batches, device, group, **changes)
        found[f"{name} losses"] = group.sum([loss / group.world_size for loss in losses])
        arrays |= {f"{name} {key}": array for key, array in engine.weights().items()}
        averages = engine.evaluation_weights()
        arrays |= {f"{name} average {key}": array for key, array in averages.items()}
        found[f"{name} continues"] = continue_training(
            engine, engine._spec, batches[0], device, group
        )
    found["random"] = engine.state().tensors["random/cpu"].shape
    found["overflow"] = overflow_on_one(make_spec, model, batches[0], device, group)
    found["unused"] = refuse_unused(make_spec, batches[0], device, group)
    found["report"] = engine.report()["group"]
    np.savez(f"rank{group.rank}.npz", **arrays)
    if group.rank == 1:
        time.sleep(1)
        Path("late").touch()
    group.close()
    found["waited"] = Path("late").exists()
    found["threads"] = [threads, threads_in_the_end(threads)]
    Path(f"rank{group.rank}.json").write_text(json.dumps(found), encoding="utf-8")


def threads_in_the_end(expected: int) -> int:
    """Return how many threads are left; joined ones may be listed a little longer."""
    deadline = time.monotonic() + 20
    while (count := len(list(Path("/proc/self/task").iterdir()))) > expected:
        if time.monotonic() > deadline:
            break
        time.sleep(0.01)
    return count


if __name__ == "__main__":
    main()

"""What benchmarks/scale.py measures on this machine."""

from __future__ import annotations

import multiprocessing
import os
import platform
import socket
import statistics
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from scale_model import IMAGES, IMAGES_21K, NETWORKS


def measure_decode(files: list[Path], recipe: str) -> dict[str, float]:
    """Decode and augment photographs on one thread, as a recipe does."""
    from runner.data.decode import decode
    from runner.data.order import Augmentation
    from runner.data.transforms.apply import apply
    from runner.planning.loading import load

    plan = load(recipe, [], allow_unset=True).plan
    steps, augmentation = plan.recipe.transforms.train, Augmentation(1, 0)
    contents = [file.read_bytes() for file in files]
    rates = []
    for _ in range(5):
        start = time.process_time()
        for position, content in enumerate(contents):
            apply(decode(content, ""), steps, augmentation.generator(position))
        rates.append(len(contents) / (time.process_time() - start))
    return {"images_per_cpu_s": round(statistics.median(rates), 1), "images": len(files)}


class Copies:
    """Stands in for an engine: weights and momentum in 160 arrays, copied when asked for."""

    def __init__(self, parameters: int) -> None:
        import numpy as np

        random = np.random.default_rng(1)
        sizes = [parameters // 160 + (n < parameters % 160) for n in range(160)]
        self._arrays = {f"p{n}": random.random(size, np.float32) for n, size in enumerate(sizes)}

    def agree(self) -> None:
        pass

    def weights(self) -> dict[str, Any]:
        return {name: array.copy() for name, array in self._arrays.items()}

    def state(self) -> Any:
        from runner.contracts import EngineState

        return EngineState(tensors=self.weights())


def measure_checkpoint(parameters: int, folder: Path) -> dict[str, float]:
    """Save five times, and return the shortest wait of training and the shortest writing."""
    from runner.distributed.ranks import Ranks
    from runner.recipe.schema import CheckpointSection
    from runner.storage.checkpoint import Position
    from runner.storage.events import EventLog
    from runner.training.checkpointer import Saver

    found: list[Any] = []

    def listen(event: str, fields: Any) -> None:
        if event == "checkpoint.saved":
            found.append(fields)

    engine: Any = Copies(parameters)
    saver = Saver(
        engine,
        Ranks(),
        EventLog(listen),
        section=CheckpointSection(keep=1),
        folder=folder,
        classes=("one",),
        weights_kind="raw",
        recipe_text="",
    )
    with saver:
        for step in range(5):
            saver.save(Position(step=step, epoch=step, step_in_epoch=0), {})
            saver.finish()
        size = sum(file.stat().st_size for file in (saver.last or folder).iterdir())
    return {
        "bytes": size,
        "stall_s": min(fields["stall_s"] for fields in found),
        "write_s": min(fields["write_s"] for fields in found),
    }


def _exchange(rank: int, count: int, place: str) -> None:
    import torch

    from runner_torch.group import TorchGroup

    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{place}/store", rank=rank, world_size=count
    )
    group = TorchGroup(rank=rank, world_size=count, backend="gloo", timeout_s=60)
    values = [float(number) for number in range(20)]
    times = []
    for _ in range(300):
        start = time.perf_counter()
        group.sum(values)
        times.append(time.perf_counter() - start)
    if rank == 0:
        (Path(place) / "seconds").write_text(str(statistics.quantiles(times[50:], n=10)[0]))
    group.sum([0.0])
    torch.distributed.destroy_process_group()


def measure_exchange(count: int) -> float:
    """Add 20 numbers over processes of this machine; return the seconds of the fastest tenth."""
    import torch.multiprocessing

    with tempfile.TemporaryDirectory() as place:
        torch.multiprocessing.spawn(_exchange, (count, place), nprocs=count)
        return round(float((Path(place) / "seconds").read_text()), 6)


def _echo(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as other:
        other.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while content := other.recv(64):
            other.sendall(content)


def measure_message() -> float:
    """Return the seconds of a small message to another process over TCP, half a round trip."""
    times = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        process = multiprocessing.Process(target=_echo, args=(server.getsockname()[1],))
        process.start()
        other, _ = server.accept()
        with other:
            other.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for _ in range(5000):
                start = time.perf_counter()
                other.sendall(b"x" * 64)
                other.recv(64)
                times.append((time.perf_counter() - start) / 2)
        process.join()
    return round(statistics.median(times), 7)


def measure_order(images: int) -> float:
    """Return the CPU seconds until a rank of eight knows its images of an epoch."""
    from runner.data.order import train_indices

    times = []
    for epoch in range(3):
        start = time.process_time()
        train_indices(images, 1, epoch, batch_size=4096, steps=images // 4096, rank=3, world_size=8)
        times.append(time.process_time() - start)
    return round(statistics.median(times), 3)


def measure(data: Path, scratch: Path) -> dict[str, Any]:
    """Measure everything that is measured here."""
    files = sorted(data.glob("*/*"))[:500]
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        checkpoints = {
            network.recipe: measure_checkpoint(network.parameters, Path(folder) / network.recipe)
            for network in NETWORKS
        }
    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "machine": f"{os.cpu_count()} x86-64 cores, Python {platform.python_version()}",
        "decode": {network.recipe: measure_decode(files, network.recipe) for network in NETWORKS},
        "bytes_per_image": round(statistics.mean(file.stat().st_size for file in files)),
        "checkpoint": checkpoints,
        "exchange_s": {str(count): measure_exchange(count) for count in (2, 4, 8)},
        "message_s": measure_message(),
        "order_s": {str(images): measure_order(images) for images in (IMAGES, IMAGES_21K)},
    }

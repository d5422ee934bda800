"""Training throughput beside a bare PyTorch loop and its peers, as ratios measured in turns.

    python benchmarks/throughput.py --data FOLDER [--model resnet18] [--rounds 5] [--output FILE]

FOLDER holds train/<class>/ and val/<class>/ with JPEG files. Model, batch, precision, memory layout
and number of threads are the same everywhere. Each round times one after the other:

    in a process of its own, as anybody would run them
    bare        a loop over one fixed, normalised tensor: forward, loss, backward, update
    lightning   Lightning's Trainer over the same tensor, where it is installed
    timm        the bare loop fed by timm's loader from the JPEG files, where it is installed

    in this process, where the cpu device keeps freed memory (see device.keep_freed_memory)
    bare+memory the bare loop
    jpeg        Vision Runner's loop over the JPEG files, each decoded again in every epoch
    jpeg+cache  the same with loader.cache_gib: each file is decoded once

and prints medians and the ratios to `bare` and to `bare+memory` of the same round. `loop`, the cost
of Vision Runner's loop itself, is measured step by step: a bare step, then a step of the loop on
one fixed batch of pixels, in turn.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")

import torch
import torchvision
from common import CLASSES, WARMUP, Ours, loop_ratio, ratios

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Measure = Callable[[], float]

MODES = {
    "fp32": ["precision=fp32", "framework.memory_format=contiguous"],
    "fp32-channels-last": ["precision=fp32"],
    "bf16": ["precision=bf16"],
}


class Bare:
    """The loop that anybody would write, on one tensor."""

    def __init__(self, arguments: argparse.Namespace, mode: str) -> None:
        torch.manual_seed(1)
        self.amp = mode == "bf16"
        self.layout = torch.contiguous_format if mode == "fp32" else torch.channels_last
        model = torchvision.models.get_model(arguments.model, weights=None, num_classes=CLASSES)
        self.model = model.to(memory_format=self.layout).train()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3, momentum=0.9)
        self.steps = arguments.steps
        images = torch.randn(arguments.batch, 3, 224, 224)
        self.images = images.contiguous(memory_format=self.layout)
        self.labels = torch.randint(0, CLASSES, (arguments.batch,))

    def step(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.amp):
            loss = torch.nn.functional.cross_entropy(self.model(images), labels)
        loss.backward()
        self.optimizer.step()

    def step_on_tensor(self) -> None:
        self.step(self.images, self.labels)

    def measure(self, step: Callable[[], None]) -> float:
        for _ in range(WARMUP):
            step()
        start = time.perf_counter()
        for _ in range(self.steps):
            step()
        return self.steps * len(self.labels) / (time.perf_counter() - start)


def lightning_loop(bare: Bare) -> Measure:
    """Return a function that runs Lightning's Trainer over the bare loop's tensor."""
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = bare.model
            self.start = self.seconds = 0.0

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            images, labels = batch
            return torch.nn.functional.cross_entropy(self.model(images), labels)

        def on_train_batch_start(self, batch: Any, index: int) -> None:
            if index == WARMUP:
                self.start = time.perf_counter()

        def on_train_batch_end(self, outputs: Any, batch: Any, index: int) -> None:
            self.seconds = time.perf_counter() - self.start

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=1e-3, momentum=0.9)

    batches = [(bare.images, bare.labels)] * (WARMUP + bare.steps)
    data = torch.utils.data.DataLoader(batches, batch_size=None)

    def measure() -> float:
        module = Module()
        trainer = lightning.Trainer(
            max_epochs=1,
            accelerator="cpu",
            precision="bf16-mixed" if bare.amp else "32-true",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, data)
        return bare.steps * len(bare.labels) / module.seconds

    return measure


def timm_loop(bare: Bare, data: Path) -> Measure:
    """Return a function that feeds the bare step from timm's loader."""
    from timm.data import create_dataset, create_loader

    loader = create_loader(
        create_dataset("folder", root=str(data), split="train", is_training=True),
        input_size=(3, 224, 224),
        batch_size=len(bare.labels),
        is_training=True,
        num_workers=2,
        use_prefetcher=False,
        persistent_workers=True,
        device=torch.device("cpu"),
    )

    def endless() -> Iterator[Any]:
        while True:
            yield from loader

    batches = endless()

    def step() -> None:
        images, labels = next(batches)
        bare.step(images.contiguous(memory_format=bare.layout), labels)

    return lambda: bare.measure(step)


def peers(arguments: argparse.Namespace, mode: str) -> dict[str, Measure]:
    """Build what runs in the process of its own."""
    bare = Bare(arguments, mode)
    found: dict[str, Measure] = {"bare": lambda: bare.measure(bare.step_on_tensor)}
    if importlib.util.find_spec("lightning"):
        found["lightning"] = lightning_loop(bare)
    if importlib.util.find_spec("timm"):
        found["timm"] = timm_loop(bare, arguments.data)
    return found


def serve(arguments: argparse.Namespace) -> None:
    """Be the process of its own: measure what each line of input names."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever the peers print goes to standard error
    measures = peers(arguments, arguments.serve)
    out.write(json.dumps(list(measures)) + "\n")
    out.flush()
    for line in sys.stdin:
        out.write(json.dumps(measures[line.strip()]()) + "\n")
        out.flush()


class OwnProcess:
    """The process of its own, seen from here."""

    def __init__(self, mode: str) -> None:
        command = [sys.executable, __file__, *sys.argv[1:], "--serve", mode]
        self._child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.names: list[str] = self._answer()

    def measure(self, name: str) -> float:
        assert self._child.stdin is not None
        self._child.stdin.write(name + "\n")
        self._child.stdin.flush()
        return float(self._answer())

    def close(self) -> None:
        self._child.communicate()

    def _answer(self) -> Any:
        assert self._child.stdout is not None
        return json.loads(self._child.stdout.readline())


def compare(arguments: argparse.Namespace, mode: str) -> dict[str, Any]:
    """Measure everything in one mode."""
    child = OwnProcess(mode)
    ours = Ours(arguments, *MODES[mode])
    cached = Ours(arguments, *MODES[mode], "loader.cache_gib=4")
    bare = Bare(arguments, mode)
    measures: dict[str, Measure] = {
        **{name: lambda name=name: child.measure(name) for name in child.names},  # type: ignore[misc]
        "bare+memory": lambda: bare.measure(bare.step_on_tensor),
        "jpeg": lambda: ours.fit(ours.train.loader),
        "jpeg+cache": lambda: cached.fit(cached.train.loader),
    }
    cached.fit(cached.train.loader)  # decodes for the first time
    rates: dict[str, list[float]] = {name: [] for name in measures}
    loops = []
    for number in range(arguments.rounds):
        for name, measure in measures.items():
            rates[name].append(measure())
        loops.append(loop_ratio(ours, bare.step_on_tensor))
        line = "  ".join(f"{name} {values[-1]:.1f}" for name, values in rates.items())
        sys.stderr.write(f"{mode} round {number + 1}: {line}  loop {loops[-1]:.4f}\n")
    child.close()

    def ratio(name: str, base: str) -> float:
        return round(statistics.median(ratios(rates[name], rates[base])), 4)

    return {
        "loop_ratio_by_step": {"median": statistics.median(loops), "rounds": loops},
        "images_per_s": {name: statistics.median(values) for name, values in rates.items()},
        "ratio_to_bare": {name: ratio(name, "bare") for name in rates},
        "ratio_to_bare_with_memory": {name: ratio(name, "bare+memory") for name in rates},
        "all_images_per_s": rates,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=12, help="timed steps in each measurement")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--modes", nargs="+", choices=list(MODES), default=list(MODES))
    parser.add_argument("--set", action="append", default=[], help="change the recipe")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--serve", choices=list(MODES), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # Lightning's advice is not a result
    if arguments.serve:
        serve(arguments)
        return
    report: dict[str, Any] = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    for mode in arguments.modes:
        report[mode] = result = compare(arguments, mode)
        print(f"{mode}: loop {result['loop_ratio_by_step']['median']:.4f} of a bare step")
        print(f"  {'':<12}{'img/s':>8}{'of bare':>9}{'of bare+memory':>16}")
        for name, rate in result["images_per_s"].items():
            own, kept = result["ratio_to_bare"][name], result["ratio_to_bare_with_memory"][name]
            print(f"  {name:<12}{rate:>8.1f}{own:>9.3f}{kept:>16.3f}", flush=True)
    if arguments.output:
        arguments.output.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()

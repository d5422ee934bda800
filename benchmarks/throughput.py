"""Training throughput beside a bare PyTorch loop, as ratios measured in turns in one process.

    python benchmarks/throughput.py --data FOLDER [--model resnet18] [--rounds 5] [--output FILE]

FOLDER holds train/<class>/ and val/<class>/ with JPEG files. Each round times, one after the other
and with the same model, batch, precision and number of threads:

    bare         a loop over one fixed batch that is already a normalised tensor: nothing but
                 forward, loss, backward and update
    loop         Vision Runner's loop over one fixed batch of pixels
    jpeg         Vision Runner's loop over the JPEG files, each decoded in every epoch
    lightning    Lightning's Trainer over the fixed tensor of the bare loop, where it is installed
    timm         the bare loop fed by timm's loader from the JPEG files, where it is installed

and the ratio to the bare loop of the same round; the table gives the median over the rounds.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")

import numpy as np
import torch
import torchvision

from runner import commands
from runner.contracts import Batch, RunInfo
from runner.events import EventLog
from runner.observers import Observers
from runner.session import Split, open_engine, open_split
from runner.signals import StopRequest
from runner.train import Trainer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RECIPE = Path(__file__).with_name("throughput.yaml")
WARMUP = 3
MODES = {
    "fp32": ["precision=fp32", "framework.memory_format=contiguous"],
    "bf16": ["precision=bf16"],
}


class FixedLoader:
    """Stands in for the loader: the same batch at every step."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def train_batches(
        self, epoch: int, *, steps: int, first_step: int, **_: int
    ) -> Iterator[Batch]:
        for _step in range(first_step, steps):
            yield self.batch

    def eval_batches(self, batch_size: int) -> Iterator[Batch]:
        yield self.batch


class Rate:
    """Takes the images per second of an epoch from the events of our own loop."""

    def __init__(self) -> None:
        self.value = 0.0

    def __call__(self, event: str, fields: Any) -> None:
        if event == "epoch.finished":
            self.value = fields["train.images_per_s"]


def our_loop(plan: Any, engine: Any, train: Split, val: Split) -> Callable[[], float]:
    """Return a function that trains one epoch and gives the rate that the run would report."""

    def measure() -> float:
        rate = Rate()
        with tempfile.TemporaryDirectory() as folder:
            Trainer(
                plan,
                engine,
                train,
                val,
                folder=Path(folder),
                recipe_text="",
                run=RunInfo(name="benchmark", folder=Path(folder), recipe={}),
                events=EventLog(rate),
                observers=Observers({}, lambda *_: None, lambda *_: None),
                stop=StopRequest(),
            ).fit()
        return rate.value

    return measure


class Bare:
    """The loop that anybody would write, on one tensor."""

    def __init__(self, model: str, classes: int, mode: str, batch: Batch, seed: int) -> None:
        torch.manual_seed(seed)
        self.layout = torch.channels_last if mode == "bf16" else torch.contiguous_format
        self.amp = mode == "bf16"
        self.model = torchvision.models.get_model(model, weights=None, num_classes=classes)
        self.model = self.model.to(memory_format=self.layout).train()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3, momentum=0.9)
        mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
        std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
        pixels = torch.from_numpy(batch.images).permute(0, 3, 1, 2).float().div_(255)
        self.images = pixels.sub_(mean).div_(std).contiguous(memory_format=self.layout)
        self.labels = torch.from_numpy(batch.labels)

    def step(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.amp):
            loss = torch.nn.functional.cross_entropy(self.model(images), labels)
        loss.backward()
        self.optimizer.step()

    def measure(self, steps: int) -> float:
        for _ in range(WARMUP):
            self.step(self.images, self.labels)
        start = time.perf_counter()
        for _ in range(steps):
            self.step(self.images, self.labels)
        return steps * len(self.labels) / (time.perf_counter() - start)


def lightning_loop(bare: Bare, steps: int) -> Callable[[], float]:
    """Return a function that runs Lightning's Trainer over the bare loop's tensor."""
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = bare.model
            self.start = 0.0
            self.seconds = 0.0

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

    data = torch.utils.data.DataLoader(
        [(bare.images, bare.labels)] * (WARMUP + steps), batch_size=None
    )

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
        return steps * len(bare.labels) / module.seconds

    return measure


def timm_loop(bare: Bare, data: Path, size: int, steps: int) -> Callable[[], float]:
    """Return a function that feeds the bare step from timm's loader."""
    from timm.data import create_dataset, create_loader

    batch = len(bare.labels)
    loader = create_loader(
        create_dataset("folder", root=str(data), split="train", is_training=True),
        input_size=(3, size, size),
        batch_size=batch,
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

    def measure() -> float:
        def step() -> None:
            images, labels = next(batches)
            bare.step(images.contiguous(memory_format=bare.layout), labels % 10)

        for _ in range(WARMUP):
            step()
        start = time.perf_counter()
        for _ in range(steps):
            step()
        return steps * batch / (time.perf_counter() - start)

    return measure


def contenders(mode: str, arguments: argparse.Namespace) -> dict[str, Callable[[], float]]:
    """Build everything that is to be timed, once."""
    steps = arguments.steps
    loaded = commands.load(
        str(RECIPE),
        [
            f"dataset.root={json.dumps(str(arguments.data))}",
            f"model={arguments.model}",
            f"train.batch_size={arguments.batch}",
            f"train.max_steps_per_epoch={steps + WARMUP}",
            f"train.log_every_steps={WARMUP}",
            *MODES[mode],
            *arguments.set,
        ],
    )
    plan, quiet = loaded.plan, EventLog()
    train, val = open_split(plan, "train", quiet), open_split(plan, "val", quiet)
    _, engine = open_engine(plan, len(train.classes), quiet, training=True)
    batch = next(train.loader.train_batches(0, batch_size=arguments.batch, steps=1))
    small = replace(batch, images=batch.images[:1], labels=batch.labels[:1])
    evaluation = Split(name="val", dataset=val.dataset, loader=FixedLoader(small))  # type: ignore[arg-type]
    fixed = Split(name="train", dataset=train.dataset, loader=FixedLoader(batch))  # type: ignore[arg-type]
    bare = Bare(arguments.model, len(train.classes), mode, batch, plan.recipe.seed)
    found = {
        "bare": lambda: bare.measure(steps),
        "loop": our_loop(plan, engine, fixed, evaluation),
        "jpeg": our_loop(plan, engine, train, evaluation),
    }
    if importlib.util.find_spec("lightning"):
        found["lightning"] = lightning_loop(bare, steps)
    if importlib.util.find_spec("timm"):
        found["timm"] = timm_loop(bare, arguments.data, plan.image_size[0], steps)
    if arguments.only:
        found = {name: found[name] for name in found if name in {"bare", *arguments.only}}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--modes", nargs="+", choices=list(MODES), default=list(MODES))
    parser.add_argument("--set", action="append", default=[], help="change the recipe")
    parser.add_argument("--only", nargs="+", help="leave out the other contenders")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # Lightning's advice is not a result
    report: dict[str, Any] = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "numpy": np.__version__,
        "arguments": {k: str(v) for k, v in vars(arguments).items()},
    }
    for mode in arguments.modes:
        todo = contenders(mode, arguments)
        rates: dict[str, list[float]] = {name: [] for name in todo}
        for number in range(arguments.rounds):
            for name, measure in todo.items():
                rates[name].append(measure())
            line = "  ".join(f"{name} {values[-1]:.1f}" for name, values in rates.items())
            sys.stderr.write(f"{mode} round {number + 1}: {line}\n")
        report[mode] = {
            name: {
                "images_per_s": statistics.median(values),
                "ratio_to_bare": statistics.median(
                    ours / bare for ours, bare in zip(values, rates["bare"], strict=True)
                ),
                "ratios": [
                    round(ours / bare, 4) for ours, bare in zip(values, rates["bare"], strict=True)
                ],
            }
            for name, values in rates.items()
        }
        for name, row in report[mode].items():
            print(
                f"{mode:<6}{name:<12}{row['images_per_s']:>9.1f} img/s{row['ratio_to_bare']:>8.3f}"
            )
    if arguments.output:
        arguments.output.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""PyTorch and MindSpore on the same recipe, weights and images in fp32: how equal are they?

    python benchmarks/parity.py --data FOLDER [--cases resnet18 ...] [--steps 20] [--seeds 1 2 3]
    python benchmarks/parity.py --data FOLDER --accuracy EPOCHS [--seeds 1 2]

FOLDER holds train/<class>/ and val/<class>/ with small images, such as CIFAR-10. For each model it
compares

    pixels      batches: images, labels, order, and normalised input, which must be equal to the bit
    logits      of the evaluation, with fresh weights and with those of the last PyTorch run
    loss        of the first step
    statistics  running means and variances of batch normalisation after the first step
    curve       losses of the following steps. Rounding grows with every step (one ReLU that flips
                changes all gradients before it), so they cannot stay equal: the distance between
                the frameworks is in units of that between PyTorch in fp32 and in fp64. Two curves
                that lie as far from fp64 independently of each other are 1.4 units apart

and ends with status 1 if one of them is beyond its limit. `--accuracy` trains both to the end, from
the same weights for each seed, and puts the accuracies side by side.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from runner.contracts import Batch, Engine
    from runner.planning.plan import Plan
    from runner.session.opening import Split

    Weights = Mapping[str, NDArray[Any]]

RECIPE = Path(__file__).with_name("parity.yaml")
FRAMEWORKS = ("torch", "mindspore")
CLASSES = 10
LIMITS = {"pixels": 0.0, "logits": 1e-5, "loss": 1e-4, "statistics": 1e-3, "curve": 1.5}


def _sized(pixels: int) -> list[str]:
    resize = {"name": "resize", "exact": [pixels, pixels]}
    steps = {"train": [resize, {"name": "horizontal_flip"}], "eval": [resize]}
    return [f"transforms.{split}={json.dumps(chosen)}" for split, chosen in steps.items()]


CASES = {
    "resnet18": ["train.batch_size=32"],
    "resnext50_32x4d": ["model=resnext50_32x4d", *_sized(64), "train.batch_size=16"],
    "mobilenet_v2": [
        "model={name: mobilenet_v2, dropout: 0}",
        *_sized(64),
        "train.batch_size=32",
    ],
    "resnext152_64x4d": [
        "model={name: resnext152_64x4d, zero_init_last_gamma: true}",
        *_sized(224),
        "train.batch_size=2",
        "eval.batch_size=2",
    ],
}
FORWARD_ONLY = ("resnext152_64x4d",)


@dataclass(frozen=True, slots=True)
class Finding:
    """One comparison."""

    case: str
    name: str
    value: float
    details: str = ""

    @property
    def passed(self) -> bool:
        return self.value <= LIMITS[self.name]

    def __str__(self) -> str:
        verdict = "ok" if self.passed else "BEYOND"
        value = f"{self.value:>10.2e}{LIMITS[self.name]:>10.2g}  {verdict:<8}"
        return f"{self.case:<18}{self.name:<12}{value}{self.details}"


@dataclass(frozen=True, slots=True)
class Side:
    """What one framework makes of the recipe."""

    plan: Plan
    train: Split
    val: Split
    engine: Engine

    def batches(self, steps: int) -> list[Batch]:
        size = self.plan.train.batch_size
        return list(self.train.loader.train_batches(0, batch_size=size, steps=steps))

    def eval_batch(self) -> Batch:
        return next(self.val.loader.eval_batches(self.plan.recipe.eval.batch_size))

    def rate(self, step: int) -> float:
        images = len(self.train.dataset.labels)
        return self.plan.learning_rate(step, self.plan.steps_per_epoch(images))

    def step(self, number: int, batch: Batch) -> float:
        return self.engine.train_step(batch, self.rate(number)).read().loss

    def losses(self, batches: Sequence[Batch], first: int = 0) -> list[float]:
        return [self.step(number, batch) for number, batch in enumerate(batches, start=first)]


def open_side(framework: str, settings: Sequence[str]) -> Side:
    from runner.planning.loading import load
    from runner.session.opening import open_device, open_engine, open_split
    from runner.storage.events import EventLog

    plan = load(str(RECIPE), [f"framework={framework}", *settings]).plan
    device = open_device(plan)
    train, val = (open_split(plan, split, EventLog()) for split in ("train", "val"))
    engine = open_engine(plan, device, CLASSES, EventLog(), training=True)
    return Side(plan, train, val, engine)


def losses_in_fp64(side: Side, weights: Weights, batches: Sequence[Batch]) -> list[float]:
    """Train with plain PyTorch in fp64, which recipes do not offer."""
    import torch

    from runner.framework.engine import build_model
    from runner_torch.optimizers import parameter_groups
    from runner_torch.weights import load_weights

    spec = side.plan.engine_spec(CLASSES, training=True)
    module = build_model(spec, torch.nn.Module).double().train()
    load_weights(module, weights)
    groups = parameter_groups(module, spec.weight_decay, spec.no_weight_decay)
    optimizer = spec.optimizer.build(groups, spec.optimizer_options, 0.0)
    losses = []
    for number, batch in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = side.rate(number)
        pixels = (batch.images / 255 - np.array(spec.mean)) / np.array(spec.std)
        logits = module(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()))
        loss = torch.nn.functional.cross_entropy(
            logits, torch.from_numpy(batch.labels), label_smoothing=spec.loss.label_smoothing
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def pixels(torch32: Side, mindspore: Side, steps: int) -> tuple[list[Batch], float]:
    """Return the batches, and how many values differ between the frameworks."""
    differing = 0
    batches = torch32.batches(steps)
    for own, other in zip(batches, mindspore.batches(steps), strict=True):
        for name in ("images", "labels", "indices"):
            differing += int((getattr(own, name) != getattr(other, name)).sum())
        # what the networks get; engines keep it to themselves
        engines: list[Any] = [torch32.engine, mindspore.engine]
        normalised = engines[0]._images(own.images).contiguous().numpy()
        tensor = engines[1]._pixels.cell(engines[1]._pixels.tensor(other.images))
        differing += int((normalised != tensor.asnumpy()).sum())
    return batches, float(differing)


def logits_distance(torch32: Side, mindspore: Side) -> tuple[float, str]:
    """Return the largest difference between logits, in units of the largest logit if over 1."""
    images = torch32.eval_batch().images
    own, other = (side.engine.predict(images) for side in (torch32, mindspore))
    difference, largest = float(np.abs(own - other).max()), float(np.abs(own).max())
    return difference / max(1.0, largest), f"{difference:.1e} of {largest:.3g}"


def statistics_distance(own: Weights, other: Weights) -> float:
    """Return the largest difference of running statistics, relative to the layer's largest.

    The mean of a layer that follows another normalisation is zero but for rounding, so means are
    relative to the standard deviation where that is larger. One step from 0 and 1, with a momentum
    of 0.1, the running mean is 0.1 m, and the running variance 0.9 + 0.1 v.
    """
    distances = []
    for name in (name.removesuffix("mean") for name in own if name.endswith("running_mean")):
        mean, variance = (own[name + kind].astype(np.float64) for kind in ("mean", "var"))
        deviation = 0.1 * np.sqrt(np.maximum(variance - 0.9, 0) / 0.1)
        scale = max(np.abs(mean).max(), deviation.max())
        distances.append(np.abs(mean - other[name + "mean"]).max() / scale)
        distances.append(np.abs(variance - other[name + "var"]).max() / variance.max())
    return float(max(distances))


def compare_case(case: str, arguments: argparse.Namespace) -> Iterator[Finding]:
    """Yield what is found for one model."""
    root = f"dataset.root={json.dumps(str(arguments.data))}"
    curves = []
    for seed in arguments.seeds:
        settings = [root, *CASES[case], f"seed={seed}"]
        sides = [open_side(framework, settings) for framework in FRAMEWORKS]
        torch32, mindspore = sides
        weights = torch32.engine.weights()
        mindspore.engine.load_weights(weights)
        yield Finding(case, "logits", *logits_distance(*sides))
        if case in FORWARD_ONLY:
            return
        batches, differing = pixels(*sides, arguments.steps)
        yield Finding(case, "pixels", differing, f"{len(batches)} batches")
        own, other = (side.step(0, batches[0]) for side in sides)
        yield Finding(case, "loss", abs(own - other) / own, f"{own:.7f} and {other:.7f}")
        distance = statistics_distance(torch32.engine.weights(), mindspore.engine.weights())
        yield Finding(case, "statistics", distance)
        in_fp64 = losses_in_fp64(torch32, weights, batches)
        curves.append([side.losses(batches[1:], first=1) for side in sides] + [in_fp64[1:]])
        mindspore.engine.load_weights(torch32.engine.weights())
        yield Finding(case, "logits", *logits_distance(*sides))
    yield curve_distance(case, np.array(curves))


def curve_distance(case: str, curves: NDArray[np.float64]) -> Finding:
    """Compare loss curves ``[seeds, 3, steps]``: PyTorch, MindSpore, PyTorch in fp64."""
    torch32, mindspore, torch64 = (curves[:, number] for number in range(3))

    def distance(own: NDArray[np.float64], other: NDArray[np.float64]) -> float:
        return float(np.sqrt(np.mean((own - other) ** 2)))

    unit = distance(torch32, torch64)
    between, to_fp64 = distance(mindspore, torch32), distance(mindspore, torch64)
    details = f"from PyTorch {between:.1e}, from fp64 {to_fp64:.1e}; PyTorch from fp64 {unit:.1e}"
    return Finding(case, "curve", between / unit, details)


def compare(arguments: argparse.Namespace) -> int:
    """Print what is found for each model; return the exit status."""
    print(f"{'model':<18}{'compared':<12}{'distance':>10}{'limit':>10}")
    failed = 0
    for case in arguments.cases:
        for finding in compare_case(case, arguments):
            print(finding, flush=True)
            failed += not finding.passed
    return 1 if failed else 0


def accuracy(arguments: argparse.Namespace) -> int:
    """Train to the end with both frameworks and print their accuracies; return the exit status."""
    found: dict[str, list[float]] = {framework: [] for framework in FRAMEWORKS}
    for seed in arguments.seeds:
        with tempfile.TemporaryDirectory() as folder:
            start = Path(folder, "start.safetensors")
            images = write_fresh_weights(start, seed, arguments)
            for framework in FRAMEWORKS:
                top1 = train(framework, seed, start, Path(folder, framework), arguments)
                found[framework].append(top1)
                print(f"seed {seed}  {framework:<10} top-1 {100 * top1:.2f} %", flush=True)
    means = [statistics.fmean(values) for values in found.values()]
    apart = abs(means[0] - means[1])
    spread = max(max(values) - min(values) for values in found.values())
    error = math.sqrt(means[0] * (1 - means[0]) / images)
    print(
        f"means {apart:.4f} apart; seeds of one framework {spread:.4f} apart, standard error of "
        f"{images} images {error:.4f}"
    )
    return 0 if apart <= max(spread, error) else 1


def write_fresh_weights(path: Path, seed: int, arguments: argparse.Namespace) -> int:
    """Write what both frameworks start from; return the number of validation images."""
    from safetensors.numpy import save_file

    settings = [f"dataset.root={json.dumps(str(arguments.data))}", f"seed={seed}"]
    side = open_side("torch", settings)
    save_file(dict(side.engine.weights()), path)
    return len(side.val.dataset.labels)


def train(
    framework: str, seed: int, start: Path, runs: Path, arguments: argparse.Namespace
) -> float:
    """Run `runner train` and return the accuracy after the last epoch."""
    changes = [
        f"framework={framework}",
        f"dataset.root={json.dumps(str(arguments.data))}",
        f"model.weights={start}",
        f"seed={seed}",
        f"train.epochs={arguments.accuracy}",
    ]
    command = [sys.executable, "-m", "runner", "train", str(RECIPE), "--runs-dir", str(runs)]
    command += [part for change in changes for part in ("--set", change)]
    # MindSpore leaves files where it is started
    subprocess.run(command, cwd=start.parent, check=True, stdout=subprocess.DEVNULL)
    lines = next(runs.glob("*/*/events.jsonl")).read_text(encoding="utf-8").splitlines()
    return next(e["val.top1"] for e in map(json.loads, reversed(lines)) if "val.top1" in e)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--accuracy", type=int, metavar="EPOCHS", help="train for so long instead")
    arguments = parser.parse_args()
    arguments.data = arguments.data.resolve()
    sys.exit(accuracy(arguments) if arguments.accuracy else compare(arguments))


if __name__ == "__main__":
    main()

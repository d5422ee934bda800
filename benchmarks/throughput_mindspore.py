"""Training throughput of MindSpore beside a bare loop and MindCV, as ratios measured in turns.

    python benchmarks/throughput_mindspore.py --data FOLDER [--mindcv PYTHON] [--rounds 5]

FOLDER holds train/<class>/ and val/<class>/ with JPEG files of ten classes. Model, batch, format
(fp32, graph mode), version of MindSpore and the limit on oneDNN's instructions are the same
everywhere. Each round runs one after the other, in processes that end before the next begins:

    bare      a loop over one fixed, normalised batch: one compiled cell that computes the gradients
              with `value_and_grad` and applies them with `nn.Momentum`
    runner    `runner train` on the JPEG files
    pipeline  the same, read by MindSpore's own pipeline (dataset `mindspore_folders`)
    mindcv    MindCV's training on the JPEG files, see mindcv_train.py; PYTHON is the interpreter of
              an environment with mindcv and the same version of MindSpore

and prints medians, and the ratios to `bare` of the same round with their smallest and largest.
`loop`, the cost of Vision Runner's loop itself, is measured step by step: a bare step, then a step
of the loop on one fixed batch of pixels, in turn.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from common import CLASSES, RECIPE, WARMUP, Ours, loop_ratio, ratios, recipe_settings

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).parent
MODELS = ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d"]
"""What MindCV and this project call by the same names, with the same layers."""


def bare_step(arguments: argparse.Namespace) -> Callable[[], Any]:
    """Make a step of the loop that anybody would write, on one batch."""
    from runner.framework.options import ResNetOptions
    from runner_mindspore.autoload import Tensor, ms, nn, ops
    from runner_mindspore.models import build_resnet

    class Forward(nn.Cell):
        def __init__(self, net: nn.Cell) -> None:
            super().__init__(auto_prefix=False)
            self.net, self.loss = net, nn.CrossEntropyLoss()

        def construct(self, images: Tensor, labels: Tensor) -> Tensor:
            return self.loss(self.net(images), labels)

    class Step(nn.Cell):
        def __init__(self, forward: nn.Cell, optimizer: nn.Optimizer) -> None:
            super().__init__(auto_prefix=False)
            self.gradient = ms.value_and_grad(forward, None, optimizer.parameters)
            self.forward, self.optimizer = forward, optimizer

        def construct(self, images: Tensor, labels: Tensor) -> Tensor:
            loss, gradients = self.gradient(images, labels)
            return ops.depend(loss, self.optimizer(gradients))

    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_seed(1)
    net = build_resnet(arguments.model, ResNetOptions(), CLASSES)
    step = Step(Forward(net), nn.Momentum(net.trainable_params(), 1e-3, 0.9))
    step.set_train()
    random = np.random.default_rng(1)
    pixels = random.standard_normal((arguments.batch, 3, 224, 224)).astype(np.float32)
    images = Tensor(pixels)
    labels = Tensor(random.integers(0, CLASSES, arguments.batch).astype(np.int32))
    return lambda: step(images, labels).asnumpy()


def serve_bare(arguments: argparse.Namespace) -> dict[str, Any]:
    """Time the bare loop."""
    step = bare_step(arguments)
    for _ in range(WARMUP):
        step()
    start = time.perf_counter()
    for _ in range(arguments.steps):
        step()
    seconds = time.perf_counter() - start
    return {"images_per_s": arguments.steps * arguments.batch / seconds}


def serve_loop(arguments: argparse.Namespace) -> dict[str, Any]:
    """Time Vision Runner's loop and a bare step in turns."""
    ours = Ours(arguments, "framework=mindspore")
    ratio = loop_ratio(ours, bare_step(arguments))
    return {"ratio": ratio, "engine": dict(ours.engine.report())}


SERVED = {"bare": serve_bare, "loop": serve_loop}


def ask(name: str) -> dict[str, Any]:
    """Call one of the above in a process of its own."""
    return answer([sys.executable, __file__, *sys.argv[1:], "--serve", name])


def run_runner(arguments: argparse.Namespace, *settings: str) -> dict[str, Any]:
    """Run `runner train` and return what its run says."""
    changes = recipe_settings(arguments, "framework=mindspore", *settings)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "runner", "train", str(RECIPE), "--runs-dir", folder]
        command += [part for change in changes for part in ("--set", change)]
        _run(command, folder)
        events = next(Path(folder).glob("*/*/events.jsonl")).read_text(encoding="utf-8")
    epoch = next(e for e in map(json.loads, events.splitlines()) if "train.images_per_s" in e)
    return {"images_per_s": epoch["train.images_per_s"], "data_wait": epoch["train.data_wait"]}


def run_mindcv(arguments: argparse.Namespace) -> dict[str, Any]:
    command = [arguments.mindcv, str(HERE / "mindcv_train.py")]
    command += [f"--data={arguments.data.resolve()}", f"--classes={CLASSES}"]
    command += [f"--model={arguments.model}", f"--batch={arguments.batch}"]
    command += [f"--steps={arguments.steps}", f"--warmup={WARMUP}"]
    if arguments.mindcv_script:
        command.append(f"--script={arguments.mindcv_script.resolve()}")
    return answer(command)


def answer(command: list[str]) -> dict[str, Any]:
    """Return the JSON object that a program prints in its last line."""
    with tempfile.TemporaryDirectory() as folder:
        found: dict[str, Any] = json.loads(_run(command, folder).splitlines()[-1])
    return found


def _run(command: list[str], folder: str) -> str:
    # in a folder of its own: MindSpore and MindCV leave files where they are started
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{command} failed with status {done.returncode}:\n{done.stderr[-4000:]}")
    return done.stdout


def compare(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure everything in turns."""
    programs: dict[str, Callable[[], dict[str, Any]]] = {
        "bare": lambda: ask("bare"),
        "runner": lambda: run_runner(arguments),
    }
    if arguments.pipeline:
        programs["pipeline"] = lambda: run_runner(arguments, "dataset.name=mindspore_folders")
    if arguments.mindcv:
        programs["mindcv"] = lambda: run_mindcv(arguments)
    rates: dict[str, list[float]] = {name: [] for name in programs}
    for number in range(arguments.rounds):
        # there and back, so that a machine that becomes slower does not favour the first
        for name in list(programs) if number % 2 == 0 else reversed(programs):
            rates[name].append(programs[name]()["images_per_s"])
        line = "  ".join(f"{name} {values[-1]:.2f}" for name, values in rates.items())
        sys.stderr.write(f"round {number + 1}: {line}\n")
    return {
        "images_per_s": rates,
        "ratio_to_bare": {name: ratios(own, rates["bare"]) for name, own in rates.items()},
        "ratio_to_mindcv": ratios(rates["runner"], rates["mindcv"]) if arguments.mindcv else None,
        "loop_ratio_by_step": ask("loop"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--mindcv", metavar="PYTHON", help="interpreter that has mindcv")
    parser.add_argument("--mindcv-script", type=Path, metavar="TRAIN.PY", help="run it as it is")
    parser.add_argument("--pipeline", action="store_true", help="measure `pipeline` too")
    parser.add_argument("--model", choices=MODELS, default="resnet18")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=12, help="timed steps in each measurement")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--set", action="append", default=[], help="change the recipe")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--serve", choices=list(SERVED), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        print(json.dumps(SERVED[arguments.serve](arguments)))
        return
    from runner_mindspore.autoload import ADJUSTMENTS  # the processes inherit the limit on oneDNN

    report = compare(arguments) | {"adjustments": ADJUSTMENTS}
    print(f"loop {report['loop_ratio_by_step']['ratio']:.4f} of a bare step")
    print(f"{'':<12}{'img/s':>8}{'of bare':>10}{'low':>8}{'high':>8}")
    for name, rates in report["images_per_s"].items():
        of_bare = report["ratio_to_bare"][name]
        spread = f"{statistics.median(of_bare):>10.3f}{min(of_bare):>8.3f}{max(of_bare):>8.3f}"
        print(f"{name:<12}{statistics.median(rates):>8.2f}{spread}")
    if arguments.mindcv:
        over = report["ratio_to_mindcv"]
        print(
            f"runner {statistics.median(over):.2f} of mindcv ({min(over):.2f} to {max(over):.2f})"
        )
    if arguments.output:
        arguments.output.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()

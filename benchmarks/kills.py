"""Runs that are killed at file events, resumed, and compared with one that was not.

    python benchmarks/kills.py torch 1 --kills 100 --output kills.json

The framework is imported once; every run is a fork of this process, or one for each rank, in which
rank 0 is killed at one of the events that change the run folder: before it happens; or, where it is
a flush, with half of the file on the disk; or the disk is full from there on, which has to end the
run with its exit status. What the run has left is resumed, or started again where there is no run
folder yet. Then every tensor of every checkpoint, their records but for speeds, the mark of the
best and the figures of the result have to be those of the run that was not killed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from runner.testing.file_events import Way

RECIPE = """
summary: A run that is killed
framework: {framework}
device: {{name: {device}, count: {processes}}}
dataset: {{name: synthetic, train_count: 24, val_count: 7, size: [32, 32], class_count: 3}}
transforms:
  train: [{{name: random_crop, size: 32, padding: 4}}]
  eval: [{{name: center_crop, size: 32}}]
model: {model}
optimizer: {{name: {optimizer}, learning_rate: 0.05, momentum: 0.9}}
schedule: cosine
train: {{epochs: 2, batch_size: 8, log_every_steps: 1, ema_decay: 0.9}}
eval: {{batch_size: 2}}
checkpoint: {{every_steps: 2, keep: 2}}
export: {export}
"""
VALUES = {
    "fake": {
        "device": "fake_cpu",
        "model": "{name: linear, noise: 0.05}",
        "optimizer": "fake_sgd",
        "export": "[{name: fake_npz, verify_images: 2}]",
    },
    "torch": {
        "device": "cpu",
        "model": "{name: shufflenet_v2_x0_5}",
        "optimizer": "sgd",
        "export": "[]",
    },
    "mindspore": {
        "device": "cpu",
        "model": "{name: mobilenet_v2, dropout: 0.2}",
        "optimizer": "sgd",
        "export": "[]",
    },
}
IMPORTS = {
    "core": (
        "runner.training.dispatch",
        "runner.cli.console",
        "runner.artifacts.export",
        "safetensors.numpy",
        "PIL.Image",
    ),
    "fake": ("runner.testing.fake_engine",),
    "torch": ("runner_torch.engine", "runner_torch.models", "torchvision"),
    "mindspore": ("runner_mindspore.engine", "runner_mindspore.models"),
}
"""What every run would import."""
RANKS = ("RANK", "RANK_ID", "RUNNER_FAKE_RANK")
SECONDS = 900
"""A run that takes longer hangs."""
SHOWN = 4000
"""Characters of the output of a run that could not be resumed."""


def environments(framework: str, processes: int, folder: Path) -> list[dict[str, str]]:
    """Return what makes each of some processes a rank; rank 0 comes last."""
    if processes == 1:
        return [{}]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    size = str(processes)
    ranks = [str(rank) for rank in reversed(range(processes))]
    if framework == "torch":
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        place |= {"WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
        return [{**place, "RANK": rank, "LOCAL_RANK": rank} for rank in ranks]
    if framework == "fake":
        place = {
            "RUNNER_FAKE_WORLD_SIZE": size,
            # a port may come again, and the socket of a run that was killed is still there
            "RUNNER_FAKE_SOCKET": str(folder / f"socket-{len([*folder.glob('socket-*')])}"),
        }
        return [
            {**place, "RUNNER_FAKE_RANK": rank, "RUNNER_FAKE_LOCAL_RANK": rank} for rank in ranks
        ]
    place = {"MS_SCHED_HOST": "127.0.0.1", "MS_SCHED_PORT": port, "MS_WORKER_NUM": size}
    workers = [
        {"MS_ROLE": "MS_WORKER", "MS_NODE_ID": rank, "DEVICE_ID": rank, "RANK_ID": rank}
        for rank in ranks
    ]
    return [{**place, **role} for role in ({"MS_ROLE": "MS_SCHED"}, *workers)]


def fork(work: Callable[[], None], output: Path) -> int:
    """Do something in a child, which prints into a file; return its process number."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    try:
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        work()
        code = 0
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 1
    except BaseException:  # noqa: BLE001  it is printed, and nothing of the parent may run here
        sys.excepthook(*sys.exc_info())
        code = 99
    sys.exit(code)  # not at once: MindSpore takes leave of its scheduler on the way out


def runner(
    arguments: Sequence[str],
    folder: Path,
    environ: Mapping[str, str],
    at: int | None,
    way: Way,
) -> None:
    """Carry out a command of ``runner`` in this process."""
    from runner import cli
    from runner.testing.file_events import FileEvents

    os.chdir(folder)
    os.environ.update(environ)
    sys.argv = ["runner", *arguments]
    if not environ or "0" in (environ.get(name) for name in RANKS):
        FileEvents(folder / "runs", folder / "events", at, way)
    cli.main()


def carry_out(
    framework: str,
    processes: int,
    folder: Path,
    arguments: Sequence[str],
    at: int | None = None,
    way: Way = "before",
) -> list[int]:
    """Carry out a command in one process or several, and return how each has ended, rank 0 last."""
    children = [
        fork(
            lambda environ=environ: runner(arguments, folder, environ, at, way),
            folder / "output",
        )
        for environ in environments(framework, processes, folder)
    ]
    ended: dict[int, int] = {}
    deadline = time.monotonic() + SECONDS
    while len(ended) < len(children):
        for child in children:
            if child not in ended and (found := os.waitpid(child, os.WNOHANG))[0]:
                ended[child] = os.waitstatus_to_exitcode(found[1])
        lost = at is not None and children[-1] in ended
        if lost or time.monotonic() > deadline:  # what the others do is not looked at
            for child in children:
                if child not in ended:
                    os.kill(child, signal.SIGKILL)
        time.sleep(0.01)
    return [ended[child] for child in children]


def content(folder: Path) -> dict[str, Any]:
    """Return all that a finished run has left, without speeds and times."""
    from runner.storage import checkpoint

    [run] = (path for path in (folder / "runs" / "recipe").iterdir() if path.name[0] != ".")
    found: dict[str, Any] = {"files": sorted(path.name for path in run.iterdir())}
    for path in checkpoint.listing(run / "checkpoints"):
        saved = checkpoint.load(path)
        found[path.name] = {
            "position": saved.info.position,
            "metrics": figures(saved.info.metrics),
            "values": saved.info.state_values,
            **{f"weights/{name}": array.tobytes() for name, array in saved.weights.items()},
            **{f"state/{name}": array.tobytes() for name, array in saved.state.tensors.items()},
        }
    found["exports"] = sorted(str(path.relative_to(run)) for path in run.glob("exports/**/*"))
    best = checkpoint.best(run / "checkpoints")
    found["best"] = best and best.name
    found["checkpoints"] = sorted(path.name for path in (run / "checkpoints").iterdir())
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    found["result"] = {
        "metrics": figures(result["metrics"]),
        **{key: result[key] for key in ("epochs", "steps", "best_top1", "best_epoch")},
    }
    return found


def figures(metrics: Mapping[str, float]) -> dict[str, float]:
    """Leave out speeds."""
    return {
        name: value
        for name, value in metrics.items()
        if name == "train.loss" or (name.startswith("val.") and "per_s" not in name)
    }


def differences(one: Mapping[str, Any], other: Mapping[str, Any], place: str = "") -> list[str]:
    """Name what is not equal."""
    found = []
    for key in sorted({*one, *other}):
        here, there = one.get(key), other.get(key)
        if isinstance(here, dict) and isinstance(there, dict):
            found += differences(here, there, f"{place}{key}/")
        elif here != there:
            shown = "" if isinstance(here, bytes) else f": {here} and {there}"
            found.append(f"{place}{key}{shown}")
    return found


def make(folder: Path, framework: str, processes: int) -> Path:
    """Make a folder with a recipe."""
    folder.mkdir(parents=True)
    text = RECIPE.format(framework=framework, processes=processes, **VALUES[framework])
    (folder / "recipe.yaml").write_text(text, encoding="utf-8")
    return folder


def try_kill(
    framework: str, processes: int, folder: Path, at: int, way: Way
) -> tuple[str, dict[str, Any]]:
    """End a run at an event, and resume it; return what went wrong and what is left."""
    make(folder, framework, processes)
    command = ["run", "recipe.yaml"]
    codes = carry_out(framework, processes, folder, command, at, way)
    expected = StorageError.exit_code if way == "full" else -signal.SIGKILL
    if codes[-1] != expected:
        return f"rank 0 has ended with {codes[-1]}, expected {expected}", {}
    runs = [path for path in folder.glob("runs/recipe/*") if path.name[0] != "."]
    again = ["resume", str(runs[0])] if runs else command
    codes = carry_out(framework, processes, folder, again)
    if any(codes):
        said = (folder / "output").read_text(encoding="utf-8", errors="replace")
        return f"{' '.join(again)} has ended with {codes}:\n{said[-SHOWN:]}", {}
    return "", content(folder)


def points(events: Sequence[str], kills: int, seed: int) -> list[tuple[int, Way]]:
    """Choose events and ways: all if they suffice, some more than once."""
    numbers = range(1, len(events) + 1)
    every: list[tuple[int, Way]] = [(number, "before") for number in numbers]
    every += [(number, "torn") for number in numbers if events[number - 1][:5] == "fsync"]
    every += [(number, "full") for number in numbers]
    chooser = random.Random(seed)
    chooser.shuffle(every)
    while len(every) < kills:
        every += chooser.sample(every, min(len(every), kills - len(every)))
    return every[:kills]


def measure(
    framework: str, processes: int, place: Path, *, kills: int, seed: int, minutes: float
) -> dict[str, Any]:
    """Kill as often as asked, or as time allows; return the figures (JSON)."""
    os.environ["RUNNER_PLUGINS"] = f"{framework},data"
    for module in (*IMPORTS["core"], *IMPORTS[framework]):
        importlib.import_module(module)
    straight = make(place / "straight", framework, processes)
    codes = carry_out(framework, processes, straight, ["run", "recipe.yaml"])
    if any(codes):
        raise SystemExit(f"the run without a kill has ended with {codes}: {straight / 'output'}")
    events = (straight / "events").read_text(encoding="utf-8").splitlines()
    expected = content(straight)
    failed, done = [], 0
    begun = time.monotonic()
    for number, (at, way) in enumerate(points(events, kills, seed), 1):
        if time.monotonic() > begun + 60 * minutes:
            break
        done = number
        folder = place / str(number)
        wrong, found = try_kill(framework, processes, folder, at, way)
        problems = [wrong] if wrong else differences(expected, found)
        how = f"event {at} of {len(events)}, {events[at - 1]}, {way}"
        if problems:
            failed.append({"kill": how, "problems": problems[:5]})
        else:
            shutil.rmtree(folder)
        print(
            f"{number}: {how}: {'; '.join(problems[:5]) or 'as if nothing had happened'}",
            flush=True,
        )
    return {
        "framework": framework,
        "processes": processes,
        "file events of a run": len(events),
        "kills": done,
        "seed": seed,
        "minutes": round((time.monotonic() - begun) / 60, 1),
        "other than without a kill": failed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("framework", choices=VALUES)
    parser.add_argument("processes", type=int)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=600.0, help="time after which it ends")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="JSON file that the figures are added to")
    arguments = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="kills-"))
    found = measure(
        arguments.framework,
        arguments.processes,
        place,
        kills=arguments.kills,
        seed=arguments.seed,
        minutes=arguments.minutes,
    )
    if not found["other than without a kill"]:  # else what is left may say why
        shutil.rmtree(place)
    print(json.dumps(found, indent=2))
    if arguments.output:
        before = json.loads(arguments.output.read_text()) if arguments.output.exists() else []
        arguments.output.write_text(json.dumps([*before, found], indent=2) + "\n")
    sys.exit(bool(found["other than without a kill"]))


if __name__ == "__main__":
    main()

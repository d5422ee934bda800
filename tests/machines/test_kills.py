"""Ten kills at random moments of runs of two processes, which end as if nothing had happened."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from tests.machines.conftest import WORKS

from runner.storage import checkpoint

RECIPE = """
summary: Two processes, one of which is killed
framework: {framework}
device: {{name: cpu, count: 2}}
dataset: {{name: synthetic, train_count: {images}, val_count: 7, size: [32, 32], class_count: 3}}
transforms:
  train: [{{name: random_crop, size: 32, padding: 4}}]
  eval: [{{name: center_crop, size: 32}}]
model: {model}
optimizer: {{name: sgd, learning_rate: 0.05, momentum: 0.9}}
schedule: {{name: cosine}}
train: {{epochs: 2, batch_size: 8, log_every_steps: 1}}
eval: {{batch_size: 2}}
checkpoint: {{every_steps: 2, keep: 2}}
distributed: {{restarts: 3}}
"""
FRAMEWORKS = {
    "torch": RECIPE.format(
        framework="torch", images=96, model="{name: mobilenet_v2, dropout: 0.2}"
    ),
    "mindspore": RECIPE.format(framework="mindspore", images=24, model="{name: resnet18}"),
}
RANK = re.compile(rb"(?:^|\0)(?:RANK|MS_NODE_ID)=(\d)(?:\0|$)")
"""What torchrun and msrun give a process of a rank."""
HELPER = b"MS_ROLE=MS_SCHED"


def start(folder, framework):
    (folder / "two.yaml").write_text(FRAMEWORKS[framework], encoding="utf-8")
    return subprocess.Popen(
        [sys.executable, "-m", "runner", "train", "two.yaml"],
        cwd=folder,
        env={**os.environ, "RUNNER_PLUGINS": f"{framework},data", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def processes(folder):
    """Return the processes that work in the folder, each with its rank, if it has one."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (place / "cwd").readlink() == folder:
                environ = (place / "environ").read_bytes()
                # msrun gives them also to the program that copies what a process prints
                works = WORKS in (place / "cmdline").read_bytes()
                works = works and HELPER not in environ.split(b"\0")
                rank = RANK.search(environ) if works else None
                found[int(place.name)] = int(rank[1]) if rank else None
    return found


def last_files(folder):
    [checkpoints] = folder.glob("runs/two/*/checkpoints")
    last = checkpoint.latest(checkpoints)
    return {name: (last / name).read_bytes() for name in (checkpoint.WEIGHTS, checkpoint.STATE)}


def kill(folder, process, rank, moment):
    """Kill a rank some seconds after the launch, or as soon as there is one."""
    deadline = time.monotonic() + moment
    while process.poll() is None:
        ranks = {number: pid for pid, number in processes(folder).items()}
        if time.monotonic() >= deadline and rank in ranks:
            with contextlib.suppress(ProcessLookupError):
                os.kill(ranks[rank], signal.SIGKILL)
            return
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_ten_kills_of_a_rank_at_random_moments_change_nothing(framework, tmp_path):
    if importlib.util.find_spec(framework) is None:
        pytest.skip(f"{framework} is not installed")
    (undisturbed := tmp_path / "undisturbed").mkdir()
    begun = time.monotonic()
    process = start(undisturbed, framework)
    _, err = process.communicate()
    assert process.returncode == 0, err
    seconds = time.monotonic() - begun
    lost = 0
    for _ in range(30):
        if lost == 10:
            break
        seed = random.randrange(10**6)
        chosen = random.Random(seed)
        rank, moment = chosen.randrange(2), chosen.uniform(0, 0.7 * seconds)
        print(f"{framework}, seed {seed}: kill of rank {rank} after {moment:.2f} s")
        (folder := tmp_path / str(seed)).mkdir()
        process = start(folder, framework)
        killer = threading.Thread(target=kill, args=(folder, process, rank, moment))
        killer.start()
        _, err = process.communicate()
        killer.join()
        assert process.returncode == 0, err
        assert last_files(folder) == last_files(undisturbed), err
        assert len(list(folder.glob("runs/two/*/result.json"))) == 1
        assert not processes(folder)
        lost += "restart 1 of 3: " in err  # else the run was over before its moment came
    assert lost == 10, "most of the kills came too late"

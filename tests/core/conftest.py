"""A project folder with a recipe for the fake framework, and a way to call the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from runner import cli

if TYPE_CHECKING:
    from collections.abc import Callable

FAKE_DISTRIBUTION = Path(__file__).parents[1] / "data" / "third_party" / "fake_framework"

RECIPE = """\
summary: Colours with a linear classifier
framework: fake
device: fake_cpu
dataset: fake_colours
transforms:
  train:
    - {name: random_crop, size: 8, padding: 1}
  eval:
    - {name: resize, exact: [8, 8]}
model: {name: linear, noise: 0.05}
optimizer: {name: fake_sgd, learning_rate: 0.05}
schedule: {name: cosine}
train: {epochs: 3, batch_size: 8, log_every_steps: 4}
eval: {batch_size: 5}
"""


@dataclass(frozen=True)
class Outcome:
    """What a call of the command line left."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True)
class Project:
    """A folder to run recipes in."""

    path: Path
    capture: pytest.CaptureFixture[str]
    monkeypatch: pytest.MonkeyPatch

    def write_recipe(self, extra: str = "", name: str = "colours") -> Path:
        file = self.path / f"{name}.yaml"
        file.write_text(RECIPE + extra)
        return file

    def runner(self, *arguments: str | Path) -> Outcome:
        self.monkeypatch.setattr(sys, "argv", ["runner", *(str(item) for item in arguments)])
        self.capture.readouterr()
        try:
            cli.main()
            code = 0
        except SystemExit as left:
            code = int(left.code or 0)
        captured = self.capture.readouterr()
        return Outcome(code=code, out=captured.out, err=captured.err)

    def run(self, *arguments: str, extra: str = "") -> Outcome:
        return self.runner("run", self.write_recipe(extra), "--json", *arguments)

    @property
    def environment(self) -> dict[str, str]:
        """Variables of processes that find the fake framework."""
        return {**os.environ, "PYTHONPATH": str(FAKE_DISTRIBUTION)}

    def start(self, *arguments: str | Path, **environ: str) -> subprocess.Popen[str]:
        """Start the command line in a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "runner", *map(str, arguments)],
            env={**self.environment, **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @staticmethod
    def wait_for(condition: Callable[[], object]) -> None:
        for _ in range(3000):
            if condition():
                return
            time.sleep(0.05)
        raise AssertionError("nothing happened in 150 s")

    def checkpoints(self) -> list[Path]:
        return sorted(self.path.glob("runs/*/*/checkpoints/step_*"))

    def run_folder(self, name: str = "colours") -> Path:
        folders = (self.path / "runs" / name).iterdir()
        [folder] = (path for path in folders if path.suffix != ".launch")
        return folder

    def events(self, folder: Path | None = None) -> list[dict[str, Any]]:
        lines = ((folder or self.run_folder()) / "events.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]


@pytest.fixture
def project(tmp_path, capsys, monkeypatch) -> Project:
    """Provide an empty project where the fake framework is installed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(FAKE_DISTRIBUTION)
    monkeypatch.setenv("RUNNER_PLUGINS", "fake,data")
    return Project(path=tmp_path, capture=capsys, monkeypatch=monkeypatch)

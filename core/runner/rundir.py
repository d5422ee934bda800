"""The folder that a run leaves: ``runs/<recipe>/<time>/``.

recipe.yaml      the resolved recipe; it can start the next run
manifest.json    versions, plugins, data fingerprint, seed, command line, hardware
events.jsonl     what happened, line by line
checkpoints/     step_00000450/, ..., best.json
exports/         one folder per exported artifact
result.json      the figures of a finished run
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from runner.errors import CheckpointError, StorageError, UsageError

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class RunDir:
    """Paths of one run."""

    path: Path

    @property
    def recipe(self) -> Path:
        """The resolved recipe."""
        return self.path / "recipe.yaml"

    @property
    def manifest(self) -> Path:
        """What the run ran on."""
        return self.path / "manifest.json"

    @property
    def events(self) -> Path:
        """The event log."""
        return self.path / "events.jsonl"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def exports(self) -> Path:
        """The folder of exported artifacts."""
        return self.path / "exports"

    @property
    def result(self) -> Path:
        """The figures of the finished run."""
        return self.path / "result.json"

    def read_manifest(self) -> dict[str, Any]:
        """Return what ``manifest.json`` says.

        Raises:
            CheckpointError: It is missing or damaged.
        """
        try:
            manifest: dict[str, Any] = json.loads(self.manifest.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"{self.manifest} is damaged: {error}; start the run again"
            ) from None
        return manifest


def create(root: Path, recipe_name: str) -> RunDir:
    """Make an empty run folder below ``root``.

    Raises:
        StorageError: The folder cannot be written.
    """
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    for attempt in range(100):
        path = root / recipe_name / (f"{stamp}-{attempt}" if attempt else stamp)
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            if not path.is_dir():
                raise StorageError(f"cannot create {path}: a file is in the way") from None
            continue
        except OSError as error:
            raise StorageError(
                f"cannot create the run folder {path}: {error.strerror}; "
                "choose another place with --runs-dir"
            ) from error
        return RunDir(path)
    raise StorageError(f"cannot create a run folder in {root / recipe_name}: 100 names are taken")


def find(path: Path) -> RunDir:
    """Return the run that ``path`` is, or lies in.

    Raises:
        UsageError: There is no run.
    """
    for folder in (path, *path.resolve().parents):
        if (folder / "recipe.yaml").is_file() and (folder / "manifest.json").is_file():
            return RunDir(folder)
    raise UsageError(
        f"{path} is not a run: expected a folder with recipe.yaml and manifest.json, "
        "such as runs/quickstart/20260131-120000"
    )

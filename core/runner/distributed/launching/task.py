"""What the processes of a run are to do: the request that their parent writes to a file.

The recipe in it is resolved and checked, so that a process reads no other, whatever was typed.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, final

from runner.errors import UsageError
from runner.recipe import dump
from runner.storage import files

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from runner.planning.plan import Plan

LARGEST = 1 << 26
"""Bytes of a request, at most."""
COMMAND = "launched"
"""The command of ``runner`` that carries out what a file asks."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What is to be done, and where it is written."""

    name: str
    """Name of the recipe."""
    recipe: str
    """The resolved recipe (YAML)."""
    remarks: Sequence[str]
    """What is to be told of it before the first step."""
    command: Sequence[str]
    """Arguments of ``runner`` that the user has typed, for the manifest and for hints."""
    export: bool
    """Whether to write the artifacts that the recipe lists."""
    runs_dir: str
    """Where a new run folder is made."""
    resumes: str = ""
    """The run or the checkpoint to continue; empty for a new run."""
    overrides: Sequence[str] = ()
    """Changes that the user has named for a run that continues."""

    @classmethod
    def of(cls, plan: Plan, command: Sequence[str], runs_dir: Path, *, export: bool) -> Task:
        """Ask for a new run of a plan."""
        return cls(
            name=plan.name,
            recipe=dump(plan.recipe),
            remarks=plan.remarks,
            command=command,
            export=export,
            runs_dir=str(runs_dir),
        )

    def write(self, path: Path) -> None:
        """Write the request for the processes.

        Raises:
            OSError: It cannot be written.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Task:
        """Read a request.

        Raises:
            UsageError: There is none, or it is of another version of runner.
        """
        try:
            return cls(**json.loads(files.read_regular(path, LARGEST)))
        except (OSError, ValueError, TypeError) as error:
            raise UsageError(
                f"{path} holds no request: {error}; runner writes it for the processes that it "
                "starts: start the run again"
            ) from error

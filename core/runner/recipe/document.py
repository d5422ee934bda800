"""A recipe as it was written: merged, and not yet checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from runner.recipe.source import DEFAULT, Node, Origin

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from runner.errors import Problem
    from runner.recipe.environment import UnsetVariable


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A recipe before its keys and values are checked, with the origin of every value."""

    path: Path
    """The file that was asked for."""
    files: tuple[Path, ...]
    """All files that were read, bases first."""
    root: Node
    """The merged sections, without ``extends`` and shorthands."""
    unset: tuple[UnsetVariable, ...] = ()
    """Environment variables without a value; their values still read ``${NAME}``."""
    problems: tuple[Problem, ...] = ()
    """What is already known to be wrong; ``validate`` reports it with everything else."""
    notes: tuple[str, ...] = ()
    """What was left out, and why."""

    def origin(self, path: Sequence[str | int]) -> Origin:
        """Return where the value at a path of the resolved recipe comes from."""
        node = self.root.find(path)
        return node.origin if node else DEFAULT

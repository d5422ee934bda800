"""The recipes that can be started by name, with their summaries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from runner.errors import RecipeError
from runner.recipe.catalog import recipes
from runner.recipe.compose import compose
from runner.recipe.source import read

if TYPE_CHECKING:
    from pathlib import Path

    from runner.errors import Problem
    from runner.plugins.registry import Registry
    from runner.recipe.source import Node


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeListing:
    """A recipe that can be started by its name."""

    name: str
    """Path below its folder, without the suffix."""
    path: Path
    summary: str
    """The recipe's summary, or what is wrong with the file."""
    source: str
    """``checkout``, ``runner``, or the plugin's distribution."""


def list_recipes(registry: Registry | None = None) -> tuple[RecipeListing, ...]:
    """Return all recipes that can be started by name, sorted by source and name."""
    once = _ReadOnce()
    return tuple(
        RecipeListing(name=name, path=file, summary=_summary(file, registry, once), source=source)
        for source, name, file in recipes(registry)
    )


class _ReadOnce:
    """Reads each file once, since most recipes extend the same few."""

    def __init__(self) -> None:
        self._found: dict[Path, tuple[Node, list[Problem]]] = {}

    def __call__(self, path: Path, problems: list[Problem]) -> Node:
        if path not in self._found:
            own: list[Problem] = []
            self._found[path] = (read(path, own), own)
        node, own = self._found[path]
        problems += own
        return node


def _summary(file: Path, registry: Registry | None, once: _ReadOnce) -> str:
    try:
        document = compose(file, environ={}, allow_unset=True, registry=registry, read=once)
    except RecipeError as error:
        return f"broken: {error.problems[0]}"
    summary = document.root.get("summary")
    return summary.value if summary and isinstance(summary.value, str) else ""

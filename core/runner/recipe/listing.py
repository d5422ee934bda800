"""The recipes that can be started by name, with their summaries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from runner.errors import RecipeError
from runner.recipe.catalog import recipes
from runner.recipe.compose import compose

if TYPE_CHECKING:
    from pathlib import Path

    from runner.plugins.registry import Registry


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
    return tuple(
        RecipeListing(name=name, path=file, summary=_summary(file, registry), source=source)
        for source, name, file in recipes(registry)
    )


def _summary(file: Path, registry: Registry | None) -> str:
    try:
        document = compose(file, environ={}, allow_unset=True, registry=registry)
    except RecipeError as error:
        return f"broken: {error.problems[0]}"
    summary = document.root.get("summary")
    return summary.value if summary and isinstance(summary.value, str) else ""

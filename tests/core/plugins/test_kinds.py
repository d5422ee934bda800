"""A new kind of entry is one row and its entry type: everything that reads the table knows it."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from runner import hookimpl
from runner.plugins import kinds
from runner.plugins.loading import load
from runner.plugins.registry import UnknownEntryError
from runner.recipe.schema import LoggerSection, Recipe
from runner.testing import check_plugin

if TYPE_CHECKING:
    from collections.abc import Iterator

OWN_KIND = Path(__file__).parents[2] / "data" / "third_party" / "own_kind"


@pytest.fixture
def own_kind(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Add the row, and install the plugin that has an entry of its kind."""
    monkeypatch.syspath_prepend(OWN_KIND)
    import acme_kind  # type: ignore[import-not-found]

    monkeypatch.setattr(kinds, "KINDS", (*kinds.KINDS, acme_kind.ROW))
    return acme_kind


@dataclass(frozen=True, kw_only=True)
class RecipeWithAugmenters(Recipe):
    """A recipe that chooses entries of the new kind; they have no keys but their own."""

    augmenters: list[LoggerSection] = field(default_factory=list)


@pytest.fixture
def recipes(own_kind: Any, project: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Give the schema of recipes the section of the row."""
    assert own_kind.ROW.section == "augmenters"
    monkeypatch.setenv("RUNNER_PLUGINS", "fake,data,own_kind")
    rooms = [sys.modules[f"runner.recipe.{name}"] for name in ("validate", "resolve", "editor")]
    for module in rooms:
        monkeypatch.setattr(module, "Recipe", RecipeWithAugmenters)
    rooms[0].sections.cache_clear()
    yield project
    rooms[0].sections.cache_clear()


def test_its_entries_are_loaded_and_found(own_kind: Any) -> None:
    registry = load(environ={"RUNNER_PLUGINS": "own_kind"})
    found = registry.find(own_kind.AugmenterEntry, "mirror", "fake")
    assert (found.kind, found.entry.apply) == ("augmenter", own_kind.mirror)
    with pytest.raises(UnknownEntryError, match="unknown augmenter 'miror' for fake; did you mean"):
        registry.find(own_kind.AugmenterEntry, "miror", "fake")


@pytest.mark.parametrize(
    ("flaw", "reason"),
    [
        ({"apply": 3}, "augmenter 'mirror': apply must be callable, not 3"),
        ({"modes": ["L"]}, "augmenter 'mirror': modes must be a tuple of texts, not ['L']"),
        ({"framework": "any"}, "augmenter 'mirror': framework must name one framework"),
    ],
)
def test_its_entries_are_checked_when_they_are_loaded(
    own_kind: Any, flaw: dict[str, Any], reason: str
) -> None:
    named = {"name": "mirror", "framework": "fake", "summary": "Mirrors", "apply": own_kind.mirror}
    flawed = own_kind.AugmenterEntry(**named | flaw)
    plugin = ModuleType("flawed")
    plugin.runner_register_augmenters = hookimpl(lambda: [flawed])  # type: ignore[attr-defined]
    registry = load(extra=[("flawed", plugin)], environ={"RUNNER_PLUGINS": ""})
    assert registry.plugins[-1].state == "failed"
    assert registry.plugins[-1].reason.startswith(reason)


def test_its_entries_are_listed(own_kind: Any, project: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("RUNNER_PLUGINS", "own_kind")
    listed = project.runner("list", "augmenters", "--json").json
    assert [(row["name"], row["framework"], row["available"]) for row in listed] == [
        ("mirror", "fake", True)
    ]
    (plugin,) = (
        info for info in project.runner("list-plugins", "--json").json if info["name"] == "own_kind"
    )
    assert plugin["entries"] == {"augmenter": listed}
    assert "1 augmenter" in project.runner("list-plugins").out
    refused = project.runner("list", "augmenter")
    assert refused.code == 2
    assert "'augmenter' is not one of 'frameworks'" in refused.err


def test_recipes_that_name_its_entries_are_checked(recipes: Any) -> None:
    short = recipes.write_recipe("augmenters: [mirror]\n")
    resolved = recipes.runner("explain", short, "--json").json["resolved"]
    assert resolved["augmenters"] == [{"name": "mirror", "share": 0.5}]
    wrong = recipes.write_recipe("augmenters:\n- {name: mirror, share: 2}\n- miror\n")
    refused = recipes.runner("explain", wrong)
    assert refused.code == 2
    assert "augmenters.0.share: expected a number of at most 1, got 2" in refused.err
    assert "unknown augmenter 'miror' for fake; did you mean 'mirror'?" in refused.err
    schema = recipes.runner("schema").json
    assert "share" in str(schema["properties"]["augmenters"])


def test_the_kit_checks_its_entries(own_kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(check_plugin("acme_kind").entries) == ["augmenter"]
    monkeypatch.setattr(own_kind, "mirror", lambda options: b"")
    message = "augmenter mirror: apply is called with 2 positional arguments, but takes"
    with pytest.raises(AssertionError, match=message):
        check_plugin("acme_kind")

"""Recipes by name: those of the checkout, of the installed package, and of plugins."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING

import runner
from runner.errors import UsageError
from runner.recipe.phrasing import did_you_mean, one_of, shown_path
from runner.storage import paths

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runner.plugins.registry import Registry

_SUFFIXES = (".yaml", ".yml")
_PROJECT = 'name = "vision-runner"'


def find(name_or_path: str, registry: Registry | None = None) -> Path:
    """Return the file of a recipe: an existing path, or a name.

    Recipes that come with runner win over those of plugins.

    Raises:
        UsageError: It is a folder, nothing of this name exists, or two plugins have one.
    """
    path = Path(name_or_path)
    # Those of os.path say no of a name that no file can have, where Path's raise.
    if os.path.isfile(path):  # noqa: PTH113
        return path
    if os.path.isdir(path):  # noqa: PTH112
        raise UsageError(f"'{name_or_path}' is a folder; expected a recipe, which is one YAML file")
    if os.path.exists(path):  # noqa: PTH110
        kind = paths.kind_of(path.stat().st_mode)
        raise UsageError(f"'{name_or_path}' is {kind}; expected a recipe, which is one YAML file")
    name = _stem(name_or_path)
    known: dict[str, list[tuple[str, Path]]] = {}
    for source, title, file in recipes(registry):
        found = known.setdefault(title, [])
        if not found or _is_plugin(found[0][0]):
            found.append((source, file))
    if name in known:
        if len(known[name]) > 1:
            places = one_of([f"{file} ({source})" for source, file in known[name]])
            raise UsageError(f"several plugins have a recipe '{name}'; give a path: {places}")
        return known[name][0][1]
    raise UsageError(_not_found(name_or_path, path, name, sorted(known)))


def recipes(registry: Registry | None = None) -> Iterator[tuple[str, str, Path]]:
    """Yield source, name and file of each recipe that has a name.

    The source is ``checkout``, ``runner``, or the distribution of a plugin.
    """
    for source, folder in _folders(registry):
        for file in _files(folder):
            yield source, _stem(file.relative_to(folder).as_posix()), file


def _not_found(given: str, path: Path, name: str, known: list[str]) -> str:
    if path.suffix in _SUFFIXES or path.parent != Path():
        if not os.path.isdir(path.parent):  # noqa: PTH112
            return f"no recipe '{given}': there is no folder '{path.parent}'"
        beside = [shown_path(file) for file in _files(path.parent, deep=False)]
        hint = did_you_mean(given, beside) or did_you_mean(name, known)
        return f"no recipe '{given}': there is no such file{hint}"
    hint = did_you_mean(name, known) or ";"
    return f"unknown recipe '{given}'{hint} see: runner list recipes"


def _stem(name: str) -> str:
    for suffix in _SUFFIXES:
        name = name.removesuffix(suffix)
    return name


def _files(folder: Path, *, deep: bool = True) -> list[Path]:
    """Return the recipes of a folder; a name with ``_`` is a part that recipes extend."""
    found = folder.rglob("*") if deep else folder.iterdir()
    return sorted(
        file
        for file in found
        if file.suffix in _SUFFIXES and not file.name.startswith("_") and file.is_file()
    )


def _is_plugin(source: str) -> bool:
    return source not in {"checkout", "runner"}


def _folders(registry: Registry | None) -> Iterator[tuple[str, Path]]:
    """Yield each folder of recipes with its source, in order of precedence."""
    assert runner.__file__ is not None
    package = Path(runner.__file__).parent
    project = package.parents[1]
    pyproject = project / "pyproject.toml"
    if pyproject.is_file() and _PROJECT in pyproject.read_text("utf-8"):
        yield "checkout", project / "recipes"
    elif (package / "recipes").is_dir():
        yield "runner", package / "recipes"
    for plugin in registry.plugins if registry else ():
        # The package is asked for its place, which imports its parents but not the plugin.
        name = plugin.module.rpartition(".")[0]
        try:
            spec = importlib.util.find_spec(name) if name else None
        except (ImportError, ValueError):
            continue
        for location in (spec.submodule_search_locations or ()) if spec else ():
            if (Path(location) / "recipes").is_dir():
                yield plugin.distribution, Path(location) / "recipes"

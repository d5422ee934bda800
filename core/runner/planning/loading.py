"""From a recipe's name and what changes it to a plan: found, read, checked and planned."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from runner import recipe
from runner.errors import RecipeError, UsageError
from runner.planning import notes, plan, smoke
from runner.plugins import loading
from runner.recipe import source
from runner.recipe.overrides import flow
from runner.storage import paths

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runner.errors import Problem
    from runner.planning.plan import Plan
    from runner.plugins.registry import Registry
    from runner.recipe import Document
    from runner.recipe.source import Node


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A recipe that was found, read, checked and planned."""

    plan: Plan
    document: Document
    registry: Registry


def load(
    given: str | Path | Mapping[str, object],
    overrides: Sequence[str] = (),
    *,
    shortened: bool = False,
    allow_unset: bool = False,
    name: str = "recipe",
) -> Loaded:
    """Turn a recipe and the overrides into a plan.

    Environment variables without a value stand as they are written; the plan refuses to open data
    while there are any.

    Args:
        given: A path, the name of a recipe that ships with runner or a plugin, or what the file
            would hold.
        overrides: Texts such as ``train.epochs=3``.
        shortened: Train a few steps on a few of the images, or synthetic ones.
        allow_unset: Do not count variables without a value among what is wrong.
        name: What a recipe without a file is called.

    Raises:
        RecipeError: The recipe or an override is wrong.
        UsageError: There is no such recipe.
    """
    registry = loading.load()
    held = isinstance(given, Mapping)
    path = Path(f"{name}.yaml") if held else recipe.find(str(given), registry)

    def read(file: Path, problems: list[Problem]) -> Node:
        return (
            _held(given, name, problems) if held and file == path else source.read(file, problems)
        )

    def compose(file: Path, overrides: Sequence[str] = ()) -> Document:
        return recipe.compose(
            file, overrides, environ=os.environ, allow_unset=True, registry=registry, read=read
        )

    document = compose(path, overrides)
    unset = () if shortened else tuple(variable.problem() for variable in document.unset)
    try:
        checked = recipe.validate(document, registry)
    except RecipeError:
        if unset and not allow_unset:  # everything that is wrong is reported at once
            recipe.validate(replace(document, problems=(*document.problems, *unset)), registry)
        raise
    try:
        paths.check_name(path.stem)
    except ValueError as error:
        raise UsageError(
            f"{path}: the name of a recipe's file is that of its run folders: {error}"
        ) from None
    if shortened:
        resolved = smoke.plan_of(f"{path.stem}-smoke", checked, registry)
    else:
        remark = notes.batch_of_another_size(document, checked, compose)
        resolved = plan.resolve(path.stem, checked, registry, unset=unset)
        resolved = replace(resolved, remarks=(remark,) if remark else ())
    resolved = replace(resolved, remarks=(*document.notes, *resolved.remarks))
    return Loaded(plan=resolved, document=document, registry=registry)


def read_back(name: str, text: str, remarks: Sequence[str]) -> Loaded:
    """Return the plan of a recipe that another process has resolved.

    Args:
        name: What it is called.
        text: What ``recipe.dump`` has made of it.
        remarks: What is to be told of it.

    Raises:
        RecipeError: What is installed here does not take it.
    """
    registry = loading.load()

    def read(_file: Path, problems: list[Problem]) -> Node:
        node = source.parse(text, name, problems, line_numbers=False)
        assert node is not None, "a resolved recipe is no empty document"
        return node

    document = recipe.compose(
        Path(f"{name}.yaml"), environ=os.environ, registry=registry, read=read
    )
    checked = recipe.validate(document, registry)
    resolved = replace(plan.resolve(name, checked, registry), remarks=tuple(remarks))
    return Loaded(plan=resolved, document=document, registry=registry)


def _held(given: object, name: str, problems: list[Problem]) -> Node:
    """Turn a recipe that a program holds into what its file would be."""
    node = source.parse(flow(given, ""), name, problems, line_numbers=False)
    assert node is not None, "a mapping is no empty document"
    return node

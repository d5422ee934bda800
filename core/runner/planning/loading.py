"""From a recipe's name and what changes it to a plan: found, read, checked and planned."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from runner import recipe
from runner.errors import RecipeError, UsageError
from runner.planning import notes, plan, smoke
from runner.plugins import loading
from runner.storage import paths

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runner.planning.plan import Plan
    from runner.plugins.loading import Plugins
    from runner.recipe import Document


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A recipe that was found, read, checked and planned."""

    plan: Plan
    document: Document
    plugins: Plugins


def load(
    name: str, overrides: Sequence[str] = (), *, shortened: bool = False, allow_unset: bool = False
) -> Loaded:
    """Turn a recipe's name or path and the overrides into a plan.

    Environment variables without a value stand as they are written; the plan refuses to open data
    while there are any.

    Args:
        name: A path, or the name of a recipe that ships with runner or a plugin.
        overrides: Texts such as ``train.epochs=3``.
        shortened: Train a few steps on a few of the images, or synthetic ones.
        allow_unset: Do not count variables without a value among what is wrong.

    Raises:
        RecipeError: The recipe or an override is wrong.
        UsageError: There is no such recipe.
    """
    loaded = loading.load()
    registry = loaded.registry
    path = recipe.find(name, registry)
    document = recipe.compose(
        path, overrides, environ=os.environ, allow_unset=True, registry=registry
    )
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
        remark = notes.batch_of_another_size(
            document,
            checked,
            lambda file: recipe.compose(
                file, environ=os.environ, allow_unset=True, registry=registry
            ),
        )
        resolved = plan.resolve(path.stem, checked, registry, unset=unset)
        resolved = replace(resolved, remarks=(remark,) if remark else ())
    resolved = replace(resolved, remarks=(*document.notes, *resolved.remarks))
    return Loaded(plan=resolved, document=document, plugins=loaded)

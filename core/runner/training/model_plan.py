"""The plan of a trained model: that of a recipe named for it, or of the one that it carries."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from runner import recipe
from runner.artifacts import artifact as artifacts
from runner.artifacts import classifier
from runner.errors import UsageError
from runner.planning import plan
from runner.planning.loading import load
from runner.recipe.framework_change import framework_of
from runner.storage import checkpoint, paths, rundir
from runner.training import resume as continuing

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from runner.planning.plan import Plan
    from runner.plugins.registry import Registry
    from runner.storage.events import EventLog

MODEL_PATHS = "a run, a checkpoint, an exported artifact or a weights file"
"""What commands that take a model expect at a path."""


def plan_for(
    path: Path,
    overrides: Sequence[str],
    recipe_name: str | None,
    registry: Registry,
    events: EventLog,
) -> Plan:
    """Return the plan of a named recipe, or of the one that a checkpoint or its run carries.

    Where an override changes its framework, its exports are left out: they are the other's.

    Raises:
        UsageError: There is no such path, or no recipe in it.
    """
    _refuse_weights(overrides)
    paths.check_there(path, MODEL_PATHS)
    file = recipe.find(recipe_name, registry) if recipe_name else _carried(path)
    overrides = [*overrides, *_without_exports(file, overrides, registry)]
    if recipe_name:
        loaded = load(recipe_name, overrides)
        document, resolved = loaded.document, loaded.plan
    else:
        document = recipe.compose(file, overrides, environ=os.environ, registry=registry)
        checked = recipe.validate(document, registry)
        resolved = plan.resolve(_name(file.parent), checked, registry)
    edited = "" if recipe_name else continuing.unused_edit(path / "recipe.yaml", file, registry)
    for text in filter(None, (*document.notes, edited)):
        events.emit("warning", message=text)
    return resolved


def _carried(path: Path) -> Path:
    """Return the recipe of a checkpoint, or of its run."""
    alone = path.is_file() or artifacts.is_artifact(path)
    carried = path if alone else classifier.checkpoints_at(path)[0]
    if checkpoint.is_complete(carried):
        return checkpoint.checked_recipe(carried)
    return _run_of(carried).recipe


def _without_exports(file: Path, overrides: Sequence[str], registry: Registry) -> list[str]:
    keys = [text.partition("=")[0] for text in overrides]
    if not {"framework", "framework.name"} & set(keys) or any(k[:6] == "export" for k in keys):
        return []
    before, after = (
        recipe.compose(file, given, environ=os.environ, allow_unset=True, registry=registry).root
        for given in ((), overrides)
    )
    return ["export=[]"] if framework_of(before) != framework_of(after) else []


def _refuse_weights(overrides: Sequence[str]) -> None:
    if any(text.startswith("model.weights") for text in overrides):
        raise UsageError(
            "the weights are those of the model that the command names: model.weights has no "
            "effect; of several sets in it, --weights chooses one"
        )


def _run_of(path: Path) -> rundir.RunDir:
    try:
        return rundir.find(path)
    except UsageError as error:
        raise UsageError(f"{error}; or name the recipe with --recipe") from None


def _name(path: Path) -> str:
    try:
        folder = rundir.find(path)
    except UsageError:
        return path.name
    return str(folder.read_manifest()["recipe"])


def refuse_device(overrides: Sequence[str], choice: str | None = None) -> None:
    """Refuse a device, a framework or a choice of weights for what runs in its own runtime.

    Raises:
        UsageError: One is given.
    """
    for key in ("device", "framework"):
        if any(text.startswith(key) for text in overrides):
            raise UsageError(f"an artifact runs in its own runtime: --{key} has no effect on it")
    if choice is not None:
        raise UsageError("an artifact has one set of weights: --weights has no effect on it")

"""The recipes of the project, planned as the command line does it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest

from runner import recipe
from runner.distributed.launching.shell import Start
from runner.planning.loading import load
from runner.planning.plan import Plan, resolve
from runner.plugins import loading
from runner.training import explanation

if TYPE_CHECKING:
    from collections.abc import Callable

    from runner.plugins.registry import Registry

FOLDER = Path(__file__).parents[2] / "recipes"
ENVIRONMENT = {"CIFAR10": "/data/cifar10", "IMAGENET": "/data/imagenet"}


class MakePlan(Protocol):
    def __call__(self, name: str, *overrides: str) -> Plan: ...


@pytest.fixture(scope="session")
def registry() -> Registry:
    return loading.load(environ={})


@pytest.fixture(scope="session")
def explained() -> Callable[[str], str]:
    """Explain a recipe by its name, without its data."""

    def make(name: str) -> str:
        loaded = load(name, allow_unset=True)
        start = Start(command=["run", name], runs_dir=Path("runs"))
        return explanation.as_text(loaded.plan, loaded.document, start)

    return make


@pytest.fixture(scope="session")
def make_plan(registry: Registry) -> MakePlan:
    """Plan a recipe by its name, with overrides as for ``--set``."""

    def make(name: str, *overrides: str) -> Plan:
        path = FOLDER / f"{name}.yaml"
        document = recipe.compose(path, overrides, environ=ENVIRONMENT, registry=registry)
        return resolve(name, recipe.validate(document, registry), registry)

    return make

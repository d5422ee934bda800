"""A plugin that registers the name `twin`, as another does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runner import ModelEntry, hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterable


def build(options: object, num_classes: int) -> Any:
    raise NotImplementedError


@hookimpl
def runner_register_models() -> Iterable[ModelEntry]:
    yield ModelEntry(name="twin", framework="fake", summary="twin of a test", build=build)
    yield ModelEntry(name="only_b", framework="fake", summary="only_b of a test", build=build)

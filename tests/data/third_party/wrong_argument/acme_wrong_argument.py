"""A plugin whose hook asks for an argument that does not exist."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runner import ModelEntry, hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterable


def build(options: object, num_classes: int) -> Any:
    raise NotImplementedError


@hookimpl
def runner_register_models(registry: object) -> Iterable[ModelEntry]:
    yield ModelEntry(name="never", framework="fake", summary="never of a test", build=build)

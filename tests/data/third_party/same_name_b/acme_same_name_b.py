"""A plugin whose entry point has the name of another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runner import ModelEntry, hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterable


def build(options: object, num_classes: int) -> Any:
    raise NotImplementedError


@hookimpl
def runner_register_models() -> Iterable[ModelEntry]:
    yield ModelEntry(name="same_b", framework="fake", summary="same_b of a test", build=build)

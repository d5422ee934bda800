"""A plugin with four bad entries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runner import ModelEntry, OptimizerEntry, hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterable


def build(options: object, num_classes: int) -> Any:
    raise NotImplementedError


@hookimpl
def runner_register_models() -> Iterable[object]:
    yield "resnet50"
    yield OptimizerEntry(
        name="other_kind", framework="fake", summary="Of another kind", build=lambda *_: None
    )
    yield ModelEntry(name="Bad-Name", framework="fake", summary="Bad name", build=build)
    yield ModelEntry(name="two_lines", framework="fake", summary="two\nlines", build=build)

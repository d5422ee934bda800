"""One model and one observer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runner import ModelEntry, hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterable

    from runner.contracts import RunInfo


def build(options: object, num_classes: int) -> Any:
    raise NotImplementedError


@hookimpl
def runner_register_models() -> Iterable[ModelEntry]:
    yield ModelEntry(name="acme_net", framework="fake", summary="acme_net of a test", build=build)


@hookimpl
def runner_run_started(run: RunInfo) -> None:
    (run.folder / "acme.txt").write_text(run.name)

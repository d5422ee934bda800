"""One model, and one logger that is always on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runner import LoggerEntry, ModelEntry, hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from runner.contracts import RunInfo, StepRecord


def build(options: object, num_classes: int) -> Any:
    raise NotImplementedError


@hookimpl
def runner_register_models() -> Iterable[ModelEntry]:
    yield ModelEntry(name="acme_net", framework="fake", summary="acme_net of a test", build=build)


class Note:
    def __init__(self, run: RunInfo, _options: object) -> None:
        (run.folder / "acme.txt").write_text(run.name)

    def event(self, _name: str, _fields: Mapping[str, Any]) -> None: ...

    def steps(self, _records: Sequence[StepRecord]) -> None: ...

    def close(self) -> None: ...


@hookimpl
def runner_register_loggers() -> Iterable[LoggerEntry]:
    yield LoggerEntry(name="acme_note", summary="A note in each run", always=True, open=Note)

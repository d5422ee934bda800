"""The entries of the logs. Nothing is opened until a run begins."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.entries import LoggerEntry, lazy
from runner.hooks import hookimpl
from runner.loggers.options import DlloggerOptions, StepCsvOptions

if TYPE_CHECKING:
    from collections.abc import Iterable


@hookimpl
def runner_register_loggers() -> Iterable[LoggerEntry]:
    """Offer the forms that other programs read."""
    yield LoggerEntry(
        name="dllogger",
        summary="JSON lines as NVIDIA's DLLogger writes them",
        config=DlloggerOptions,
        open=lazy("runner.loggers.dllogger:DlLogger"),
    )
    yield LoggerEntry(
        name="step_csv",
        summary="A line of a CSV file for each training step",
        config=StepCsvOptions,
        open=lazy("runner.loggers.step_csv:StepCsv"),
    )

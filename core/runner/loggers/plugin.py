"""The entries of the logs. Nothing is opened until a run begins."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.entries import LoggerEntry
from runner.hooks import hookimpl
from runner.loggers.options import DlloggerOptions, StepCsvOptions

if TYPE_CHECKING:
    from collections.abc import Iterable

    from runner.contracts import RunInfo, RunLogger


def _open_dllogger(run: RunInfo, options: DlloggerOptions) -> RunLogger:
    from runner.loggers.dllogger import DlLogger

    return DlLogger(run, options)


def _open_step_csv(run: RunInfo, options: StepCsvOptions) -> RunLogger:
    from runner.loggers.step_csv import StepCsv

    return StepCsv(run, options)


@hookimpl
def runner_register_loggers() -> Iterable[LoggerEntry]:
    """Offer the forms that other programs read."""
    yield LoggerEntry(
        name="dllogger",
        summary="JSON lines as NVIDIA's DLLogger writes them",
        config=DlloggerOptions,
        open=_open_dllogger,
    )
    yield LoggerEntry(
        name="step_csv",
        summary="A line of a CSV file for each training step",
        config=StepCsvOptions,
        open=_open_step_csv,
    )

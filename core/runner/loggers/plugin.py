"""The entries of the logs. Nothing is opened until a run begins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from annotated_types import Gt, MaxLen, MinLen

from runner.entries import LoggerEntry
from runner.hooks import hookimpl
from runner.options import options

if TYPE_CHECKING:
    from collections.abc import Iterable

    from runner.contracts import RunInfo, RunLogger


@options
class DlloggerOptions:
    """The form of NVIDIA's DLLogger, one JSON object behind `DLLL` on each line."""

    file: str = "experiment_raport.json"
    """Where to write, below the run folder unless absolute."""
    every_steps: Annotated[int, Gt(0)] = 1
    """Steps between two lines; a line holds the means over its steps."""


@options
class StepCsvOptions:
    """One line for each training step, under a header."""

    file: str = "steps.csv"
    """Where to write, below the run folder unless absolute."""
    delimiter: Annotated[str, MinLen(1), MaxLen(1)] = ","
    """What stands between two values."""


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

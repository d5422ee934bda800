"""What recipes say of the logs."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Gt, MaxLen, MinLen

from runner.options import options


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

"""One line of a CSV file for each training step."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, Any, final

from runner.errors import UsageError
from runner.storage import files

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from runner.contracts import RunInfo, StepRecord
    from runner.loggers.options import StepCsvOptions

HEADER = (
    "epoch",
    "step",
    "step_in_epoch",
    "loss",
    "learning_rate",
    "images",
    "seconds",
    "data_seconds",
)


@final
class StepCsv:
    """Writes the steps as their losses are read; a run that continues appends.

    The loss of a step that was skipped is empty.

    Raises:
        UsageError: The recipe does not train.
        OSError: The file cannot be written.
    """

    def __init__(self, run: RunInfo, options: StepCsvOptions) -> None:
        if "train" not in run.recipe:
            raise UsageError(
                "logger 'step_csv' has a line for each training step, and the recipe does not "
                "train; take it out of `loggers`"
            )
        path = run.folder / options.file
        is_new = not path.exists() or not path.stat().st_size
        files.end_cut_line(path)
        self._file = path.open("a", encoding="utf-8", newline="")
        self._writer = csv.writer(self._file, delimiter=options.delimiter, lineterminator="\n")
        if is_new:
            self._writer.writerow(HEADER)
            self._file.flush()

    def event(self, name: str, fields: Mapping[str, Any]) -> None:
        """Leave events to other logs."""

    def steps(self, records: Sequence[StepRecord]) -> None:
        """Write a line for each step."""
        self._writer.writerows(
            (
                item.epoch,
                item.step,
                item.step_in_epoch,
                "" if item.loss is None else repr(item.loss),
                repr(item.learning_rate),
                item.images,
                f"{item.seconds:.6f}",
                f"{item.data_seconds:.6f}",
            )
            for item in records
        )
        self._file.flush()

    def close(self) -> None:
        """End the file."""
        self._file.close()

"""The log of NVIDIA's DLLogger: what its JSON backend writes, under the names of its examples.

Lines are ``DLLL`` and a JSON object. ``step`` is ``PARAMETER`` for the recipe, ``[epoch, step]``
for training steps, ``[epoch]`` for an epoch with its evaluation, and ``[]`` for the run; epochs
count from 0 and steps from 1, as there. A rate is images over the time of the same steps, a time
or a loss the mean over them, a learning rate the last. For the run, losses and accuracies are the
best of its epochs.

Of the evaluation, only what is measured is there: ``val.total_ips`` over its whole time. How it
divides into reading and computing is not measured, nor are latencies of single batches.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, final

from runner.storage import files

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from runner.contracts import RunInfo, StepRecord
    from runner.loggers.options import DlloggerOptions

PERCENT = {"unit": "%", "format": ":.2f"}
LOSS = {"format": ":.5f"}
RATE = {"unit": "img/s", "format": ":.2f"}
TIME = {"unit": "s", "format": ":.5f"}
METADATA: Mapping[str, Mapping[str, str]] = {
    "lr": {},
    "train.loss": LOSS,
    "train.compute_ips": RATE,
    "train.total_ips": RATE,
    "train.data_time": TIME,
    "train.compute_time": TIME,
    "val.top1": PERCENT,
    "val.top5": PERCENT,
    "val.loss": LOSS,
    "val.total_ips": RATE,
}


@final
class DlLogger:
    """Writes one run; a run that continues appends.

    Raises:
        OSError: The file cannot be written.
    """

    def __init__(self, run: RunInfo, options: DlloggerOptions) -> None:
        path = run.folder / options.file
        files.end_cut_line(path)
        self._file = path.open("a", encoding="utf-8")
        self._every_steps = options.every_steps
        self._start = datetime.now(timezone.utc)
        self._line, self._epoch, self._run = _Steps(), _Steps(), _Steps()
        self._best: dict[str, float] = {}
        self._log("PARAMETER", run.recipe)
        trains = "train" in run.recipe
        for metric, metadata in METADATA.items():
            if trains or metric.startswith("val."):
                self._write("METADATA", metric=metric, metadata=metadata)
        self._file.flush()

    def event(self, name: str, fields: Mapping[str, Any]) -> None:
        """Write the line of an epoch, of an evaluation, or of the run."""
        if name == "epoch.finished":
            data = self._epoch.averages() | _losses_and_accuracies(fields)
            self._remember(data)
            self._log([fields["epoch"] - 1], data)
            self._line, self._epoch = _Steps(), _Steps()
        elif name == "eval.finished":
            self._remember(_losses_and_accuracies(fields))
        elif name == "run.finished":
            best_top1 = fields["result"].get("best_top1")
            if best_top1 is not None:  # which a run that continues remembers
                self._remember({"val.top1": 100 * best_top1})
            self._log([], self._run.averages() | self._best)
        self._file.flush()

    def steps(self, records: Sequence[StepRecord]) -> None:
        """Write the lines of steps that are due."""
        for record in records:
            for sums in (self._line, self._epoch, self._run):
                sums.add(record)
            if (record.step_in_epoch + 1) % self._every_steps == 0:
                self._log([record.epoch, record.step_in_epoch + 1], self._line.averages())
                self._line = _Steps()
        self._file.flush()

    def close(self) -> None:
        """End the file."""
        self._file.close()

    def _remember(self, data: Mapping[str, float]) -> None:
        for metric, value in data.items():
            best = {"val.top1": max, "val.top5": max, "val.loss": min, "train.loss": min}
            if metric in best:
                self._best[metric] = best[metric](value, self._best.get(metric, value))
            elif metric == "val.total_ips":
                self._best[metric] = value

    def _log(self, step: object, data: Mapping[str, Any]) -> None:
        self._write("LOG", step=step, data=data)

    def _write(self, kind: str, **fields: object) -> None:
        now = datetime.now(timezone.utc)
        line = {
            "timestamp": str(now.timestamp()),
            "datetime": str(now),
            "elapsedtime": str((now - self._start).total_seconds()),
            "type": kind,
            **fields,
        }
        self._file.write(f"DLLL {json.dumps(line)}\n")


@dataclass(slots=True)
class _Steps:
    """Sums over steps."""

    count: int = 0
    images: int = 0
    seconds: float = 0.0
    data_seconds: float = 0.0
    losses: int = 0
    loss_sum: float = 0.0
    learning_rate: float = 0.0

    def add(self, record: StepRecord) -> None:
        self.count += 1
        self.images += record.images
        self.seconds += record.seconds
        self.data_seconds += record.data_seconds
        self.learning_rate = record.learning_rate
        if record.loss is not None:
            self.losses += 1
            self.loss_sum += record.loss

    def averages(self) -> dict[str, float]:
        """Return the metrics of these steps; without one there are none."""
        if not self.count:
            return {}
        compute = self.seconds - self.data_seconds
        data = {"train.loss": self.loss_sum / self.losses} if self.losses else {}
        data["lr"] = self.learning_rate
        if compute > 0:
            data["train.compute_ips"] = self.images / compute
        if self.seconds > 0:
            data["train.total_ips"] = self.images / self.seconds
        data["train.data_time"] = self.data_seconds / self.count
        data["train.compute_time"] = compute / self.count
        return data


def _losses_and_accuracies(fields: Mapping[str, Any]) -> dict[str, float]:
    """Take what an event tells of an epoch or an evaluation, accuracies in per cent."""
    data = {name: fields[name] for name in ("train.loss", "val.loss") if name in fields}
    data |= {n: 100 * fields[n] for n in ("val.top1", "val.top5") if n in fields}
    if "val.images_per_s" in fields:
        data["val.total_ips"] = fields["val.images_per_s"]
    return data

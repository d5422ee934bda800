"""The summary that the shell scripts of Ascend ModelZoo-PyTorch leave of a run.

``<CaseName>.log`` in the run folder has these lines, and standard error the three that end a run
there. What is not measured is left out:

    Network         the option ``network``, or the recipe's model
    RankSize        devices
    BatchSize       images of a step, over all devices; of a pass where the recipe only evaluates
    DeviceType      the machine's architecture, as ``uname -m`` has it
    CaseName        <Network>_bs<BatchSize>_<RankSize>p_<purpose>, with _fp32 before the purpose
    ActualFPS       the metric of the option ``fps``, images/s
    TrainingTime    BatchSize * 1000 / ActualFPS: milliseconds of a step
    TrainAccuracy   top-1 of the last evaluation, in per cent
    ActualLoss      loss of the last step that was not skipped
    E2ETrainingTime seconds of the whole run, export included; since it continued, if it did
    CompileTime     seconds of this process's first two steps on the host; ``purpose: perf`` only
"""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Any, Literal, final

from runner.errors import UsageError
from runner.options import options
from runner.terminal import display, streams

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from runner.contracts import RunInfo, StepRecord


@options
class SummaryOptions:
    """The summary of a run as the shell scripts of Ascend ModelZoo-PyTorch write it."""

    network: str | None = None
    """The scripts' `Network`; the recipe's model if left out."""
    purpose: Literal["acc", "full", "perf", "eval"] = "acc"
    """The end of `CaseName`, `acc` in the scripts that train to the end; `perf` adds
    `CompileTime`."""
    fps: str = "throughput.fps_at_all"
    """The metric that is `ActualFPS`."""


@final
class Summary:
    """Gathers what a run tells, and writes it at the end.

    Raises:
        UsageError: The recipe does not measure the metric of the option ``fps``.
        OSError: The file cannot be written.
    """

    def __init__(self, run: RunInfo, options: SummaryOptions) -> None:
        recipe = run.recipe
        trains = "train" in recipe
        self._fps = _metric(recipe, options.fps if trains else "val.images_per_s")
        self._batch = recipe["train"]["batch_size"] if trains else recipe["eval"]["batch_size"]
        ranks = recipe["device"]["count"]
        network = options.network or recipe["model"]["name"]
        fp32 = "_fp32" if recipe["precision"]["compute"] == "fp32" else ""
        case = f"{network}_bs{self._batch}_{ranks}p{fp32}_{options.purpose}"
        self._compiles = options.purpose == "perf"
        self._step_seconds: list[float] = []
        self._loss: float | None = None
        self._file = (run.folder / f"{case}.log").open("w", encoding="utf-8")
        self._write(
            {
                "Network": network,
                "RankSize": ranks,
                "BatchSize": self._batch,
                "DeviceType": platform.machine(),
                "CaseName": case,
            }
        )

    def steps(self, records: Sequence[StepRecord]) -> None:
        """Keep what the summary needs of the steps."""
        for record in records:
            if len(self._step_seconds) < 2:
                self._step_seconds.append(record.seconds)
            if record.loss is not None:
                self._loss = record.loss

    def event(self, name: str, fields: Mapping[str, Any]) -> None:
        """Write the summary when the run has finished."""
        if name != "run.finished":
            return
        result = fields["result"]
        metrics = result["metrics"]
        fps, top1 = metrics.get(self._fps), metrics.get("val.top1")
        values: dict[str, object] = {}
        if fps is not None:
            values |= {"ActualFPS": f"{fps:.2f}", "TrainingTime": f"{self._batch * 1000 / fps:.2f}"}
        if top1 is not None:
            values["TrainAccuracy"] = f"{100 * top1:.3f}"
        if self._loss is not None:
            values["ActualLoss"] = f"{self._loss:.4e}"
        values["E2ETrainingTime"] = round(result["seconds"])
        if self._compiles and len(self._step_seconds) == 2:
            values["CompileTime"] = f"{sum(self._step_seconds):.3f}"
        self._write(values)
        _print("Final Performance images/sec", values.get("ActualFPS"))
        _print("Final Train Accuracy", values.get("TrainAccuracy"))
        _print("E2E Training Duration sec", values["E2ETrainingTime"])

    def close(self) -> None:
        """End the file."""
        self._file.close()

    def _write(self, values: Mapping[str, object]) -> None:
        self._file.writelines(f"{name} = {value}\n" for name, value in values.items())
        self._file.flush()


def _metric(recipe: Mapping[str, Any], name: str) -> str:
    """Return the name of a metric that a run of the recipe measures."""
    measured = [f"throughput.{item['name']}" for item in recipe.get("throughput", ())]
    known = [*measured, "train.images_per_s", "val.images_per_s"]
    if name not in known:
        raise UsageError(
            f"logger 'ascend_summary' shows the metric {name!r}, which the recipe does not "
            f"measure; set fps to one of {', '.join(known)}, or add to `throughput`"
        )
    return name


def _print(title: str, value: object) -> None:
    if value is not None:
        streams.say(display.line(f"{title} : {value}"))

"""Event files for TensorBoard."""

from __future__ import annotations

import json
import time
from contextlib import closing
from typing import TYPE_CHECKING, final

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.summary import scalar, text

if TYPE_CHECKING:
    from typing import Any

    from runner.contracts import EpochMetrics, RunInfo


def write_recipe(run: RunInfo) -> None:
    """Write the resolved recipe under the tag ``recipe``."""
    written = json.dumps(run.recipe, indent=2, ensure_ascii=False)
    written = written.encode(errors="backslashreplace").decode()  # names that are no text
    with closing(_Writer(run, "recipe")) as writer:
        # TensorBoard renders Markdown, where an indented block keeps its line breaks.
        lines = "\n".join(f"    {line}" for line in written.splitlines())
        writer.add(text("recipe", lines), 0)


def write_metrics(run: RunInfo, metrics: EpochMetrics) -> None:
    """Write one scalar per metric, with dots as slashes: ``val/top1`` over epochs."""
    with closing(_Writer(run, f"epoch-{metrics.epoch:06d}")) as writer:
        for name, value in metrics.values.items():
            writer.add(scalar(name.replace(".", "/"), value), metrics.epoch)


@final
class _Writer:
    """An event file that is written at once.

    ``SummaryWriter`` hands events to threads of its own, and waits for ever for what they have not
    written where the system allows no further thread.
    """

    def __init__(self, run: RunInfo, suffix: str) -> None:
        folder = run.folder / "tensorboard"
        folder.mkdir(exist_ok=True)
        # File names hold the time in seconds: the suffix keeps the files of quick epochs apart.
        self._file = EventsWriter(str(folder / "events"), f".{suffix}")

    def add(self, summary: Any, epoch: int) -> None:
        self._file.write_event(Event(wall_time=time.time(), step=epoch, summary=summary))

    def close(self) -> None:
        self._file.close()

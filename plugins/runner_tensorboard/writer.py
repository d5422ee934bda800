"""Event files for TensorBoard, below ``<run folder>/tensorboard``."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, final

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import hparams, scalar, text

from runner.contracts import RunLogger

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from runner.contracts import RunInfo, StepRecord

METRICS = ("val/top1", "val/loss")
"""What the table of hyper-parameters shows."""


@final
class TensorBoardLog(RunLogger):
    """Scalars over steps (``step/loss``, ``step/learning_rate``) and over epochs (``val/top1``).

    The recipe stands there as text, and its values as hyper-parameters. Every call flushes, so a
    killed run loses nothing; a run that continues has a further file, which tells TensorBoard to
    forget the steps that it takes again. ``SummaryWriter`` is not used: it hands events to threads,
    and waits for ever for what they have not written where the system allows no further thread.
    """

    def __init__(self, run: RunInfo, options: object) -> None:  # noqa: ARG002  there are none
        folder = run.folder / "tensorboard"
        folder.mkdir(exist_ok=True)
        # the name has the time in seconds, in which a run may end and continue
        self._file = EventsWriter(str(folder / "events"), f".{time.time_ns()}")
        written = _text(json.dumps(run.recipe, indent=2, ensure_ascii=False))
        # TensorBoard renders Markdown, where an indented block keeps its line breaks.
        self._add(text("recipe", "\n".join(f"    {line}" for line in written.splitlines())), 0)
        table, begin, self._end = hparams(dict(_values(run.recipe)), dict.fromkeys(METRICS, 0.0))
        self._add(table, 0)
        self._add(begin, 0)
        self._file.flush()

    def event(self, name: str, fields: Mapping[str, Any]) -> None:
        """Write an epoch's or an evaluation's metrics, with dots as slashes."""
        if name == "run.resumed":
            begins, first = SessionLog(status=SessionLog.START), fields["step"] + 1
            self._file.write_event(Event(wall_time=time.time(), step=first, session_log=begins))
        elif name in {"epoch.finished", "eval.finished"}:
            for key, value in fields.items():
                if "." in key:
                    self._add(scalar(key.replace(".", "/"), value), fields.get("epoch", 0))
        elif name == "run.finished":
            self._add(self._end, 0)
        self._file.flush()

    def steps(self, records: Sequence[StepRecord]) -> None:
        """Write the steps, counted from 1."""
        for record in records:
            if record.loss is not None:
                self._add(scalar("step/loss", record.loss), record.step + 1)
            self._add(scalar("step/learning_rate", record.learning_rate), record.step + 1)
        self._file.flush()

    def close(self) -> None:
        """End the file."""
        self._file.close()

    def _add(self, summary: Any, step: int) -> None:
        self._file.write_event(Event(wall_time=time.time(), step=step, summary=summary))


def _values(section: object, path: str = "") -> Iterator[tuple[str, bool | float | str]]:
    """Yield the single values of a recipe by their dotted keys; lists as JSON."""
    if isinstance(section, dict):
        for key, value in section.items():
            yield from _values(value, f"{path}.{key}" if path else key)
    elif isinstance(section, str):
        yield path, _text(section)
    elif isinstance(section, (bool, int, float)):
        yield path, section
    elif isinstance(section, list):
        yield path, json.dumps(section)


def _text(written: str) -> str:
    """Write out what is no text in a name, such as a path that is not UTF-8."""
    return written.encode(errors="backslashreplace").decode()

"""What happens during a run, as it happens: ``events.jsonl`` and whoever else listens.

One event is one JSON object on one line: ``event`` (its name), ``time`` (UTC, ISO 8601),
``elapsed_s`` (since this process began the run) and the event's own fields. Names:

    run.launched      the commands that start one process for each device (printed only)
    run.waiting       for whom, where machines are to meet (printed only)
    run.restarted     why the processes are started again, and what they go on from
    run.fewer_devices how many devices share the batch, of those that were asked for
    run.hung          what is seen of each process when one makes no progress (printed only)
    run.started, run.resumed, run.interrupted, run.failed, run.finished
    data.opened       sizes of a split
    data.indexed      how the images of a large split were found: listed, or in a kept index
    data.ignored      files that are in the dataset's folders but are no images
    data.damaged      an image that was skipped
    data.noticed      what leaves other pixels than somebody may expect, such as an EXIF
                      orientation that is not applied: at the first image, and with the number of
                      images after the first pass
    engine.opened     what is in effect: precision, memory layout, threads, ...
    weights.loaded    weights that were not trained here: which of a file, and what was done to them
    train.step        every ``train.log_every_steps`` steps
    train.overflow    a step that was skipped because its gradients overflowed
    epoch.finished    train.loss, val.* and throughput.* of one epoch; train.images_per_s and
                      train.data_wait since the process began, without its first log window;
                      val.images_per_s over the whole evaluation, reading included
    checkpoint.saved  once it is complete: stall_s that training waited, write_s of the thread
    checkpoint.removed
    eval.finished     val.* of a run that only evaluates
    export.written, export.verified
    warning           something the user should know that does not stop the run
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Protocol, final

from runner import files
from runner.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Any, TextIO


class Listener(Protocol):
    """Somebody who wants to know what happens in a run, such as the terminal."""

    def __call__(self, event: str, fields: Mapping[str, Any]) -> None:
        """Handle one event."""
        ...


@final
class EventLog:
    """Passes events to listeners at once, and to a file as soon as there is one."""

    def __init__(self, listener: Listener | None = None) -> None:
        self._listeners = [listener] if listener else []
        self._start = time.monotonic()
        self._waiting: list[str] = []
        self._file: TextIO | None = None

    def write_to(self, path: Path) -> None:
        """Append what has happened so far, and from here on, to ``path``.

        Raises:
            StorageError: The file cannot be written.
        """
        try:
            files.end_cut_line(path)
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error.strerror}") from error
        self._flush()

    def tell(self, listener: Listener) -> None:
        """Pass what happens from here on to another listener as well."""
        self._listeners.append(listener)

    def emit(self, event: str, **fields: Any) -> None:
        """Record one event; ``fields`` are JSON values.

        Raises:
            StorageError: The disk is full.
        """
        record = {
            "event": event,
            "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
            "elapsed_s": round(time.monotonic() - self._start, 3),
            **fields,
        }
        self._waiting.append(json.dumps(record) + "\n")
        if self._file:
            self._flush()
        for listener in self._listeners:
            listener(event, fields)

    def close(self) -> None:
        """Close the file. What a full disk did not take was reported when it was written."""
        if self._file:
            with suppress(OSError):
                self._file.close()
            self._file = None

    def _flush(self) -> None:
        assert self._file is not None
        try:
            self._file.writelines(self._waiting)
            self._file.flush()
        except OSError as error:
            raise StorageError(f"cannot write {self._file.name}: {error.strerror}") from error
        self._waiting.clear()

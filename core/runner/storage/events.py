"""What happens during a run, as it happens: ``events.jsonl`` and whoever else listens.

One event is one JSON object on one line: ``event`` (its name), ``time`` (UTC, ISO 8601),
``elapsed_s`` (since this process began the run) and the event's own fields. Names:

    run.launched      the commands that start one process for each device (printed only)
    run.waiting       for whom, where machines are to meet (printed only)
    run.restarted     why the processes are started again, and what they go on from
    run.fewer_devices how many devices share the batch, of those that were asked for
    run.hung          what is seen of each process when one makes no progress (printed only)
    run.started, run.resumed, run.interrupted, run.failed, run.finished
    run.folder_lost   that the run folder was removed or moved away, and what was missing there
    data.opened       sizes of a split
    data.indexed      how the images of a large split were found: listed, or in a kept index
    data.ignored      files that are in the dataset's folders but are no images
    data.duplicates   lines of a validation list that name an image again, with the same label
    data.damaged      an image that was skipped
    data.noticed      what leaves other pixels than somebody may expect, such as an EXIF
                      orientation that is not applied: at the first image, and with the number of
                      images after the first pass
    engine.opened     what is in effect: precision, memory layout, threads, ...
    weights.loaded    weights that were not trained here: which of a file, and what was done to them
    train.first_step  how long the first step of a process took
    train.step        every ``train.log_every_steps`` steps
    train.overflow    a step that was skipped because its gradients overflowed
    epoch.finished    train.loss, val.* and throughput.* of one epoch; train.images_per_s and
                      train.data_wait since the process began, without its first log window;
                      val.images_per_s over the whole evaluation, reading included
    checkpoint.saved  once it is complete: stall_s that training waited, write_s of the thread
    checkpoint.removed
    eval.finished     val.* of a run that only evaluates
    export.begun, export.written, export.verified
    warning           something the user should know that does not stop the run
"""

from __future__ import annotations

import json
import os
import shutil
import time
from contextlib import suppress
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Protocol, final

from runner.errors import StorageError
from runner.storage import files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path
    from typing import Any, TextIO


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Yield what an event log holds; a line that a killed process has cut is left out.

    Raises:
        StorageError: The file cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
    for line in text.splitlines():
        with suppress(ValueError):
            yield json.loads(line)


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
        self._path: Path | None = None
        self._before: Callable[[], None] | None = None

    def write_to(self, path: Path) -> None:
        """Append what has happened so far, and from here on, to ``path``.

        Raises:
            StorageError: The file cannot be written.
        """
        try:
            files.end_cut_line(path)
            self._file = path.open("a+", encoding="utf-8")
            self._path = path
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error.strerror}") from error
        self._flush()

    def tell(self, listener: Listener) -> None:
        """Pass what happens from here on to another listener as well."""
        self._listeners.append(listener)

    def before_each(self, look: Callable[[], None]) -> None:
        """Call something before each event is written; what that emits is not looked at."""
        self._before = look

    def is_lost(self) -> bool:
        """Say whether the file is no longer where it was opened: removed, or moved away."""
        if self._file is None or self._path is None:
            return False
        try:
            there = self._path.stat()
        except FileNotFoundError:
            return True
        own = os.fstat(self._file.fileno())
        return (there.st_dev, there.st_ino) != (own.st_dev, own.st_ino)

    def write_again(self) -> None:
        """Write the log once more where it was: what is removed can be read while it is open.

        Raises:
            StorageError: It cannot be written.
        """
        lost, path = self._file, self._path
        assert lost is not None
        assert path is not None
        self.write_to(path)
        assert self._file is not None
        with lost:
            lost.seek(0)
            try:
                shutil.copyfileobj(lost, self._file)
            except OSError as error:
                raise StorageError(f"cannot write {path}: {error.strerror}") from error
        self._flush()

    def emit(self, event: str, **fields: Any) -> None:
        """Record one event; ``fields`` are JSON values.

        Raises:
            StorageError: The disk is full.
        """
        if self._before:
            look, self._before = self._before, None
            look()
            self._before = look
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

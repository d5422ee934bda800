"""What a run prints: one line per event that matters, and a progress bar on a terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, final

from runner.cli.accuracy import accuracy_report, top_shares
from runner.distributed.reporting import reporter
from runner.terminal import display, streams

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from rich.progress import Progress


@final
class Console:
    """Prints events to standard error, which leaves standard output to results."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._interactive = sys.stderr.isatty()

    def __call__(self, event: str, fields: Mapping[str, Any]) -> None:
        """Print one event, if it has a line."""
        if event == "train.step":
            self._step(fields)
            return
        if event in ("epoch.finished", "run.interrupted", "run.failed"):
            self._end_progress()
        line = _line(event, fields)
        if line:
            streams.say(line)

    def _step(self, fields: Mapping[str, Any]) -> None:
        loss = "overflow" if fields["loss"] is None else f"loss {fields['loss']:.4f}"
        text = f"{loss}  lr {fields['learning_rate']:.3g}  {fields['images_per_s']:.1f} img/s"
        epoch = f"epoch {fields['epoch'] + 1}/{fields['epochs']}"
        if not self._interactive:
            step = f"step {fields['step_in_epoch']}/{fields['steps_per_epoch']}"
            streams.say(f"  {epoch}  {step}  {text}")
            return
        progress = self._open_progress(fields["steps_per_epoch"])
        progress.update(
            progress.task_ids[0],
            completed=fields["step_in_epoch"],
            description=epoch,
            text=text,
        )
        progress.refresh()

    def _open_progress(self, steps: int) -> Progress:
        if self._progress is None:
            from rich.console import Console as RichConsole
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

            self._progress = Progress(
                TextColumn("  {task.description}", markup=False),
                BarColumn(bar_width=30),
                MofNCompleteColumn(),
                TextColumn("{task.fields[text]}", markup=False),
                console=RichConsole(stderr=True),
                transient=True,
                auto_refresh=False,  # a refreshing thread would take time from the loop
            )
            self._progress.add_task("", total=steps, text="")
            self._progress.start()
        return self._progress

    def _end_progress(self) -> None:
        if self._progress:
            self._progress.stop()
            self._progress = None


@final
class RankConsole:
    """Prints what another process than that of rank 0 alone knows."""

    def __init__(self, rank: int) -> None:
        self._rank = rank

    def __call__(self, event: str, fields: Mapping[str, Any]) -> None:
        """Print an image that was skipped, or a warning."""
        if event in ("data.damaged", "warning"):
            streams.say(f"rank {self._rank}: {_line(event, fields)}")


def _line(event: str, fields: Mapping[str, Any]) -> str | None:
    writer = _LINES.get(event)
    return writer(display.fields(fields)) if writer else None


def _restarted(fields: Mapping[str, Any]) -> str:
    if reporter.of_process().watched:  # whose parent has printed it
        return ""
    place = fields["continues"]
    return (
        f"restart {fields['restart']} of {fields['restarts']}: {fields['reason']}; "
        f"{'goes on from ' + place if place else 'begins again'}"
    )


def _from_where(fields: Mapping[str, Any]) -> str:
    if fields["checkpoint"] is None:
        return "from the start: it ended before its first checkpoint"
    changed = fields.get("changed")
    return f"continued after step {fields['step']}" + (
        f"; changed: {'; '.join(changed)}" if changed else ""
    )


def _opened(fields: Mapping[str, Any]) -> str:
    """Show what is in effect; the event log has it whole."""
    shown = (
        key if value is True else f"{key} {value}"
        for key, value in fields.items()
        if value not in (None, False) and not isinstance(value, (dict, list))
    )
    return "engine: " + ", ".join(shown)


def _epoch(fields: Mapping[str, Any]) -> str:
    line = f"epoch {fields['epoch']}/{fields['epochs']}"
    if "train.loss" in fields:
        line += f"  train.loss {fields['train.loss']:.4f}"
    if "train.images_per_s" in fields:
        line += f"  {fields['train.images_per_s']:.1f} img/s"
    return line + _evaluation(fields)


def _evaluation(fields: Mapping[str, Any]) -> str:
    if "val.top1" not in fields:
        return ""
    images = display.counted(fields["val.count"], "image")
    shares = "  ".join(top_shares(fields))
    return f"  val.loss {fields['val.loss']:.4f}  {shares}  ({images})"


def _verified(fields: Mapping[str, Any]) -> str:
    if "source" not in fields:
        return _agreement(fields["name"], fields) + _evaluation(fields.get("metrics", {}))
    lines = [
        _agreement(record["name"], record)
        for record in (fields["source"], fields)
        if record["verified"] is not None
    ]
    return "\n".join([*lines, *(f"  {line}" for line in accuracy_report(fields))])


def _agreement(name: str, fields: Mapping[str, Any]) -> str:
    result = fields["verification"]
    word = "agrees with" if fields["verified"] else "DISAGREES WITH"
    return (
        f"{name}: {word} the live model on {display.counted(result['images'], 'stored image')} "
        f"(largest difference {result['max_difference']:.1e}, allowed {result['tolerance']:g}; "
        f"same class for {result['same_top1']})"
    )


_LINES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "run.launched": lambda fields: "\n".join(f"launch: {line}" for line in fields["commands"]),
    "run.started": lambda fields: f"run: {fields['folder']}",
    "run.resumed": lambda fields: f"run: {fields['folder']}, {_from_where(fields)}",
    "run.waiting": lambda fields: fields["message"],
    "run.hung": lambda fields: "\n".join(fields["processes"]),
    "run.restarted": _restarted,
    "run.fewer_devices": lambda fields: (
        f"devices: {fields['found']} of the {fields['asked']} that the recipe asks for, which "
        "share its global batch"
    ),
    "run.folder_lost": lambda fields: (
        f"warning: {fields['folder']} was removed or moved away while the run works there, without "
        f"{', '.join(fields['missing']) or 'its event log'}; all that can be is written again, "
        "checkpoints from here on"
    ),
    "data.opened": lambda fields: (
        f"{fields['split']}: {display.counted(fields['images'], 'image')}, "
        f"{display.counted(fields['classes'], 'class')}"
    ),
    "data.indexed": lambda fields: (
        f"{fields['split']}: {display.counted(fields['images'], 'image')} {fields['source']} in "
        f"{fields['seconds']:.1f} s" + (f" ({fields['reason']})" if fields["reason"] else "")
    ),
    "data.ignored": lambda fields: (
        f"{fields['split']}: skipped {display.counted(fields['count'], 'non-image file')}"
    ),
    "data.smoke": lambda fields: (
        f"{fields['split']}: synthetic images, because the recipe's own cannot be used: "
        f"{fields['synthetic_because']}"
        if fields["synthetic_because"]
        else f"{fields['split']}: {fields['images']} of the recipe's own "
        f"{display.counted(fields['of'], 'image')}"
    ),
    "data.two_labels": lambda fields: (
        f"warning: {fields['split']}: {display.counted(fields['images'], 'image')} that another "
        f"class has as well (the same file), such as {fields['example']}"
    ),
    "data.duplicates": lambda fields: (
        f"warning: {fields['split']}: {fields['images']} of {fields['of']} lines of the list name "
        f"an image again, such as {fields['example']}, and it counts each time"
    ),
    "data.overlap": lambda fields: (
        f"warning: {fields['images']} of {fields['of']} validation images are training images "
        f"(such as {fields['example']}), so their accuracy says little of other images"
    ),
    "data.noticed": lambda fields: f"{fields['split']}: {fields['message']}",
    "data.damaged": lambda fields: f"skipped {fields['image']}: {fields['reason']}",
    "engine.opened": _opened,
    "weights.loaded": lambda fields: (
        f"weights: {fields['path']}: {'; '.join(fields['notes'])}" if fields["notes"] else ""
    ),
    "train.first_step": lambda fields: (
        f"  epoch {fields['epoch'] + 1}/{fields['epochs']}  first step of "
        f"{fields['steps_per_epoch']} took {fields['seconds']:.1f} s"
    ),
    "train.overflow": lambda fields: f"  step {fields['step']}: gradients overflowed, step skipped",
    "epoch.finished": _epoch,
    "eval.finished": lambda fields: "eval:" + _evaluation(fields),
    "checkpoint.removed": lambda fields: (
        f"removed {fields['path']}: {fields['reason']}" if "reason" in fields else ""
    ),
    "export.begun": lambda fields: f"{fields['name']}: exporting",
    "export.written": lambda fields: f"{fields['name']}: wrote {fields['folder']}",
    "export.verified": _verified,
    "warning": lambda fields: f"warning: {fields['message']}",
}

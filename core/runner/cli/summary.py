"""The summary at the end of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runner.cli.accuracy import accuracy, accuracy_report, percent
from runner.storage import records
from runner.terminal import display

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def summary(result: Mapping[str, Any]) -> str:
    """Write a run's result for people."""
    result = records.floats(result)
    lines = [(display.line(title), display.line(text)) for title, text in _lines(result)]
    width = max(len(title) for title, _ in lines)
    return "\n".join(f"{title:<{width}}  {text}" for title, text in lines)


def evaluation_line(result: Mapping[str, Any]) -> str:
    """Write the evaluation of one checkpoint or artifact, published figures beside it."""
    lines = [f"{display.line(result['path'])}  {accuracy(result['metrics'])}"]
    lines += [f"  {display.line(text)}" for text in _references(result)]
    return "\n".join(lines)


def _lines(result: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    metrics = result["metrics"]
    yield (
        "run",
        f"{result['recipe']}: {result['model']} on {result['framework']} {result['device']}, "
        f"{result['precision']}",
    )
    if "epochs" in result:
        how = ", target reached" if result["reached_target"] else ""
        epochs = display.counted(result["epochs"], "epoch")
        yield "trained", f"{epochs}, {display.counted(result['steps'], 'step')}{how}"
    yield from _speed(metrics)
    if "val.top1" in metrics:
        yield "accuracy", accuracy(metrics)
    if result.get("best_top1") is not None:
        yield "best", f"top-1 {percent(result['best_top1'])} after epoch {result['best_epoch']}"
    if result.get("val_images_in_train"):
        images = display.counted(result["val_images_in_train"], "validation image")
        yield "overlap", f"{images} used in training as well"
    yield from _skipped(result)
    for lost in result.get("folder_lost", ()):
        gone = ", ".join(lost["missing"])
        yield "lost", f"the folder, during the run; written again without what it had: {gone}"
    for record in result["exports"]:
        yield f"export {record['name']}", _export(record)
        if "source" in record:
            yield from (("", text) for text in accuracy_report(record))
    for position, text in enumerate(_references(result)):
        yield f"published {position + 1}" if position else "published", text
    yield "result", f"{result['folder']}/result.json, {result['seconds']:.1f} s"


def _skipped(result: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if result.get("damaged_images"):
        yield "damaged", f"{display.counted(result['damaged_images'], 'image')} skipped"
    if result.get("skipped_steps"):
        yield "overflows", f"{display.counted(result['skipped_steps'], 'step')} skipped"


def _speed(metrics: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if "train.images_per_s" in metrics:
        yield (
            "speed",
            f"{metrics['train.images_per_s']:.1f} img/s in training, "
            f"{percent(metrics['train.data_wait'])} of the time waiting for data",
        )
    for name, value in metrics.items():
        if name.startswith("throughput."):
            yield name.removeprefix("throughput."), f"{value:.1f} img/s"


def _export(record: Mapping[str, Any]) -> str:
    if record["verified"] is None:
        return f"{record['folder']}, NOT VERIFIED: {record['reason']}"
    if "error" in record:
        return f"FAILED: {record['error']}"
    check = record["verification"]
    text = (
        f"{record['folder']}, agrees to {check['max_difference']:.1e} "
        f"on {display.counted(check['images'], 'stored image')}"
    )
    if "metrics" in record and "source" not in record:
        text += f"; {accuracy(record['metrics'])}"
    return text


def _references(result: Mapping[str, Any]) -> Iterator[str]:
    for item in result["reference"]:
        measured = "not measured" if item["measured"] is None else f"{item['measured']:g} measured"
        where = f", {item['hardware']}" if item["hardware"] else ""
        note = f", {item['note']}" if item["note"] else ""
        yield f"{item['metric']} {item['value']:g} ({item['source']}{where}{note}), {measured}"

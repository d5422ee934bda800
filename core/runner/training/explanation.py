"""The whole plan of a recipe as text, without importing a framework."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner import recipe
from runner.distributed.launching.shell import Start, launch_lines
from runner.entries import ExportEntry, LoggerEntry
from runner.errors import DataError, RunnerError
from runner.framework.cores import cpu_quota, visible_cores
from runner.planning.notes import notes
from runner.planning.plan import check_devices, unusable, without_effect
from runner.terminal import display
from runner.weights import given

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from runner.entries import Entry
    from runner.planning.plan import Plan
    from runner.plugins.registry import Registered
    from runner.recipe import Document

SMOKE_SECTIONS = frozenset({"dataset", "train", "eval", "throughput"})
"""Sections that a smoke test replaces, the data where it is not there; it scales the learning rate
as well."""

CLASSES_SHOWN = 10
"""Names of classes that are listed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """The number of images in a split, and how it is known."""

    images: int | None
    source: str
    refused: str = ""
    """Why a run will refuse the data."""
    classes: tuple[str, ...] = ()
    """Those that were found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Both splits, looked at once."""

    train: Size
    val: Size

    @property
    def classes(self) -> tuple[str, ...]:
        """Those that were found in either."""
        return self.train.classes or self.val.classes


def as_text(plan: Plan, document: Document, start: Start) -> str:
    """Explain a plan for people."""
    sizes = _sizes(plan, document)
    sections = [
        ("recipe", _recipe(plan, document)),
        ("plugins", _plugins(plan, document)),
        ("data and steps", [*_steps(plan, sizes), _threads(plan, start)]),
        ("learning rate", _learning_rate(plan, sizes)),
        ("worth knowing", _notes(plan, sizes)),
        ("writes", _writes(plan, start.runs_dir)),
        ("starts with", _launch(plan, start, sizes)),
        ("values and where they come from", _values(plan, document)),
    ]
    return "\n\n".join(
        "\n".join([title, *(f"  {display.line(line)}" for line in lines)])
        for title, lines in ((title, list(lines)) for title, lines in sections)
        if lines
    )


def as_data(plan: Plan, document: Document, start: Start) -> dict[str, Any]:
    """Explain a plan for programs (JSON)."""
    sizes = _sizes(plan, document)
    images = sizes.train.images if plan.recipe.train else None
    steps = _steps_per_epoch(plan, images)
    batch = plan.train_batch
    refused = refusals(plan, start, sizes)
    return {
        "recipe": plan.name,
        "resolved": recipe.resolved(plan.recipe),
        "origins": {path: origin for path, _, origin in _leaves(plan, document)},
        "entries": [
            {
                "kind": item.kind,
                "name": item.entry.name,
                "plugin": str(item.plugin),
                "reason": item.reason,
            }
            for item in _used(plan)
        ],
        "train_images": images,
        "val_images": sizes.val.images,
        "classes": list(sizes.classes) or None,
        "steps_per_epoch": steps,
        "batch": batch
        and {
            "global": plan.train.batch_size,
            "devices": batch.devices,
            "per_pass": batch.micro,
            "accumulation": batch.accumulation,
        },
        "learning_rate": rates(plan, steps) if steps else None,
        "command": "\n".join(_startable(plan, start)),
        "refused": "; ".join(refused) or None,
        "refusals": refused,
        "notes": _notes(plan, sizes),
        "without_effect": without_effect(plan, elastic=start.machines.elastic),
    }


def _used(plan: Plan) -> tuple[Registered[Entry], ...]:
    return plan.entries(training=plan.recipe.train is not None, exporting=True)


def _sizes(plan: Plan, document: Document) -> Sizes:
    nothing = Size(images=None, source="the recipe does not train")
    return Sizes(
        train=_split_size(plan, document, "train") if plan.recipe.train else nothing,
        val=_split_size(plan, document, "val"),
    )


def _split_size(plan: Plan, document: Document, split: str) -> Size:
    """Find out how many images a split has: from the data, or else from the recipe."""
    section = plan.recipe.dataset
    declared = section.train_images if split == "train" else section.val_images
    if document.unset and not plan.smoke:
        names = ", ".join(sorted({item.name for item in document.unset}))
        return _declared(declared, f"the environment variable {names} is not set")
    if plan.dataset_entry.framework != "any" or plan.dataset.missing:
        return _declared(declared, "the data was not looked at")
    try:
        dataset = plan.look_at(split)
    except RunnerError as error:
        return _declared(declared, "refused, see below", refused=str(error))
    images = len(dataset.labels)
    source = "found in the data"
    if plan.smoke:
        source = plan.synthetic_because or "of the recipe's own"
        source = f"for --smoke, {'synthetic: ' * bool(plan.synthetic_because)}{source}"
    if declared is not None and declared != images:
        source += f"; the recipe declares {declared:,}"
    return Size(
        images=images,
        source=source,
        refused=plan.objection(split, dataset),
        classes=tuple(dataset.classes),
    )


def _declared(images: int | None, problem: str, *, refused: str = "") -> Size:
    source = problem if images is None else f"declared by the recipe; {problem}"
    return Size(images=images, source=source, refused=refused)


def _steps_per_epoch(plan: Plan, images: int | None) -> int | None:
    """Return the steps of an epoch; ``None`` if there is none, or it is not known."""
    with suppress(DataError):  # which is a refusal
        return plan.steps_per_epoch(images) if images else None
    return None


def rates(plan: Plan, steps_per_epoch: int) -> dict[str, float]:
    """Return the learning rate of the first step, of the peak and of the last step."""
    epochs = range(plan.train.epochs)
    # A rule rises or falls within an epoch, so its extremes are at the ends of epochs.
    ends = [
        plan.learning_rate(step, steps_per_epoch)
        for epoch in epochs
        for step in (epoch * steps_per_epoch, (epoch + 1) * steps_per_epoch - 1)
    ]
    return {"start": ends[0], "peak": max(ends), "end": ends[-1]}


def refusals(plan: Plan, start: Start, sizes: Sizes) -> list[str]:
    """Return why the recipe will be refused here, as far as can be said without a framework."""
    training, images = plan.recipe.train is not None, sizes.train.images
    entries = unusable(plan, training=training, exporting=True, val_images=sizes.val.images)
    found = [str(error) for error in entries]
    checks: list[Callable[[], object]] = [
        lambda: check_devices(plan),
        lambda: launch_lines(plan, start),
    ]
    if training and images:
        checks.append(lambda: plan.check_shares(images))
        checks.append(lambda: plan.check_memory("train", images))
    val_images = sizes.val.images
    if val_images:
        checks.append(lambda: plan.check_memory("val", val_images))
    for check in checks:
        try:
            check()
        except RunnerError as error:
            found.append(str(error))
    found += _refused_weights(plan, sizes)
    found += filter(None, (sizes.train.refused, sizes.val.refused))
    return list(dict.fromkeys(found))


def _refused_weights(plan: Plan, sizes: Sizes) -> Iterator[str]:
    named = plan.recipe.model.weights
    if not named or "${" in named:
        return
    try:
        given.check(plan, Path(named).expanduser(), sizes.val.classes)
    except RunnerError as error:
        yield str(error)


def _notes(plan: Plan, sizes: Sizes) -> list[str]:
    images = sizes.train.images
    return notes(plan, images if _steps_per_epoch(plan, images) else None)


def _startable(plan: Plan, start: Start) -> list[str]:
    with suppress(RunnerError):  # which is the refusal
        return launch_lines(plan, start)
    return []


def _launch(plan: Plan, start: Start, sizes: Sizes) -> Iterator[str]:
    yield from _startable(plan, start)
    for reason in refusals(plan, start, sizes):
        yield from display.message(reason, "WILL BE REFUSED HERE: ").split("\n")
    idle = without_effect(plan, elastic=start.machines.elastic)
    if idle:
        yield idle


def _recipe(plan: Plan, document: Document) -> Iterator[str]:
    yield f"{plan.name}: {display.joined(plan.recipe.summary)}"
    yield from (f"read from {path}" for path in document.files)
    for item in document.unset:
        yield f"environment variable {item.name} is not set; the run will ask for it"


def _plugins(plan: Plan, document: Document) -> Iterator[str]:
    exports, loggers = iter(range(len(plan.exporters))), iter(range(len(plan.loggers)))
    for item in _used(plan):
        keys: tuple[str | int, ...] | None = (item.kind, "name")
        if isinstance(item.entry, ExportEntry):
            position = next(exports, None)
            keys = None if position is None else ("export", position, "name")
        elif isinstance(item.entry, LoggerEntry):
            position = next(loggers, None)
            keys = None if position is None else ("loggers", position, "name")
        if keys:
            why = f"chosen at {_origin(plan, document, keys)}"
        else:
            why = "always on" if isinstance(item.entry, LoggerEntry) else _converted(plan, item)
        yield f"{item.kind:<10} {item.entry.name:<16} from {item.plugin}, {why}"


def _converted(plan: Plan, exporter: Registered[Entry]) -> str:
    """Name the converters that start from an exporter."""
    pairs = zip(plan.exporters, plan.sources, strict=True)
    names = {item.entry.name for item, source in pairs if source and source.exporter == exporter}
    return f"which {' and '.join(sorted(names))} starts from"


def _steps(plan: Plan, sizes: Sizes) -> Iterator[str]:
    if sizes.classes:
        yield f"{display.counted(len(sizes.classes), 'class')}: {_listed(sizes.classes)}"
    if plan.recipe.train is None:
        yield f"evaluates {_count(sizes.val)}"
        return
    section, batch, images = plan.train, plan.train_batch, sizes.train.images
    assert batch is not None
    yield f"trains on {_count(sizes.train)}"
    yield f"evaluates {_count(sizes.val)}"
    yield (
        f"global batch {section.batch_size:,} = {batch.devices} {plan.device_entry.name} "
        f"x {display.counted(batch.micro, 'image')} per pass x {batch.accumulation} accumulation"
    )
    steps = _steps_per_epoch(plan, images)
    if images and steps:
        each, epochs = (
            display.counted(steps, "step"),
            display.counted(section.epochs, "epoch"),
        )
        yield f"{each} per epoch x {epochs} = {steps * section.epochs:,}"
        left_out = images - steps * section.batch_size
        if left_out > 0:
            dropped = display.counted(left_out, "image")
            are = "is" if left_out == 1 else "are"
            yield f"{dropped} {are} dropped each epoch, different ones each time"
        elif left_out < 0:
            rest = section.batch_size + left_out
            again = -rest % batch.devices
            repeated = f", {again} of them for the second time" if again else ""
            yield f"the last batch of each epoch has {rest + again}{repeated}"


def _listed(classes: tuple[str, ...]) -> str:
    rest = len(classes) - CLASSES_SHOWN
    return ", ".join(classes[:CLASSES_SHOWN]) + (f" and {rest:,} more" if rest > 0 else "")


def _threads(plan: Plan, start: Start) -> str:
    """Say how many threads read images, beside the cores that there are here."""
    each = plan.recipe.loader.workers
    processes = max(1, plan.recipe.device.count // start.machines.count)
    cores, quota = visible_cores(), cpu_quota()
    threads = display.counted(each, "thread")
    if processes > 1:
        threads += f" in each of {processes} processes, {each * processes} on each machine"
    limit = "" if quota is None else f", and this process may use the time of {quota:g}"
    here = f"this machine has {display.counted(cores, 'core')}{limit}"
    return f"reads images with {threads}; {here}"


def _learning_rate(plan: Plan, sizes: Sizes) -> Iterator[str]:
    if plan.recipe.train is None:
        return
    schedule = plan.recipe.schedule
    warmup = f", warm-up over {schedule.warmup_epochs}" if schedule.warmup_epochs else ""
    yield f"{schedule.name} over {display.counted(plan.train.epochs, 'epoch')}{warmup}"
    steps = _steps_per_epoch(plan, sizes.train.images)
    if steps:
        value = rates(plan, steps)
        yield f"start {value['start']:.6g}, peak {value['peak']:.6g}, end {value['end']:.6g}"


def _writes(plan: Plan, runs_dir: Path) -> Iterator[str]:
    folder = runs_dir / plan.name / "<time>"
    yield f"{folder}/ recipe.yaml, manifest.json, events.jsonl, result.json"
    parameters = plan.model_entry.parameters
    if plan.recipe.train:
        kept = plan.recipe.checkpoint.keep + plan.recipe.checkpoint.keep_best
        size = f" of about {4 * parameters / 1e6:.0f} MB for weights" if parameters else ""
        files = f"{display.counted(kept, 'checkpoint')}{size}, and the optimizer's state"
        yield f"{folder}/checkpoints/ up to {files}"
    for entry in plan.exporter_entries:
        yield f"{folder}/exports/{entry.name}/"


def _values(plan: Plan, document: Document) -> Iterator[str]:
    leaves = [
        (path, json.dumps(value, ensure_ascii=False), origin)
        for path, value, origin in _leaves(plan, document)
    ]
    name_width = max(len(leaf[0]) for leaf in leaves)
    value_width = min(40, max(len(leaf[1]) for leaf in leaves))
    for path, value, origin in leaves:
        yield f"{path:<{name_width}}  {value:<{value_width}}  {origin}"


def _leaves(plan: Plan, document: Document) -> Iterator[tuple[str, Any, str]]:
    """Yield path, value and origin of everything in the resolved recipe that is not a mapping."""
    resolved: Any = recipe.resolved(plan.recipe)
    for keys, origin in recipe.origins(document, plan.recipe).items():
        value = resolved
        for key in keys:
            value = value[key]
        where = _origin(plan, document, keys) if plan.smoke else str(origin)
        yield ".".join(str(key) for key in keys), value, where


def _origin(plan: Plan, document: Document, keys: tuple[str | int, ...]) -> str:
    own_data = keys[0] == "dataset" and not plan.synthetic_because
    shortened = (keys[0] in SMOKE_SECTIONS and not own_data) or keys == (
        "optimizer",
        "learning_rate",
    )
    return "--smoke" if plan.smoke and shortened else str(document.origin(keys))


def _count(size: Size) -> str:
    images = display.counted(size.images, "image") if size.images else "? images"
    return f"{images} ({size.source})"

"""Checks of a plugin's static promises and of its datasets."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, fields
from functools import partial
from typing import TYPE_CHECKING, Any

from runner.contracts import Availability
from runner.entries import DeviceEntry, Entry, Lazy
from runner.plugins.checks import argument_count
from runner.plugins.loading import load
from runner.system import interpreter
from runner.testing.imports import Reference, misfit

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from runner.contracts import Dataset
    from runner.entries import DatasetEntry
    from runner.plugins.registry import PluginInfo, Registered

FRAMEWORKS = ("torch", "torchvision", "tensorflow", "jax", "mindspore", "onnx", "onnxruntime")
HEAVY = (*FRAMEWORKS, "sklearn", "numpy", "PIL", "pydantic", "rich", "yaml")


def check_plugin(module: str) -> PluginInfo:
    """Check what can be checked without opening anything.

    The plugin loads; names, summaries and requirements are well formed; callables take the
    arguments that core gives them; every option has a docstring; device probes answer; importing
    the plugin and calling its registration hooks imports no framework and nothing slow; what
    ``lazy`` names is there, as far as what it imports is installed.

    Args:
        module: Name of the plugin module, such as ``my_package.plugin``.

    Raises:
        AssertionError: A promise is broken.
    """
    plugin = importlib.import_module(module)
    registry = load(extra=[("checked", plugin)], environ={"RUNNER_PLUGINS": ""})
    info = next(info for info in registry.plugins if info.name == "checked")
    assert info.state in {"ready", "unavailable"}, f"{module} is {info.state}: {info.reason}"
    assert info.entries, f"{module} registers no entry"
    needs = {*getattr(plugin, "RUNNER_REQUIRES", ())}
    references: list[Reference] = []
    for item in registry.entries(Entry):
        owner = f"{item.kind} {item.entry.name}"
        references += _check_callables(owner, item)
        _check_options(owner, item.entry.config)
        if isinstance(item.entry, DeviceEntry):
            _check_probe(item.entry)
        needs.update(item.entry.requires)
    _check_imports(module, {*HEAVY, *(name.partition(".")[0] for name in needs)}, references)
    return info


def check_dataset(entry: DatasetEntry, options: object, *, samples: int = 16) -> None:
    """Open both splits of a dataset and check what the data pipeline relies on.

    Labels are ``int64`` and index the class names; both splits have the same classes; ``read``
    gives an encoded image or ``uint8`` pixels ``[H, W, 3]``, the same ones every time and from
    several threads at once; every image has a name.

    Args:
        entry: The dataset.
        options: An instance of ``entry.config``.
        samples: Images of each split that are read.

    Raises:
        AssertionError: A promise is broken.
    """
    train, val = entry.open(options, "train"), entry.open(options, "val")
    assert list(train.classes) == list(val.classes), (
        f"dataset {entry.name}: train and val have different classes: "
        f"{list(train.classes)[:5]} and {list(val.classes)[:5]}, ..."
    )
    for name, split in (("train", train), ("val", val)):
        _check_split(f"dataset {entry.name}, split {name}", split, samples)


def _check_callables(owner: str, item: Registered[Entry]) -> Iterator[Reference]:
    """Check the functions of an entry; yield those that are references, to be looked at later."""
    missing = tuple(name.partition(".")[0] for name in item.missing)
    for field in fields(item.entry):
        value, count = getattr(item.entry, field.name), argument_count(field)
        if count is None or value is None:
            continue
        given = value if isinstance(value, partial) else partial(value)
        for part in given.args:
            if isinstance(part, Lazy):
                yield Reference(target=part.target, place=part.place, missing=missing)
        if not isinstance(given.func, Lazy):
            wrong = misfit(f"{owner}: {field.name}", value, count)
            assert not wrong, wrong
            continue
        yield Reference(
            target=given.func.target,
            place=given.func.place,
            count=count + len(given.args),
            named=tuple(given.keywords),
            missing=missing,
        )


def _check_options(owner: str, config: type) -> None:
    from pydantic import TypeAdapter

    try:
        schema = TypeAdapter(config).json_schema()
    except Exception as error:
        raise AssertionError(
            f"{owner}: {config.__name__} cannot be checked by pydantic: {error}; annotations must "
            "be names at module level that are imported when the program runs"
        ) from error
    assert schema.get("additionalProperties") is False, (
        f"{owner}: {config.__name__} accepts unknown keys; make it with @runner.options"
    )
    for key, part in schema.get("properties", {}).items():
        assert part.get("description"), (
            f"{owner}: option {config.__name__}.{key} has no docstring; write one below it"
        )


def _check_probe(entry: DeviceEntry) -> None:
    try:
        answer = entry.probe()
    except Exception as error:
        raise AssertionError(
            f"device {entry.name}: probe raised {error!r}; it must return "
            "Availability(available=False, reason=...)"
        ) from error
    assert isinstance(answer, Availability), f"device {entry.name}: probe returned {answer!r}"
    assert answer.available or answer.reason, (
        f"device {entry.name}: probe must say what it found when the device is not there"
    )


def _check_imports(module: str, heavy: Iterable[str], references: Sequence[Reference]) -> None:
    asked = json.dumps([module, sorted(heavy), [asdict(item) for item in references]])
    done = subprocess.run(
        interpreter.module("runner.testing.imports", asked).arguments,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"importing {module} in a fresh process failed:\n{done.stderr}"
    found = json.loads(done.stdout.splitlines()[-1])
    assert not found["imported"], (
        f"importing {module} imports {', '.join(found['imported'])}; import them inside the "
        "functions that entries name, or name these with lazy()"
    )
    assert not found["wrong"], "\n".join(found["wrong"])


def _check_split(place: str, split: Dataset, samples: int) -> None:
    import numpy as np

    classes, labels = list(split.classes), split.labels
    assert labels.dtype.kind in "iu", f"{place}: labels are {labels.dtype}, not integers"
    assert labels.ndim == 1, f"{place}: labels have the shape {labels.shape}, not (N,)"
    assert len(labels), f"{place}: there is no image"
    assert len(set(classes)) == len(classes), f"{place}: class names are not unique"
    assert labels.min() >= 0, f"{place}: a label is {labels.min()}"
    assert labels.max() < len(classes), (
        f"{place}: the label {labels.max()} has no name; there are {len(classes)} classes"
    )
    chosen = np.linspace(0, len(labels) - 1, min(samples, len(labels))).astype(int).tolist()
    images = [split.read(index) for index in chosen]
    for index, image in zip(chosen, images, strict=True):
        _check_image(f"{place}, image {index}", image)
        name = split.describe(index)
        assert isinstance(name, str), f"{place}: describe({index}) returned {name!r}"
        assert name, f"{place}: describe({index}) returned an empty name"
    with ThreadPoolExecutor(4) as pool:
        again = list(pool.map(split.read, chosen * 4))
    for position, image in enumerate(again):
        assert _same(image, images[position % len(images)]), (
            f"{place}: image {chosen[position % len(images)]} differs when it is read from "
            "several threads at once"
        )


def _check_image(place: str, image: Any) -> None:
    import numpy as np

    if isinstance(image, bytes):
        assert image, f"{place}: read returned no bytes"
        return
    assert isinstance(image, np.ndarray), f"{place}: read returned {type(image).__name__}"
    assert image.dtype == np.uint8, f"{place}: pixels are {image.dtype}, not uint8"
    assert image.ndim == 3, f"{place}: pixels have the shape {image.shape}, not (H, W, 3)"
    assert image.shape[2] == 3, f"{place}: pixels have the shape {image.shape}, not (H, W, 3)"


def _same(first: Any, second: Any) -> bool:
    import numpy as np

    if isinstance(first, bytes) or isinstance(second, bytes):
        return bool(first == second)
    return bool(np.array_equal(first, second))

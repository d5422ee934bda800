"""Weights from anywhere, under canonical (torchvision) names."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from typing import TYPE_CHECKING

from runner import recipe
from runner.contracts import StoredWeights
from runner.entries import FrameworkEntry
from runner.errors import CheckpointError, PluginError, UsageError
from runner.framework import short_floats
from runner.framework.options import CHANGE_OUTPUT
from runner.plugins.returns import as_stored
from runner.storage import checkpoint, files, paths, records
from runner.terminal import display
from runner.weights import fitted as fitted_weights
from runner.weights import foreign
from runner.weights.fitted import Fitted, Source, Target, fit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Any

    from numpy.typing import NDArray

    from runner.contracts import Engine
    from runner.planning.plan import Plan
    from runner.plugins.registry import Registry
    from runner.storage.checkpoint import Checkpoint
    from runner.storage.events import EventLog

SHORT = {"BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}
"""Formats of safetensors that NumPy lacks."""
LARGEST_HEADER = 100_000_000
"""Bytes that a safetensors header may have; the library reads no longer one."""


def read(path: Path, framework: FrameworkEntry, registry: Registry) -> Source:
    """Read a run (its best checkpoint), a checkpoint, or a weights file of any known format.

    What a file is called does not matter where its content tells what it is. The weights of a
    checkpoint stand for the checkpoint, whose average and class names come with them.

    Args:
        path: The file or folder.
        framework: The framework that is to use the weights; it reads its own formats here.
        registry: Other frameworks, which read theirs in a child process.

    Raises:
        CheckpointError: The file is missing, damaged, or of no known format or number type.
        PluginError: The framework that knows the format is not installed.
    """
    path = _checkpoint_at(path)
    if path.is_dir():
        return of_checkpoint(checkpoint.load(path))
    found = _read_file(path, framework, registry)
    return replace(found, stored=_translated(found.stored, path, registry))


def _translated(stored: StoredWeights, path: Path, registry: Registry) -> StoredWeights:
    """Give tensors canonical names that are in the words of a framework, installed or not."""
    for item in registry.entries(FrameworkEntry):
        entry = item.entry
        try:
            found = entry.translate_weights(stored) if entry.translate_weights else None
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from error
        if found is not None:
            return found
    return stored


def _checkpoint_at(path: Path) -> Path:
    """Return the checkpoint that a path stands for, or the path if that is a weights file.

    Raises:
        CheckpointError: There is nothing.
    """
    try:
        paths.check_there(path, "a run, a checkpoint or a weights file")
    except UsageError as error:
        raise CheckpointError(f"no weights: {error}") from error
    in_checkpoint = path.name in (checkpoint.WEIGHTS, checkpoint.STATE)
    if in_checkpoint and checkpoint.is_complete(path.parent):
        return path.parent
    return checkpoint.of_run(path / "checkpoints") if (path / "checkpoints").is_dir() else path


def of_checkpoint(saved: Checkpoint) -> Source:
    """Return the weights of a checkpoint, with their average where there is one."""
    average = saved.info.weights_kind != "raw"
    sets = (
        {"ema": saved.evaluation_weights, "raw": saved.weights} if average else {"": saved.weights}
    )
    network, options = _model_of(saved.path)
    return Source(
        stored=StoredWeights(sets=sets, model_options=options),
        classes=saved.info.classes,
        checked=saved.checked,
        network=network,
    )


def _model_of(folder: Path) -> tuple[str, Mapping[str, Any]]:
    """Return the model of a checkpoint's recipe, and what of its options changes the results."""
    root = recipe.compose(folder / checkpoint.RECIPE, environ=os.environ, allow_unset=True).root
    nodes = {key: root.find(("model", key)) for key in CHANGE_OUTPUT}
    options = {key: node.value for key, node in nodes.items() if node is not None}
    name = root.find(("model", "name"))
    return ("" if name is None else str(name.value)), options


def check(plan: Plan, path: Path, classes: Sequence[str]) -> None:
    """Refuse weights that are not there, and those whose classes or network on file are others.

    Args:
        plan: The recipe that names them.
        path: The weights.
        classes: Names of the data's classes; empty where they are not known.

    Raises:
        CheckpointError: A run would refuse them.
    """
    folder = _checkpoint_at(path)
    if not folder.is_dir():
        return
    known = tuple(checkpoint.read_info(folder).content["classes"])
    network, options = _model_of(folder)
    stored = StoredWeights(sets={}, model_options=options)
    source = Source(stored=stored, classes=known, network=network)
    target = _target(plan, {}, classes, training=plan.recipe.train is not None)
    try:
        fitted_weights.check(source, target)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _target(
    plan: Plan, tensors: Mapping[str, NDArray[Any]], classes: Sequence[str], *, training: bool
) -> Target:
    section = plan.recipe.model
    return Target(
        tensors=tensors,
        num_classes=len(classes),
        options=section.options,
        classes=tuple(classes),
        heads=plan.model_entry.training_heads,
        training=training,
        fresh_classifier=training and section.fresh_classifier,
        network=section.name,
    )


def load(
    engine: Engine,
    plan: Plan,
    source: Source,
    events: EventLog,
    *,
    path: Path,
    classes: Sequence[str],
    training: bool = False,
    choice: str | None = None,
) -> Fitted:
    """Give weights to an engine, and report what was done to them.

    Args:
        engine: The engine.
        plan: The recipe that it was opened with.
        source: The weights.
        events: Receives ``weights.loaded``.
        path: Where they come from.
        classes: Names of the data's classes, as many as the engine has outputs.
        training: Whether the engine trains.
        choice: Which set of tensors to take: ``ema``, ``raw``, a key or a prefix.

    Raises:
        CheckpointError: They do not fit the model, or the classes are others.
    """
    target = _target(plan, engine.weights(), classes, training=training)
    try:
        fitted = fit(source, target, choice)
        engine.load_weights(fitted.weights)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    if not source.checked:
        events.emit("warning", message=records.without_checksum([path]))
    events.emit("weights.loaded", path=str(path), taken=fitted.label, notes=list(fitted.notes))
    return fitted


def files_at(path: Path, registry: Registry) -> list[Path]:
    """Return the weights files that a path stands for: itself, or those in a folder.

    Those in a folder are in the order of the numbers in their names. A folder of checkpoints has
    none.
    """
    if path.is_file():
        return [path]
    endings = {
        suffix for item in registry.entries(FrameworkEntry) for suffix in _endings(item.entry)
    }
    found = [item for item in path.glob("*") if item.is_file() and item.suffix in endings]
    return sorted(found, key=_by_number)


def _by_number(path: Path) -> tuple[list[int], str]:
    return [int(number) for number in re.findall(r"\d+", path.stem)], path.name


def _read_file(path: Path, framework: FrameworkEntry, registry: Registry) -> Source:
    found = files.stand_in(_start(path, files.STAND_IN_BYTES))
    if found:
        raise CheckpointError(f"{path} is {found}")
    if _is_safetensors(path):
        return _read_safetensors(path)
    reader = _reader(path, framework, registry)
    if reader is None:
        assert framework.read_weights is not None, "it was chosen because it reads weights"
        return Source(stored=as_stored(framework.read_weights(path), framework.name))
    return Source(stored=foreign.read(path, reader))


def _is_safetensors(path: Path) -> bool:
    if path.suffix == ".safetensors":
        return True
    start = _start(path, 10)
    length = int.from_bytes(start[:8], "little")
    return start[8:] == b'{"' and length <= min(path.stat().st_size, LARGEST_HEADER)


def _start(path: Path, size: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(size)
    except OSError as error:
        raise _no_access(path, error) from error


def _no_access(path: Path, error: OSError) -> CheckpointError:
    return CheckpointError(f"{path} cannot be read: {error}; check its permissions")


def _reader(path: Path, framework: FrameworkEntry, registry: Registry) -> str | None:
    """Return the name of a framework that knows the format of a file; ``None`` for the run's own.

    Raises:
        CheckpointError: Nobody knows it.
        PluginError: Who knows it is not installed.
    """
    frameworks = registry.entries(FrameworkEntry)
    entries = [framework, *(item.entry for item in frameworks)]
    names = [i.name for i in entries if i.recognises_weights and i.recognises_weights(path)]
    names += [item.name for item in entries if path.suffix in _endings(item)]
    if not names:
        known = sorted({suffix for item in frameworks for suffix in _endings(item.entry)})
        raise CheckpointError(
            f"{path} is of no format that an installed plugin can read; expected a checkpoint "
            f"folder, or a file that ends in {', '.join(['.safetensors', *known])}"
        )
    if names[0] == framework.name:
        return None
    readers = [item for item in frameworks if item.entry.name == names[0]]
    usable = next((item for item in readers if not item.reason), None)
    if usable is None:
        found = readers[0]
        raise PluginError(
            f"{path} is a file of {found.entry.name}, which {found.plugin} reads, but "
            f"{found.reason}; or convert it to .safetensors where that is installed"
        )
    return usable.entry.name


def _endings(framework: FrameworkEntry) -> tuple[str, ...]:
    return framework.weight_suffixes if framework.read_weights else ()


def _read_safetensors(path: Path) -> Source:
    """Read a file; a copy of a checkpoint's has its class names, and not the average beside it."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            header = (file.metadata() or {}).get(checkpoint.HEADER)
            kinds = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
            short = {name: SHORT[kind] for name, kind in kinds.items() if kind in SHORT}
            found = {name: file.get_tensor(name) for name in kinds if name not in short}
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a complete safetensors file: {error}") from error
    except OSError as error:
        raise _no_access(path, error) from error
    except (TypeError, AttributeError, KeyError) as error:
        # How the reader ends when NumPy has no such type.
        raise _unknown_type(path, str(error)) from error
    # Types that other packages add to NumPy are unknown to the rest of the program.
    odd = sorted({str(array.dtype) for array in found.values() if array.dtype.kind not in "biuf"})
    if odd:
        raise _unknown_type(path, ", ".join(odd))
    tensors = {**found, **_short_tensors(path, short)}
    stored = StoredWeights(sets={"": tensors})
    if header is None:
        return Source(stored=stored)
    said = records.parse(header.encode(), path, checkpoint.HEADER_KIND).content
    raw = "these are not the average, which the checkpoint has that they were copied from"
    notes = (raw,) if said["weights_kind"] == "ema" else ()
    return Source(stored=stored, classes=tuple(said["classes"]), notes=notes)


def _short_tensors(path: Path, kinds: Mapping[str, str]) -> dict[str, NDArray[Any]]:
    """Read tensors of formats that NumPy lacks; the library has checked the header."""
    if not kinds:
        return {}
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        found: dict[str, NDArray[Any]] = {}
        for name, kind in kinds.items():
            start, end = header[name]["data_offsets"]
            file.seek(8 + length + start)
            numbers = short_floats.decode(file.read(end - start), kind)
            found[name] = numbers.reshape(header[name]["shape"])
    return found


def _unknown_type(path: Path, found: str) -> CheckpointError:
    source, target = str(path), str(path.with_suffix(".fp32.safetensors"))
    program = (
        "from safetensors.torch import load_file, save_file; "
        f"save_file({{n: t.float() if t.is_floating_point() else t "
        f"for n, t in load_file({source!r}).items()}}, {target!r})"
    )
    return CheckpointError(
        f"{path} holds numbers of a type that NumPy lacks ({found}); convert "
        "them to float32 with the framework that wrote the file, for PyTorch: "
        f"python -c {display.quote(program)}"
    )

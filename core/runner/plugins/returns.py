"""What plugins return, checked where it enters core: an offender is named with its plugin.

A number of NumPy is taken for the number that it holds. Everything else that the contract does not
promise is an error, because it would be stored, compared or summed as something that it is not.
"""

from __future__ import annotations

import inspect
import numbers
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from runner.contracts import ArtifactInfo, Dataset, StoredWeights
from runner.errors import ArtifactError, PluginError, RunnerError
from runner.plugins.checks import explain
from runner.terminal.display import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from runner.entries import Entry, ModelEntry, OptimizerEntry
    from runner.plugins.registry import Registered

T = TypeVar("T")

EVENT_KEYS = ("event", "time", "elapsed_s")
"""What every event has of itself."""
INPUT_TYPES = ("float32", "float16", "uint8")


def origin(item: Registered[Entry]) -> str:
    """Name an entry and its plugin."""
    return f"{item.kind} {item.entry.name!r} of {item.plugin}"


@contextmanager
def calling(
    item: Registered[Entry],
    what: str,
    error: type[RunnerError] = PluginError,
    *,
    passing: tuple[type[Exception], ...] = (),
) -> Iterator[None]:
    """Turn an unexpected exception of a plugin into an error that names it.

    Args:
        item: Whose code runs.
        what: What it was asked for, such as ``open``.
        error: The error that it becomes.
        passing: What the caller explains itself.
    """
    try:
        yield
    except (RunnerError, MemoryError):
        raise
    except passing:
        raise
    except Exception as problem:
        text = explain(problem, item.plugin.module)
        raise error(f"{origin(item)} failed in {what}: {text}") from problem


def building(item: Registered[ModelEntry] | Registered[OptimizerEntry]) -> Callable[..., Any]:
    """Return ``build`` of a model or an optimizer, with its failures named."""

    def build_named(*arguments: Any) -> Any:
        with calling(item, "build()"):
            built = item.entry.build(*arguments)
        if built is None:
            raise PluginError(f"{origin(item)}, build() returned None")
        return built

    return build_named


def check_members(value: object, protocol: type, source: str) -> None:
    """Check that an object has what a protocol promises, and that core can call it.

    Raises:
        PluginError: Something is missing, or takes other arguments; all are named.
    """
    problems = []
    for name, promised in vars(protocol).items():
        if name.startswith("_"):
            continue
        if isinstance(promised, property):
            if not _has(value, name):
                problems.append(f"has no {name}")
        elif not callable(getattr(value, name, None)):
            problems.append(f"has no method {name}()")
        elif not _takes(getattr(value, name), promised):
            problems.append(f"{name}() does not take {inspect.signature(promised)}")
    if problems:
        raise PluginError(
            f"{source} returned {kind_of(value)} where a {protocol.__name__} is expected: it "
            f"{'; '.join(problems)}; see runner/contracts.py"
        )


def check_instance(value: object, wanted: type[T], source: str) -> T:
    """Return ``value`` if it is what was promised.

    Raises:
        PluginError: It is something else.
    """
    if not isinstance(value, wanted):
        raise PluginError(
            f"{source} returned {kind_of(value)} where a {wanted.__name__} is expected"
        )
    return value


def report(value: object, source: str, *, taken: Iterable[str] = ()) -> dict[str, Any]:
    """Return what a plugin reports as JSON values.

    Args:
        value: A mapping.
        source: Who reports, as in ``framework 'torch' of ..., report()``.
        taken: Keys that the event which carries it has of itself.

    Raises:
        PluginError: It is none, a key is taken or no string, or a value is none of JSON's.
    """
    if not isinstance(value, Mapping):
        raise PluginError(f"{source} returned {kind_of(value)} where a mapping is expected")
    reserved = {*EVENT_KEYS, *taken}
    clashing = sorted(str(key) for key in value if key in reserved)
    if clashing:
        raise PluginError(
            f"{source} returned the key {clashing[0]!r}, which the event that carries it has "
            f"itself; choose another name than {', '.join(sorted(reserved))}"
        )
    return {name: as_json(item, f"{source}: {name}") for name, item in _items(value, source)}


def as_json(value: object, source: str) -> Any:
    """Return a value as JSON has it, with NumPy's numbers as Python's.

    Raises:
        PluginError: JSON has no such value.
    """
    if value is None or isinstance(value, str) or type(value) in {bool, int, float}:
        return value
    if isinstance(value, Mapping):
        return {name: as_json(item, f"{source}.{name}") for name, item in _items(value, source)}
    if isinstance(value, list | tuple):
        return [as_json(item, f"{source}[{place}]") for place, item in enumerate(value)]
    number = python_number(value)
    if number is None:
        raise PluginError(
            f"{source} is {kind_of(value)}, which JSON cannot hold; return text, numbers, lists, "
            "mappings or None"
        )
    return number


def logits(value: object, images: int, classes: int, source: str) -> NDArray[np.float32]:
    """Return logits ``[B, K]`` in C order.

    Raises:
        PluginError: They have another type or shape.
    """
    import numpy as np

    if not isinstance(value, np.ndarray):
        raise PluginError(f"{source} returned {kind_of(value)} where logits [B, K] are expected")
    if value.dtype != np.float32 or value.shape != (images, classes):
        raise PluginError(
            f"{source} returned logits {value.dtype} {list(value.shape)} for "
            f"{counted(images, 'image')}, "
            f"expected float32 [{images}, {classes}]"
        )
    return np.ascontiguousarray(value)


def arrays(value: object, source: str) -> dict[str, NDArray[Any]]:
    """Return arrays by name, each in C order, which is how files hold them.

    Raises:
        PluginError: It is no such mapping, or an array holds objects or texts.
    """
    import numpy as np

    if not isinstance(value, Mapping):
        raise PluginError(f"{source} returned {kind_of(value)} where arrays by name are expected")
    checked = {}
    for name, item in _items(value, source):
        array = np.asarray(item) if isinstance(item, np.generic) else item
        if not isinstance(array, np.ndarray) or array.dtype.kind in "OSUMm":
            what = f"dtype {array.dtype}" if isinstance(array, np.ndarray) else kind_of(item)
            raise PluginError(f"{source} returned {what} under {name!r}, expected a NumPy array")
        # not ascontiguousarray, which turns a scalar into a list of one
        native = array.dtype.newbyteorder("=")
        same = array.flags.c_contiguous and array.dtype == native
        checked[name] = array if same else np.array(array, native, order="C")
    return checked


def artifact_info(value: object, folder: Path, source: str) -> ArtifactInfo:
    """Return what an exporter tells of the file that it wrote.

    Raises:
        ArtifactError: It tells something else, or wrote no such file.
    """
    try:
        info = check_instance(value, ArtifactInfo, source)
        details = report(info.details, f"{source}: details")
    except PluginError as error:
        raise ArtifactError(str(error)) from None
    for name in ("format", "file", "input_name", "output_name"):
        if not isinstance(getattr(info, name), str) or not getattr(info, name):
            raise ArtifactError(f"{source} returned {name} {getattr(info, name)!r}, expected text")
    if info.input_type not in INPUT_TYPES:
        raise ArtifactError(
            f"{source} returned input_type {info.input_type!r}, expected {', '.join(INPUT_TYPES)}"
        )
    if not _is_input_shape(info.input_shape):
        raise ArtifactError(
            f"{source} returned input_shape {info.input_shape!r}, expected four items such as "
            "('batch', 3, 224, 224)"
        )
    if info.is_written and not (folder / info.file).exists():
        raise ArtifactError(f"{source} wrote no file {info.file!r} into its folder")
    return replace(info, input_shape=tuple(info.input_shape), details=details)


def checked_dataset(value: object, source: str) -> Dataset:
    """Return a split of a dataset whose classes and labels are what core indexes with.

    Raises:
        PluginError: They are something else.
    """
    import numpy as np

    found = _as_dataset(value, source)
    names = found.classes
    if not isinstance(names, Sequence) or isinstance(names, str):
        raise PluginError(f"{source}: classes is {kind_of(names)}, expected a sequence of names")
    strange = next((name for name in names if not isinstance(name, str)), None)
    if strange is not None:
        raise PluginError(f"{source}: classes holds {strange!r}, expected names")
    labels = found.labels
    if not isinstance(labels, np.ndarray) or labels.dtype.kind not in "iu" or labels.ndim != 1:
        what = f"{labels.dtype} {list(labels.shape)}" if isinstance(labels, np.ndarray) else ""
        raise PluginError(
            f"{source}: labels is {what or kind_of(labels)}, expected a NumPy array of integers [N]"
        )
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(names):
        raise PluginError(
            f"{source}: labels are {int(labels.min())} to {int(labels.max())}, expected 0 to "
            f"{len(names) - 1}, of {counted(len(names), 'class')}"
        )
    return found


def image(value: object, source: str) -> bytes | NDArray[np.uint8]:
    """Return an image as a dataset reads it.

    Raises:
        PluginError: It is neither bytes nor pixels.
    """
    import numpy as np

    if isinstance(value, bytes):
        return value
    if not isinstance(value, np.ndarray):
        raise PluginError(
            f"{source} returned {kind_of(value)}, expected bytes or pixels uint8 [H, W, 3]"
        )
    if value.dtype != np.uint8 or value.ndim != 3 or value.shape[2] != 3 or not value.size:
        raise PluginError(
            f"{source} returned {value.dtype} {list(value.shape)}, expected bytes or pixels "
            "uint8 [H, W, 3]"
        )
    return value


def _as_dataset(value: object, source: str) -> Dataset:
    check_members(value, Dataset, source)
    return value  # type: ignore[return-value]  # its members were checked


def _is_input_shape(shape: object) -> bool:
    if not isinstance(shape, tuple | list) or len(shape) != 4:
        return False
    return all(isinstance(size, str) or (type(size) is int and size > 0) for size in shape)


def _items(value: Mapping[Any, Any], source: str) -> Iterator[tuple[str, Any]]:
    for name, item in value.items():
        if not isinstance(name, str):
            raise PluginError(f"{source} has the key {name!r}, expected text")
        yield name, item


def python_number(value: object) -> float | None:
    """Return a number as one of Python's types, NumPy's included; ``None`` if it is none."""
    if isinstance(value, bool | int):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    module = type(value).__module__.partition(".")[0]
    if module == "numpy" and getattr(value, "shape", None) == ():
        item = value.item()  # type: ignore[attr-defined]  # NumPy's arrays and scalars have it
        return item if isinstance(item, bool | int | float) else None
    return None


def _has(value: object, name: str) -> bool:
    try:
        getattr(value, name)
    except Exception:  # noqa: BLE001  whatever a property raises, it does not give the value
        return False
    return True


def _takes(method: Any, promised: Any) -> bool:
    """Return whether a bound method takes the arguments of a protocol's method."""
    parameters = list(inspect.signature(promised).parameters.values())[1:]
    positional = [item for item in parameters if item.kind is not item.KEYWORD_ONLY]
    named = {item.name: None for item in parameters if item.kind is item.KEYWORD_ONLY}
    try:
        inspect.signature(method).bind(*(None for _ in positional), **named)
    except TypeError:
        return False
    except ValueError:  # some functions in C have no signature
        return True
    return True


def kind_of(value: object) -> str:
    """Name the type of a value for messages."""
    kind = type(value)
    name = kind.__qualname__
    return name if kind.__module__ == "builtins" else f"{kind.__module__}.{name}"


def as_stored(found: StoredWeights | Mapping[str, NDArray[Any]], framework: str) -> StoredWeights:
    """Return what ``FrameworkEntry.read_weights`` found, in its longer form.

    Raises:
        PluginError: It is something else than arrays by name.
    """
    source = f"read_weights() of framework {framework!r}"
    if not isinstance(found, StoredWeights):
        return StoredWeights(sets={"": arrays(found, source)})
    return replace(found, sets={key: arrays(item, source) for key, item in found.sets.items()})

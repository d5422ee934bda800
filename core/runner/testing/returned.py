"""Checks of what engines return: types, shapes, and how arrays lie in memory.

Core is milder in a run: it copies arrays into C order, and takes NumPy's numbers for Python's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from runner.contracts import EngineState, EvalCounts, StepResult
from runner.errors import PluginError
from runner.plugins.returns import check_members, kind_of, report

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Arrays = Mapping[str, NDArray[Any]]


def methods(value: object, protocol: type, source: str) -> None:
    """Check that an object has the methods of a protocol, with its arguments."""
    try:
        check_members(value, protocol, source)
    except PluginError as error:
        raise AssertionError(str(error)) from error


def step_result(value: object) -> StepResult:
    """Return what a step's ``read()`` returned."""
    assert isinstance(value, StepResult), f"a step's read() returned {kind_of(value)}"
    _check_type("a step's loss", value.loss, float)
    _check_type("a step's skipped", value.skipped, bool)
    return value


def eval_counts(value: object) -> EvalCounts:
    """Return what an evaluation's ``read()`` returned."""
    assert isinstance(value, EvalCounts), f"an evaluation's read() returned {kind_of(value)}"
    for name in ("top1", "top5", "count"):
        _check_type(f"an evaluation's {name}", getattr(value, name), int)
    _check_type("an evaluation's loss_sum", value.loss_sum, float)
    assert 0 <= value.top1 <= value.top5 <= value.count, f"counts do not nest: {value}"
    return value


def logits(value: object, images: int, classes: int) -> NDArray[np.float32]:
    """Return what ``predict`` returned."""
    array = _check_array("predict()", value)
    assert array.dtype == "float32", f"predict() returned {array.dtype}, expected float32"
    assert array.shape == (images, classes), (
        f"predict() returned the shape {list(array.shape)}, expected {[images, classes]}"
    )
    return array


def arrays(value: object, place: str) -> Arrays:
    """Return arrays by name, such as weights."""
    found = _check_mapping(value, place)
    for name, array in found.items():
        _check_array(f"{place}[{name!r}]", array)
    return found


def state(value: object) -> EngineState:
    """Return what ``state`` returned."""
    assert isinstance(value, EngineState), f"state() returned {kind_of(value)}"
    arrays(value.tensors, "state().tensors")
    as_json(_check_mapping(value.values, "state().values"), "state().values")
    return value


def nothing(what: str, method: Callable[..., object], *arguments: object) -> None:
    """Call a method that is to return nothing."""
    value = method(*arguments)
    assert value is None, f"{what} returned {kind_of(value)}, expected None"


def as_report(value: object) -> None:
    """Check what ``report`` returned."""
    try:
        report(value, "report()", taken=("model",))
    except PluginError as error:
        raise AssertionError(str(error)) from error
    as_json(value, "report()")


def as_json(value: object, place: str) -> str:
    """Return a value of JSON as text."""
    try:
        return json.dumps(value)
    except TypeError as error:
        raise AssertionError(f"{place} must be JSON: {error}") from error


def _check_type(place: str, value: object, wanted: type) -> None:
    assert type(value) is wanted, (
        f"{place} is {kind_of(value)} {value!r}, expected a {wanted.__name__} of Python"
    )


def _check_mapping(value: object, place: str) -> Mapping[str, Any]:
    assert isinstance(value, Mapping), f"{place} is {kind_of(value)}, expected a mapping"
    strange = [name for name in value if not isinstance(name, str)]
    assert not strange, f"{place} has the key {strange[0]!r}, expected text"
    return value


def _check_array(place: str, value: object) -> NDArray[Any]:
    import numpy as np

    assert isinstance(value, np.ndarray), f"{place} is {kind_of(value)}, expected a NumPy array"
    assert value.dtype.kind in "biuf", f"{place} is of dtype {value.dtype}, expected numbers"
    assert value.dtype.isnative, f"{place} is of dtype {value.dtype}, in another order of bytes"
    assert value.flags.c_contiguous, (
        f"{place}, {list(value.shape)}, is a view with the strides {list(value.strides)}, expected "
        "an array in C order; return np.ascontiguousarray(...) or a copy with order='C'"
    )
    return value

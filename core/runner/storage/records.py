"""Records: the JSON files that a run leaves and that are read back.

``checkpoint.json``, ``artifact.json``, ``manifest.json``, ``best.json`` and ``result.json`` are
objects with two keys of their own:

    format      version of the record, an integer
    checksum    ``sha256:`` and the SHA-256 of everything else, as canonical JSON: keys sorted, no
                white space, ASCII only, floats as Python's ``repr`` writes them, which round-trips

A record that was changed, cut, or is of a later version is refused. Records from before there
was a checksum are readable, and ``Record.checked`` says that theirs was not compared.

JSON has no NaN and no infinity: they are written as the strings of ``NON_FINITE``, and a schema
takes them where it says ``Number``.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union

from pydantic import InstanceOf, TypeAdapter, ValidationError

from runner.errors import PluginError, RunnerError, StorageError
from runner.storage import files

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

NON_FINITE = ("NaN", "Infinity", "-Infinity")
Text = InstanceOf[str]
"""A string; pydantic's own refuses the surrogates that stand for bytes of names in no UTF-8."""
Number = Union[float, Literal["NaN", "Infinity", "-Infinity"]]  # noqa: UP007  evaluated on 3.10
"""A float; ``float()`` reads all of its values."""

LARGEST = 1 << 26
"""Bytes of a record; of more it is refused, before it takes memory."""
OWN = ("format", "checksum")
_SHOWN = 3

T = TypeVar("T", bound=type)


def schema(*, extra: Literal["forbid", "allow"] = "forbid") -> Any:
    """Make a ``TypedDict`` a strict schema; ``extra`` says whether it takes unknown keys."""

    def decorate(cls: T) -> T:
        config = {"extra": extra, "strict": True}
        cls.__pydantic_config__ = config  # type: ignore[attr-defined]  # read by pydantic
        return cls

    return decorate


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of record."""

    file: str
    """Name of the file."""
    schema: Any
    """A ``TypedDict`` made with ``schema``; keys that a record has beyond its own."""
    error: type[RunnerError]
    """What is raised for a record that cannot be used."""
    remedy: str
    """What the user can do about it."""
    format: int = 1
    unchecked_format: int | None = None
    """Version of older records without a checksum; ``None`` where these have no version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What a record holds."""

    content: dict[str, Any]
    """All keys but ``format`` and ``checksum``, as the schema says."""
    checked: bool
    """Whether it has a checksum, which it then agrees with."""


def seal(kind: Kind, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record: ``content`` as JSON values, with format and checksum.

    Raises:
        PluginError: Something in it is not a JSON value, or not what the schema says.
    """
    record = {"format": kind.format, **_plain(content, kind.file)}
    record.pop("checksum", None)
    problems = _problems(kind, _without(record))
    if problems:
        raise PluginError(f"{kind.file} cannot hold what it is given: {problems}")
    return {**record, "checksum": _checksum(record)}


def write(path: Path, kind: Kind, content: Mapping[str, Any]) -> dict[str, Any]:
    """Write a record atomically, and return what it holds.

    Raises:
        PluginError: As ``seal`` does.
        StorageError: It cannot be written, or would be too large to be read.
    """
    record = seal(kind, content)
    files.write_text(path, as_text(kind, record))
    return record


def as_text(kind: Kind, record: Mapping[str, Any]) -> str:
    """Return the text of a file for what ``seal`` has returned.

    Raises:
        StorageError: It would be too large to be read.
    """
    text = json.dumps(record, indent=2, allow_nan=False) + "\n"
    if len(text) > LARGEST:
        raise StorageError(f"{kind.file} would have {len(text):,} bytes, at most {LARGEST:,}")
    return text


def read(path: Path, kind: Kind, *, remedy: Callable[[], str] | None = None) -> Record:
    """Read a record, and compare it with its checksum.

    Args:
        path: The file.
        kind: What it must be.
        remedy: Says what the user can do if it cannot be used, in place of ``kind.remedy``.

    Raises:
        RunnerError: Of the class ``kind.error``: it was changed, cut, is of a later version, or
            no such record at all.
        OSError: It cannot be read.
    """
    try:
        data = files.read_regular(path, LARGEST)
    except ValueError as error:
        raise _damaged(path, kind, error, remedy) from None
    return parse(data, path, kind, remedy=remedy)


def parse(
    data: bytes, path: Path, kind: Kind, *, remedy: Callable[[], str] | None = None
) -> Record:
    """Return the record that a text is, which stands in a file; as ``read`` does.

    Raises:
        RunnerError: As ``read`` raises.
    """
    try:
        record = _parse(data)
        version = record.get("format")
        _check_version(path, kind, version)
        checked = "checksum" in record
        if checked:
            _compare(record)
        elif version != kind.unchecked_format:
            raise ValueError("it has no checksum")
        content = _without(record)
        problems = _problems(kind, content)
        if problems:
            raise ValueError(problems)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, kind, error, remedy) from None
    return Record(content=content, checked=checked)


def _damaged(
    path: Path, kind: Kind, error: Exception, remedy: Callable[[], str] | None
) -> RunnerError:
    return kind.error(f"{path} is damaged: {error}; {remedy() if remedy else kind.remedy}")


def change(path: Path, kind: Kind, **values: Any) -> None:
    """Replace values of a record on purpose; it has a checksum afterwards.

    Raises:
        RunnerError: As ``read`` and ``write`` do.
        OSError: It cannot be read.
    """
    write(path, kind, {**read(path, kind).content, **values})


def without_checksum(paths: Sequence[Path]) -> str:
    """Return what is said of older records without a checksum."""
    named = ", ".join(map(str, paths[:_SHOWN])) + (", ..." if len(paths) > _SHOWN else "")
    return f"{named}: written before records had a checksum, so it is not known to be unchanged"


def floats(value: Any) -> Any:
    """Return JSON values with the strings of ``NON_FINITE`` as the floats that they stand for."""
    if isinstance(value, dict):
        return {key: floats(item) for key, item in value.items()}
    if isinstance(value, list):
        return [floats(item) for item in value]
    return float(value) if isinstance(value, str) and value in NON_FINITE else value


def non_finite(value: object, place: str = "") -> str | None:
    """Return the place of the first number in JSON values that is not finite, if there is one."""
    if isinstance(value, float):
        return None if math.isfinite(value) else place
    if isinstance(value, dict):
        parts = [(f"{place}.{key}" if place else str(key), item) for key, item in value.items()]
    elif isinstance(value, list | tuple):
        parts = [(f"{place}.{position}", item) for position, item in enumerate(value)]
    else:
        return None
    return next((found for name, item in parts if (found := non_finite(item, name))), None)


def _without(record: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in OWN}


def _checksum(record: Mapping[str, Any]) -> str:
    content = {key: value for key, value in record.items() if key != "checksum"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _compare(record: Mapping[str, Any]) -> None:
    if record["checksum"] != _checksum(record):
        raise ValueError("it was changed after it was written: its checksum differs")


def _check_version(path: Path, kind: Kind, version: object) -> None:
    if isinstance(version, bool) or not isinstance(version, int):
        if version is not None or kind.unchecked_format is not None:
            raise ValueError(f"its format is {version!r}, expected {kind.format}")
    elif version > kind.format:
        raise kind.error(
            f"{path} has {kind.file.removesuffix('.json')} format {version}; this version of "
            f"runner reads format {kind.format}: use a later one"
        )
    elif version < 1:
        raise ValueError(f"its format is {version}, expected {kind.format}")


def _parse(data: bytes) -> dict[str, Any]:
    found = json.loads(data.decode("utf-8"), object_pairs_hook=_object)
    if not isinstance(found, dict):
        raise ValueError(f"it holds {type(found).__name__}, expected an object")
    return found


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        counts = Counter(name for name, _ in pairs)
        raise ValueError(f"it has the key {counts.most_common(1)[0][0]!r} twice")
    return found


def _problems(kind: Kind, content: Mapping[str, Any]) -> str:
    """Return what the schema finds wrong, or an empty text."""
    try:
        _adapter(kind.schema).validate_python(content)
    except ValidationError as error:
        found = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()]
        more = f"; {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        return "; ".join(found[:_SHOWN]) + more
    return ""


@cache
def _adapter(found: type) -> TypeAdapter[Any]:
    return TypeAdapter(found)


def _plain(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return content as it will be read back: lists for tuples, and strings for what JSON lacks."""
    try:
        text = json.dumps(content)
    except (TypeError, ValueError, RecursionError) as error:
        raise PluginError(f"{name} cannot hold what it is given: {error}") from error
    plain: dict[str, Any] = json.loads(text, parse_constant=str)
    return plain

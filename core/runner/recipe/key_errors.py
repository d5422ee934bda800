"""pydantic's errors in the words of recipes, at their place in the YAML."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Any, final

from runner.recipe.phrasing import as_text, did_you_mean, dotted, one_of, show

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pydantic_core import ErrorDetails

    from runner.recipe.source import KeyPath, Node

_TYPES = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "dict_type": "a mapping of keys",
    "dataclass_type": "a mapping of keys",
    "dataclass_exact_type": "a mapping of keys",
    "model_type": "a mapping of keys",
    "path_type": "a path, as text",
    "none_required": "null",
}
_BOUNDS = {
    "greater_than": ("gt", "a number above {}"),
    "greater_than_equal": ("ge", "a number of at least {}"),
    "less_than": ("lt", "a number below {}"),
    "less_than_equal": ("le", "a number of at most {}"),
    "multiple_of": ("multiple_of", "a multiple of {}"),
    "too_long": ("max_length", "at most {} items"),
    "too_short": ("min_length", "at least {} items"),
    "string_too_long": ("max_length", "text of at most {} characters"),
    "string_too_short": ("min_length", "text of at least {} characters"),
    "string_pattern_mismatch": ("pattern", "text that matches {}"),
}
_UNKNOWN_KEY = {"unexpected_keyword_argument", "extra_forbidden"}
_MISSING = {"missing", "missing_argument", "missing_keyword_only_argument"}
_NO_TAG = "union_tag_not_found"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A part of the recipe that one class checks."""

    path: KeyPath
    """Where the part is."""
    cls: type
    keys: tuple[str, ...]
    """All keys that may stand there, for suggestions."""
    owner: str = ""
    """Whose keys they are, where that is not obvious, such as ``model 'resnet18'``."""


@final
@dataclass(frozen=True, slots=True)
class Finding:
    """A problem at a path; ``missing`` and ``unknown`` keys are placed differently from values."""

    path: KeyPath
    message: str
    kind: str = "value"


def explain(
    errors: Sequence[ErrorDetails], part: Checked, root: Node, variants: Mapping[str, type]
) -> list[Finding]:
    """Turn the errors of one validation into findings, one per place.

    Args:
        errors: What pydantic found.
        part: What was validated.
        root: The whole recipe.
        variants: Classes of mappings that are told apart by their ``name``.
    """
    by_path: dict[KeyPath, list[ErrorDetails]] = {}
    for error in errors:
        path = _locate(error, part.path, root)
        by_path.setdefault(path, []).append(error)
    missing = [path for path, found in by_path.items() if found[0]["type"] in _MISSING]
    found = []
    for path, group in by_path.items():
        parent = root.find(path[:-1])
        owner = _class_at(path[:-1], part, parent, variants)
        if group[0]["type"] in _UNKNOWN_KEY:
            found.append(_unknown(path, part, owner))
        elif group[0]["type"] in _MISSING:
            if parent is not None and isinstance(parent.value, tuple):
                if path == max(other for other in missing if other[:-1] == path[:-1]):
                    got = len(parent.value)
                    message = f"{dotted(path[:-1])}: expected {int(path[-1]) + 1} items, got {got}"
                    found.append(Finding(path[:-1], message))
            else:
                found.append(_missing(path, owner))
        else:
            found.append(_wrong(path, group, root, variants))
    return found


def _locate(error: ErrorDetails, start: KeyPath, root: Node) -> KeyPath:
    """Return the path of an error in the recipe, without the tags of unions in its location."""
    path = start
    node = root.find(start)
    last = len(error["loc"]) - 1
    for position, part in enumerate(error["loc"]):
        member = node.get(part) if node else None
        if member is not None:
            path, node = (*path, part), member
        elif position == last and error["type"] in _MISSING:
            path = (*path, part)
    return path


def _class_at(
    path: KeyPath, part: Checked, node: Node | None, variants: Mapping[str, type]
) -> type | None:
    """Return the class that describes the mapping at a path, where it is known."""
    if path == part.path:
        return part.cls
    name = node.get("name") if node else None
    if name is not None and isinstance(name.value, str):
        return variants.get(name.value)
    return None


def _keys(cls: type | None) -> tuple[str, ...]:
    return tuple(field.name for field in fields(cls)) if is_dataclass(cls) else ()


def _unknown(path: KeyPath, part: Checked, cls: type | None) -> Finding:
    key = str(path[-1])
    keys = part.keys if path[:-1] == part.path else _keys(cls)
    where = f"{dotted(path[:-1])}" if path[:-1] else "the recipe"
    if part.owner and path[:-1] == part.path:
        where += f" ({part.owner})"
    message = f"unknown key '{key}' in {where}"
    hint = did_you_mean(key, keys)
    if not hint and keys:
        hint = f"; its keys are {', '.join(sorted(keys))}"
    return Finding(path, message + hint, "unknown")


def _missing(path: KeyPath, cls: type | None) -> Finding:
    key = str(path[-1])
    about = lowered(help_text(cls, key)) if cls else ""
    about = f": {about}" if about else ""
    return Finding(path, f"missing key '{key}' in {dotted(path[:-1])}{about}", "missing")


def lowered(sentence: str) -> str:
    """Return a sentence as the end of a message."""
    return f"{sentence[:1].lower()}{sentence[1:].rstrip('.')}"


def help_text(cls: type, key: str) -> str:
    """Return the text under a field of a class made with ``options``, on one line."""
    from pydantic import PydanticUserError, TypeAdapter

    try:
        schema = TypeAdapter(cls).json_schema()
    except PydanticUserError:  # a type that JSON schema cannot express
        return ""
    text = schema.get("properties", {}).get(key, {}).get("description", "")
    return " ".join(str(text).split())


def _wrong(
    path: KeyPath, group: Sequence[ErrorDetails], root: Node, variants: Mapping[str, type]
) -> Finding:
    node = root.find(path)
    value = node.data() if node else None
    label = dotted(path)
    first = group[0]
    if first["type"] in {"value_error", "assertion_error"}:
        return Finding(path, f"{label}: {first.get('ctx', {}).get('error', first['msg'])}")
    if first["type"] == _NO_TAG:
        return Finding(path, f"missing key 'name' in {label}", "missing")
    if first["type"] == "union_tag_invalid":
        context = first.get("ctx", {})
        choices = re.findall(r"'([^']*)'", str(context.get("expected_tags", "")))
        got = str(context.get("tag"))
        message = f"{label}.name: expected {one_of(choices)}, got {show(got)}"
        return Finding((*path, "name"), message + did_you_mean(got, choices))
    if first["type"] == "too_long" and isinstance(value, list):
        return Finding(path, f"{label}: expected {_expected(first)[0]}, got {len(value)}")
    if first["type"] == "too_short" and isinstance(value, list):
        return Finding(path, f"{label}: expected {_expected(first)[0]}, got {len(value)}")
    expected: list[str] = []
    choices = []
    for error in group:
        words, some = _expected(error)
        expected += [word for word in (some or [words]) if word not in expected]
        choices += some
    message = f"{label}: expected {one_of(expected)}, got {show(value)}"
    if isinstance(value, str):
        message += did_you_mean(value, choices) or _type_hint(first["type"], value)
        if value in variants:
            message += f"; write {{name: {value}}}"
    elif first["type"] == "string_type" and node is not None and node.text:
        message += _quoted(path, node)
    return Finding(path, message)


def _quoted(path: KeyPath, node: Node) -> str:
    """Say how to write a text that was read as something else."""
    if node.origin.source.startswith("--set "):
        return f"; as a text, write {as_text(dotted(path), node.text)}"
    return "" if node.value is None else f"; quote it: '{node.text}'"


def _type_hint(kind: str, value: str) -> str:
    """Explain text that looks like another type."""
    if kind == "bool_type" and value.lower() in {"yes", "on", "y"}:
        return "; write true"
    if kind == "bool_type" and value.lower() in {"no", "off", "n"}:
        return "; write false"
    if kind in {"int_type", "float_type"}:
        convert: Callable[[str], Any] = int if kind == "int_type" else float
        try:
            return f"; write {convert(value)} without quotes"
        except ValueError:
            return ""
    return ""


def _expected(error: ErrorDetails) -> tuple[str, list[str]]:
    """Return what an error asks for, and the choices where it is one of some."""
    kind, context = error["type"], error.get("ctx", {})
    if kind in _TYPES:
        return _TYPES[kind], []
    if kind in _BOUNDS:
        key, words = _BOUNDS[kind]
        bound = context.get(key)
        return words.format(f"{bound:g}" if isinstance(bound, float) else bound), []
    if kind in {"literal_error", "enum"}:
        text = str(context.get("expected", ""))
        return text, re.findall(r"'([^']*)'", text) or [text]
    return error["msg"].removeprefix("Input should be ").strip(), []


def without_echoes(found: list[Finding]) -> list[Finding]:
    """Drop ``missing key 'x'`` where a misspelt key beside it is the one that was meant."""
    meant = {
        (finding.path[:-1], finding.message.rpartition("did you mean '")[2].rstrip("?'"))
        for finding in found
        if finding.kind == "unknown" and "did you mean" in finding.message
    }
    return [
        finding
        for finding in found
        if finding.kind != "missing" or (finding.path[:-1], finding.path[-1]) not in meant
    ]

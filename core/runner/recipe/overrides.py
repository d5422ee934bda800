"""Overrides: ``--set train.epochs=10``, and values of a program, which become such texts."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

from runner.errors import Problem, RecipeError, UsageError
from runner.recipe.phrasing import as_text, dotted, show
from runner.recipe.source import KeyPath, Node, Origin, parse, typed
from runner.recipe.tree import long_form, merge, precision_long_form


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """One assignment."""

    path: tuple[str, ...]
    value: Node

    @property
    def chooses_name(self) -> bool:
        """Whether it names a component, which replaces the component's section."""
        return len(self.path) == 1 or self.path[-1] == "name"


def as_texts(overrides: Mapping[str, object] | Sequence[str]) -> list[str]:
    """Return overrides as ``--set`` takes them.

    Args:
        overrides: Values by dotted key, such as ``{"train.epochs": 10}``, or such texts.

    Raises:
        UsageError: They are neither, or a value is of a type that recipes do not have.
    """
    if isinstance(overrides, Mapping):
        return [f"{key}={_short(value, str(key))}" for key, value in overrides.items()]
    if isinstance(overrides, str):
        raise UsageError(
            f"overrides is the text {overrides!r}; expected values by key, such as "
            '{"train.epochs": 10}'
        )
    if not isinstance(overrides, Sequence) or not all(isinstance(text, str) for text in overrides):
        raise UsageError(
            f"overrides is {overrides!r}; expected values by key, such as "
            '{"train.epochs": 10}, or texts, such as ["train.epochs=10"]'
        )
    return list(overrides)


def _short(value: object, key: str) -> str:
    """Write a value as people do: a text without quotes, unless it would become something else."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, str) and value and value == value.strip() and value[0] not in "[{\"'":
        return value if typed(value)[0] == "str" else flow(value, key)
    return flow(value, key)


def flow(value: object, key: str) -> str:
    """Write a value as YAML on one line.

    Args:
        value: ``None``, a truth value, a number, a text or a path, or lists, tuples and mappings of
            such values.
        key: Its dotted key, for errors.

    Raises:
        UsageError: It is, or holds, something else.
    """
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, Mapping):
        members = [
            f"{json.dumps(str(name))}: {flow(item, f'{key}.{name}' if key else str(name))}"
            for name, item in value.items()
        ]
        return f"{{{', '.join(members)}}}"
    if isinstance(value, (list, tuple)):
        items = [flow(item, f"{key}.{position}") for position, item in enumerate(value)]
        return f"[{', '.join(items)}]"
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
    if value is None or isinstance(value, (bool, int, float, str)):
        return json.dumps(value, ensure_ascii=False)
    single = getattr(value, "item", None)
    if single is not None and getattr(value, "ndim", None) == 0:  # a number of NumPy
        return flow(single(), key)
    raise UsageError(
        f"{key}: found a {type(value).__name__}; expected None, True or False, a number, a text, a "
        "path, or lists and mappings of these"
    )


def parse_override(text: str, problems: list[Problem]) -> Override | None:
    """Read ``a.b=value``; the value is a YAML scalar, or a list or mapping in [ ] or { }."""
    origin = Origin(f"--set {text}")
    key, equals, value = text.partition("=")
    path = tuple(part.strip() for part in key.split("."))
    if not equals or not all(path):
        problems.append(origin.problem("expected KEY=VALUE, such as train.epochs=10"))
        return None
    if path[0] == "extends":
        problems.append(origin.problem("extends works in recipe files only"))
        return None
    value = value.strip()
    if value[:1] not in {"[", "{", '"', "'"}:
        node = Node(value=typed(value)[1], origin=origin, plain=True, text=value)
        return Override(path=path, value=replace(node, key=origin))
    try:
        parsed = parse(value, origin.source, problems, line_numbers=False)
    except RecipeError as error:
        problems.extend(error.problems)
        if _goes_on(value):
            hint = f"a text that begins with {value[0]} is written {as_text(key, value)}"
            problems.append(origin.problem(hint))
        return None
    assert parsed is not None
    text = value if value[0] in "[{" else ""
    return Override(path=path, value=replace(parsed, key=origin, text=text))


def _goes_on(value: str) -> bool:
    """Return whether text follows what a bracket has begun, as in ``[old] photos``."""
    closing = {"[": "]", "{": "}"}.get(value[0], "")
    return bool(closing) and closing in value and not value.endswith(closing)


def apply(root: Node, override: Override, problems: list[Problem]) -> Node:
    """Return the tree with one value replaced, or merged where both are mappings."""
    try:
        return _set(root, (), override.path, override.value)
    except _Misfit as misfit:
        problems.append(override.value.origin.problem(str(misfit)))
        return root


class _Misfit(Exception):  # noqa: N818  never leaves this module
    """The path of an override does not fit the recipe."""


def _set(node: Node | None, done: KeyPath, todo: Sequence[str], value: Node) -> Node:
    """Return ``node`` with ``value`` at the path ``todo`` below it."""
    if not todo:
        value = long_form(done, value)
        return value if node is None else merge(node, value)
    part, rest = todo[0], todo[1:]
    if node is None or node.value is None:
        node = Node(value=() if _is_position(part) else {}, origin=value.origin, key=value.key)
    if isinstance(node.value, tuple):
        index = _index(node.value, done, part)
        old = node.value[index] if index < len(node.value) else None
        item = replace(_set(old, (*done, index), rest, value), key=None)
        return replace(node, value=(*node.value[:index], item, *node.value[index + 1 :]))
    if not isinstance(node.value, dict):
        raise _Misfit(f"{dotted(done)} is {show(node.value)}, which has no keys")
    old = node.value.get(part)
    if part == "name" and not rest and old is not None and old.value != value.value:
        # Another component replaces the options of the old one.
        return Node(value={"name": value}, origin=value.origin, key=value.key)
    if done == () and part == "precision" and rest and old is not None:
        old = precision_long_form(node).get(part)
    return replace(node, value={**node.value, part: _set(old, (*done, part), rest, value)})


def _index(items: tuple[Node, ...], done: KeyPath, part: str) -> int:
    if not _is_position(part):
        raise _Misfit(
            f"{dotted(done)} is a list; expected a position from 0 to {len(items)}, got {part!r}"
        )
    digits = part.lstrip("0") or "0"
    if len(digits) > len(str(len(items))) or int(digits) > len(items):  # int() refuses long texts
        raise _Misfit(
            f"{dotted(done)} has {len(items)} items; expected a position up to {len(items)}, "
            f"which appends one, got {digits if len(digits) < 20 else show(digits)}"
        )
    return int(digits)


def _is_position(part: str) -> bool:
    return part.isascii() and part.isdecimal()

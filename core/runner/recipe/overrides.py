"""Overrides from the command line: ``--set train.epochs=10``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, final

from runner.errors import Problem, RecipeError
from runner.recipe.phrasing import as_text, dotted, show
from runner.recipe.source import KeyPath, Node, Origin, parse, typed
from runner.recipe.tree import long_form, merge, precision_long_form

if TYPE_CHECKING:
    from collections.abc import Sequence


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

"""Operations on trees of nodes: shorthands and merging."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from runner.plugins import kinds
from runner.recipe.source import Node

if TYPE_CHECKING:
    from collections.abc import Sequence


def has_short_form(section: str) -> bool:
    """Return whether a name alone can stand for a section, or for an item of one.

    ``framework: torch`` is one. A schedule has a name, too, though it is no entry.
    """
    return section == "schedule" or kinds.of_section(section) is not None


def is_list(section: str) -> bool:
    """Return whether a section is a list of entries: ``export: [onnx]``."""
    kind = kinds.of_section(section)
    return kind is not None and kind.several


def _wrap(node: Node, key: str) -> Node:
    if not isinstance(node.value, str):
        return node
    inner = replace(node, key=node.place)
    return Node(value={key: inner}, origin=node.origin, key=node.key)


def long_form(path: Sequence[str | int], node: Node) -> Node:
    """Write out ``framework: torch`` as ``framework: {name: torch}``, also in lists of sections."""
    section = str(path[0]) if path else ""
    if len(path) == 1 and is_list(section) and isinstance(node.value, tuple):
        return replace(node, value=tuple(_wrap(item, "name") for item in node.value))
    if len(path) == (2 if is_list(section) else 1) and has_short_form(section):
        return _wrap(node, "name")
    return node


def precision_long_form(root: Node) -> Node:
    """Write out ``precision: bf16`` as ``precision: {compute: bf16}``.

    Done after merging: ``precision: fp32`` replaces a base's loss scale, as scalars do.
    """
    precision = root.get("precision")
    if precision is None or not isinstance(root.value, dict):
        return root
    return replace(root, value={**root.value, "precision": _wrap(precision, "compute")})


def merge(base: Node, over: Node) -> Node:
    """Lay ``over`` on ``base``."""
    if not isinstance(base.value, dict) or not isinstance(over.value, dict):
        return over
    old, new = base.value.get("name"), over.value.get("name")
    if old and new and old.value != new.value:
        return over
    members = dict(base.value)
    for key, node in over.value.items():
        members[key] = merge(members[key], node) if key in members else node
    return replace(over, value=members)

"""What becomes of a recipe whose framework an override changes.

Sections stay, with the keys that their entries have in the other framework too. The rest was
written for the first one, and is left out, by name where it is not the default; of a device, all
that is its own, as threads or cards of two frameworks are not the same.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING

from runner.errors import RunnerError
from runner.plugins import kinds
from runner.recipe.phrasing import dotted
from runner.recipe.validate import section_keys, sections

if TYPE_CHECKING:
    from collections.abc import Collection

    from runner.entries import Entry
    from runner.plugins.registry import Registry
    from runner.recipe.source import KeyPath, Node


def framework_of(root: Node) -> str | None:
    """Return the name of a document's framework."""
    found = root.find(("framework", "name"))
    return found.value if found and isinstance(found.value, str) else None


def adapt(
    root: Node, before: Node, given: Collection[str], registry: Registry | None
) -> tuple[Node, tuple[str, ...]]:
    """Leave out the keys that only the former framework has.

    Args:
        root: The document, with its overrides.
        before: The same without them.
        given: Sources of the overrides; what they set stays, and is an error if it is wrong.
        registry: What is installed; without it nothing is left out.

    Returns:
        The document, and what is to be said of it.
    """
    old, new = framework_of(before), framework_of(root)
    if registry is None or old is None or new is None or old == new:
        return root, ()
    was = before.get("framework")
    gone = [key for key in _members(was) if key not in _members(root.get("framework"))]
    left_out: list[KeyPath] = [("framework", key) for key in gone]
    named: list[KeyPath] = [
        ("framework", key) for key in _chosen(was, gone, "framework", old, registry)
    ]
    members = dict(_members(root))
    for section in [name for name in members if kinds.of_section(name) and name != "framework"]:
        node = members[section]
        nodes: dict[KeyPath, Node] = {(section,): node}
        if isinstance(node.value, tuple):
            nodes = {(section, position): item for position, item in enumerate(node.value)}
        kept = []
        for path, item in nodes.items():
            unknown = _unknown(item, section, new, registry)
            dropped = [key for key in unknown if _members(item)[key].origin.source not in given]
            left_out += [(*path, key) for key in dropped]
            named += [(*path, key) for key in _chosen(item, dropped, section, old, registry)]
            kept.append(_without(item, dropped))
        is_list = isinstance(node.value, tuple)
        members[section] = replace(node, value=tuple(kept)) if is_list else kept[0]
    if not left_out:
        return root, ()
    if not named:
        return replace(root, value=members), ()
    names = ", ".join(dotted(path) for path in named)
    note = f"the framework is {new} instead of {old}: left out {names}, written for {old}"
    return replace(root, value=members), (note,)


def _chosen(
    item: Node | None, keys: Collection[str], section: str, framework: str, registry: Registry
) -> list[str]:
    """Return those of some keys whose values are not the defaults of the section's entry."""
    name = item.get("name") if item else None
    try:
        entry = _entry(section, str(name.value if name else ""), framework, registry)
        defaults = {f.name: f.default for f in fields(entry.config)}
    except (RunnerError, TypeError):
        return list(keys)
    values = {key: node.data() for key, node in _members(item).items()}
    return [key for key in keys if key not in defaults or values[key] != defaults[key]]


def _entry(section: str, name: str, framework: str, registry: Registry) -> Entry:
    kind = kinds.of_section(section)
    assert kind is not None, section
    return registry.find(kind.entry, name, framework).entry


def _without(item: Node, keys: Collection[str]) -> Node:
    if not keys:
        return item
    return replace(item, value={k: v for k, v in _members(item).items() if k not in keys})


def _members(node: Node | None) -> dict[str, Node]:
    return node.value if node is not None and isinstance(node.value, dict) else {}


def _unknown(item: Node, section: str, framework: str, registry: Registry) -> list[str]:
    """Return the keys of a section that do not apply to its entry in another framework."""
    name = item.get("name")
    cls = sections()[section].cls
    if name is None or not isinstance(name.value, str) or cls is None:
        return []
    try:
        entry = _entry(section, name.value, framework, registry)
        own = {f.name for f in fields(entry.config)} if section != "device" else set()
    except (RunnerError, TypeError):
        return []  # the check of the recipe explains it
    return [key for key in _members(item) if key not in own | set(section_keys(cls))]

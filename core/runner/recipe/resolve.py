"""Recipe -> plain data and YAML that start the same run again, and where each value is from."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, final

import yaml
from pydantic_core import to_jsonable_python

from runner.plugins import kinds
from runner.recipe.environment import escape
from runner.recipe.rules import ineffective
from runner.recipe.schema import Recipe
from runner.recipe.source import DEFAULT, typed
from runner.recipe.validate import draft_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from runner.recipe.document import Document
    from runner.recipe.source import Json, KeyPath, Origin

_WIDTH = 96


def resolved(recipe: Recipe) -> dict[str, Json]:
    """Return all sections with their defaults, an entry's options beside the section's own keys.

    Keys that have no effect, such as the milestones of a cosine schedule, are left out.
    """
    data: dict[str, Any] = {}
    for item in fields(Recipe):
        value = getattr(recipe, item.name)
        if value is None:
            continue
        plain = to_jsonable_python(value)
        if kinds.of_section(item.name):
            is_list = isinstance(plain, list)
            plain = [_inline(part) for part in plain] if is_list else _inline(plain)
        data[item.name] = plain
    values = {item.name: getattr(recipe, item.name) for item in fields(Recipe)}
    for path, _ in ineffective(draft_of(values)):
        section: Any = data
        for part in path[:-1]:
            section = section.get(part, {})
        section.pop(path[-1], None)
    return data


def _inline(section: dict[str, Any]) -> dict[str, Any]:
    options = section.pop("options")
    return {**section, **options}


def dump(recipe: Recipe) -> str:
    """Return YAML that gives an equal recipe when it is read again."""
    return as_yaml(resolved(recipe))


def as_yaml(data: Json) -> str:
    """Return YAML that gives the same data when it is read as a recipe."""
    return yaml.dump(
        _escaped(data),
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        width=_WIDTH,
    )


def _escaped(value: Json) -> Json:
    if isinstance(value, dict):
        return {key: _escaped(member) for key, member in value.items()}
    if isinstance(value, list):
        return [_escaped(item) for item in value]
    return escape(value) if isinstance(value, str) else value


def origins(document: Document, recipe: Recipe) -> dict[KeyPath, Origin]:
    """Return where each value of the resolved recipe comes from, lists of scalars as one value."""
    found: dict[KeyPath, Origin] = {}

    def visit(value: Json, path: KeyPath) -> None:
        if isinstance(value, dict) and value:
            for key, member in value.items():
                visit(member, (*path, key))
        elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
            for index, item in enumerate(value):
                visit(item, (*path, index))
        else:
            node = document.root.find(path)
            written = node is not None and (node.value is not None or value is None)
            found[path] = document.origin(path) if written else DEFAULT

    visit(resolved(recipe), ())
    return found


@final
class _Dumper(yaml.SafeDumper):
    """Writes short items on one line, and quotes what YAML 1.1 or 1.2 would not read as text."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002  PyYAML names it
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        style = None if typed(data)[0] == "str" else "'"
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)

    def represent_list(self, data: Iterable[Any]) -> yaml.SequenceNode:
        data = list(data)
        flow = not any(isinstance(item, (dict, list)) for item in data)
        node = self.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=flow)
        for item, raw in zip(data, node.value, strict=True):
            short = isinstance(item, dict) and len(str(item)) < _WIDTH
            if short and not any(isinstance(member, dict) for member in item.values()):
                raw.flow_style = True
        return node


_Dumper.add_representer(str, _Dumper.represent_str)
_Dumper.add_representer(list, _Dumper.represent_list)

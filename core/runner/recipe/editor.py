"""The JSON schema of recipes, which editors use to complete and check them."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, final

from pydantic import ConfigDict, PydanticUserError, TypeAdapter

from runner.plugins import kinds
from runner.recipe.schema import Recipe
from runner.recipe.tree import has_short_form
from runner.recipe.validate import section_keys, sections

if TYPE_CHECKING:
    from runner.entries import Entry
    from runner.plugins.registry import Registered, Registry
    from runner.recipe.source import Json

_TEMPLATE = "#/$defs/{model}"


def json_schema(registry: Registry) -> dict[str, Json]:
    """Return one schema for recipe files with the entries that are registered.

    A file with ``extends`` may leave out what its bases give, so only files without it are
    required to be complete.
    """
    builder = _Builder(registry)
    known = sections()
    text = {"type": "string", "minLength": 1}
    properties: dict[str, Any] = {
        "extends": {
            "description": "Recipes to start from: files beside this one, or names.",
            "anyOf": [text, {"type": "array", "items": text}],
        }
    }
    help_texts = TypeAdapter(Recipe).json_schema()["properties"]
    for name, section in known.items():
        if section.cls is None:
            schema = builder.schema(section.type, config=ConfigDict(strict=True))
            about = help_texts[name].get("description")
            properties[name] = {**schema, **({"description": about} if about else {})}
        elif section.is_list:
            items = builder.section(name, section.cls)
            properties[name] = {"type": "array", "items": items}
        else:
            properties[name] = builder.section(name, section.cls)
    required = [name for name, section in known.items() if section.required]
    whole: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Vision Runner recipe",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "anyOf": [{"required": required}, {"required": ["extends"]}],
        "$defs": builder.definitions,
    }
    return whole


@final
class _Builder:
    """Builds the schemas of sections and collects what they share."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.definitions: dict[str, Any] = {}

    def schema(self, annotation: Any, config: ConfigDict | None = None) -> dict[str, Any]:
        """Return pydantic's schema of a type."""
        adapter: TypeAdapter[Any] = TypeAdapter(annotation, config=config)
        schema = adapter.json_schema(ref_template=_TEMPLATE)
        self.definitions |= schema.pop("$defs", {})
        return schema

    def _options(self, cls: type) -> dict[str, Any]:
        try:
            return dict(self.schema(cls).get("properties", {}))
        except PydanticUserError:  # a type that JSON schema cannot express
            return {item.name: {} for item in fields(cls)} if is_dataclass(cls) else {}

    def section(self, name: str, cls: type) -> dict[str, Any]:
        """Return the schema of a section, as a mapping or as the name it stands for."""
        schema = self.schema(cls)
        schema.pop("required", None)  # the base may give it
        schema.pop("title", None)
        properties = schema["properties"]
        short = dict(properties["name"]) if has_short_form(name) else None
        if name == "precision":
            short = dict(properties["compute"])
        for key in set(properties) - {"name"}:
            properties[key] = _or_null(properties[key])
        kind = kinds.of_section(name)
        if kind:
            self._add_entries(schema, cls, self.registry.entries(kind.entry))
            if short:
                short = dict(properties["name"])
        forms: list[dict[str, Any]] = [schema]
        if short:
            short.pop("title", None)
            short.pop("default", None)
            forms.insert(0, short)
        if name in {"optimizer", "train"} or name not in _required():
            forms.append({"type": "null"})
        about = schema.pop("description", "")
        return {"description": about, "anyOf": forms}

    def _add_entries(
        self, schema: dict[str, Any], cls: type, entries: tuple[Registered[Entry], ...]
    ) -> None:
        """Let a section hold the options of the entry that it names."""
        properties = schema["properties"]
        properties.pop("options")
        if not entries:
            schema["not"] = {}  # there is nothing that it could name
            return
        own = section_keys(cls)
        by_name: dict[str, list[dict[str, Any]]] = {}
        choices = {}
        for registered in entries:
            entry = registered.entry
            options = self._options(entry.config)
            by_name.setdefault(entry.name, []).append(options)
            choices[entry.name] = entry.summary
        about = properties["name"].get("description", "")
        properties["name"] = {
            "description": about,
            "anyOf": [{"const": name, "description": summary} for name, summary in choices.items()],
        }
        schema["allOf"] = [
            {
                "if": {"properties": {"name": {"const": name}}, "required": ["name"]},
                "then": _one_of([_branch(own, options) for options in variants]),
            }
            for name, variants in by_name.items()
        ]
        # Keys are checked by the branch of the name; a section without a name takes any option.
        union = {key for variants in by_name.values() for options in variants for key in options}
        schema.pop("additionalProperties", None)
        schema["propertyNames"] = {"enum": sorted({*own, *union})}


def _branch(own: tuple[str, ...], options: dict[str, Any]) -> dict[str, Any]:
    return {"properties": options, "propertyNames": {"enum": [*own, *options]}}


def _one_of(variants: list[dict[str, Any]]) -> dict[str, Any]:
    unique = [variant for i, variant in enumerate(variants) if variant not in variants[:i]]
    return unique[0] if len(unique) == 1 else {"anyOf": unique}


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Let a key be null, which takes back what a base says."""
    if "enum" in schema:
        return {**schema, "enum": [*schema["enum"], None], "type": ["string", "null"]}
    if isinstance(schema.get("type"), str):
        return {**schema, "type": [schema["type"], "null"]}
    kinds = schema.get("anyOf", [])
    return schema if {"type": "null"} in kinds else {**schema, "anyOf": [*kinds, {"type": "null"}]}


def _required() -> set[str]:
    return {name for name, section in sections().items() if section.required}

"""Document -> Recipe: names, keys, types and rules, with every problem at once."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import MISSING, dataclass, field, fields, replace
from functools import cache
from types import UnionType
from typing import TYPE_CHECKING, Any, Union, final, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

from runner.data.transforms import options as transforms
from runner.entries import ConverterEntry, FrameworkEntry
from runner.errors import PluginError, RecipeError, RunnerError
from runner.plugins import kinds
from runner.recipe import log_files, raw_bytes
from runner.recipe.key_errors import Checked, Finding, explain, help_text, lowered, without_echoes
from runner.recipe.phrasing import did_you_mean, dotted, show, shown_path
from runner.recipe.rules import Draft, broken, ineffective
from runner.recipe.schema import ExportSection, Recipe
from runner.terminal import display

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runner.entries import Entry
    from runner.errors import Problem
    from runner.plugins.kinds import Kind
    from runner.plugins.registry import Registered, Registry
    from runner.recipe.document import Document
    from runner.recipe.source import Json, KeyPath, Node

VARIANTS: dict[str, type] = {
    get_args(get_type_hints(cls)["name"])[0]: cls
    for cls in get_args(get_args(transforms.Transform)[0])
}
"""Classes of transforms by name."""

PROSE: tuple[KeyPath, ...] = (("summary",), ("note",))
"""Keys of texts for people, which may have several lines."""

LISTED = 50
"""Errors of one kind that are listed; explaining thousands takes minutes, and nobody reads them."""

_UNIONS = (Union, UnionType)


def validate(document: Document, registry: Registry) -> Recipe:
    """Check a document and return the recipe it describes.

    Raises:
        RecipeError: Everything that is wrong with it, in the order of the files.
        PluginError: The options class of an entry cannot be used.
    """
    check = _Check(document, registry)
    recipe = check.recipe()
    problems = sorted(check.problems(), key=check.position)
    if recipe is None and not problems:
        # Values were left open on purpose, but the recipe cannot be built without one of them.
        problems = sorted((variable.problem() for variable in document.unset), key=check.position)
    if problems or recipe is None:
        raise RecipeError(list(dict.fromkeys(problems)))
    return recipe


@final
@dataclass(frozen=True, slots=True)
class _Section:
    """A field of ``Recipe``."""

    name: str
    type: Any
    """The annotation."""
    cls: type | None
    """The class of the section, or of the items of a list of sections."""
    is_list: bool
    required: bool


@cache
def _adapter(annotation: Any, *, strict: bool = False) -> TypeAdapter[Any]:
    """Return pydantic's validator of a type; making one costs milliseconds."""
    return TypeAdapter(annotation, config=ConfigDict(strict=True) if strict else None)


@cache
def sections() -> dict[str, _Section]:
    """Return the sections of a recipe in their order."""
    hints = get_type_hints(Recipe, include_extras=True)
    found = {}
    for item in fields(Recipe):
        hint = hints[item.name]
        is_list = get_origin(hint) is list
        inner = get_args(hint) if is_list or get_origin(hint) in _UNIONS else (hint,)
        cls = next((cls for cls in inner if dataclasses.is_dataclass(cls)), None)
        required = item.default is MISSING and item.default_factory is MISSING
        found[item.name] = _Section(
            item.name, hint, cls if isinstance(cls, type) else None, is_list, required
        )
    return found


def section_keys(cls: type) -> tuple[str, ...]:
    """Return the keys of a section that are not an entry's own."""
    return tuple(item.name for item in fields(cls) if item.name != "options")


@final
@dataclass
class _Check:
    """The state of one validation."""

    document: Document
    registry: Registry
    found: list[Finding] = field(default_factory=list)
    framework: str | None = None
    non_finite: set[KeyPath] = field(default_factory=set)

    def recipe(self) -> Recipe | None:
        """Check everything; ``None`` unless all of it is right."""
        root, known = self.document.root, sections()
        assert isinstance(root.value, dict)
        self._check_scalars(root, ())
        values: dict[str, Any] = {}
        failed: set[str] = set()
        unknown = [name for name in root.value if name not in known]
        self.found += [_unknown_section(name, known) for name in unknown[:LISTED]]
        if len(unknown) > LISTED:
            message = f"{len(unknown) - LISTED} more unknown sections, from here on"
            self.found.append(Finding((unknown[LISTED],), message, "unknown"))
        for name, section in known.items():
            member = root.value.get(name)
            if member is None or member.value is None:
                if section.required:
                    self.found.append(_missing_section(section))
                    failed.add(name)
                continue
            before = len(self.found)
            values[name] = self._section(section, member)
            missing = values[name] is None or (section.is_list and None in values[name])
            if len(self.found) > before or missing:
                failed.add(name)
        self._rules(values, failed)
        return None if failed or self.found else Recipe(**values)

    def problems(self) -> list[Problem]:
        """Return the findings with their places, and what ``compose`` had found."""
        unset = {variable.path for variable in self.document.unset}
        placed = [
            self._place(finding).problem(finding.message)
            for finding in without_echoes(self.found)
            if finding.path not in unset
        ]
        return [*self.document.problems, *placed]

    def position(self, problem: Problem) -> tuple[int, int, int]:
        """Order problems: the recipe that was asked for, its bases, overrides."""
        files = [shown_path(path) for path in reversed(self.document.files)]
        index = files.index(problem.file) if problem.file in files else len(files)
        return index, problem.line, problem.column

    def _place(self, finding: Finding) -> Any:
        root, path = self.document.root, finding.path
        if finding.kind == "missing":
            path = path[:-1] if root.find(path) is None else path
        node = root.find(path)
        while node is None:
            path = path[:-1]
            node = root.find(path)
        return node.origin if finding.kind == "value" else node.place

    def _section(self, section: _Section, node: Node) -> Any:
        """Check one section; what it returns is only used when nothing was found."""
        path: KeyPath = (section.name,)
        if section.cls is None:
            return self._value(section, node)
        if not section.is_list:
            return self._mapping(section.cls, path, node, kinds.of_section(section.name))
        if not isinstance(node.value, tuple):
            message = f"{section.name}: expected a list, got {show(node.data())}"
            self.found.append(Finding(path, message))
            return None
        kind = kinds.of_section(section.name)
        return [
            self._mapping(section.cls, (*path, index), item, kind)
            for index, item in enumerate(node.value)
        ]

    def _value(self, section: _Section, node: Node) -> Any:
        adapter = _adapter(section.type, strict=True)
        part = Checked(path=(section.name,), cls=Recipe, keys=())
        return self._run(adapter, node.data(), part)

    def _mapping(self, cls: type, path: KeyPath, node: Node, kind: Kind | None) -> Any:
        if not isinstance(node.value, dict):
            message = f"{dotted(path)}: expected a mapping of keys, got {show(node.data())}"
            self.found.append(Finding(path, message))
            return None
        own = section_keys(cls)
        data = {key: member.data() for key, member in node.value.items()}
        # null stands for the default, which lets a recipe take back a key of its base.
        core: dict[str, Json] = {
            key: value for key, value in data.items() if value is not None and key in own
        }
        rest = {key: value for key, value in data.items() if key not in own}
        if kind is None:
            core |= rest
            return self._run(_adapter(cls), core, Checked(path=path, cls=cls, keys=own))
        section = self._run(_adapter(cls), core, Checked(path=path, cls=cls, keys=own))
        entry = self._entry(kind, path, core.get("name"))
        if entry is None:
            return None
        if isinstance(section, ExportSection):
            self._limit(section, entry.entry, path)
        options = self._options(entry, path, rest, own)
        return replace(section, options=options) if section is not None else None

    def _entry(self, kind: Kind, path: KeyPath, name: Json) -> Registered[Entry] | None:
        """Find the entry that a section names; without a framework, none can be found."""
        if not isinstance(name, str) or (
            kind.entry is not FrameworkEntry and self.framework is None
        ):
            return None
        try:
            found = self.registry.find(kind.entry, name, self.framework)
        except RunnerError as error:
            self.found.append(Finding((*path, "name"), str(error)))
            return None
        if kind.entry is FrameworkEntry:
            self.framework = name
        return found

    def _limit(self, section: ExportSection, entry: Entry, path: KeyPath) -> None:
        """Refuse a limit for the accuracy that a conversion loses where none is compared."""
        if section.max_top1_drop is None:
            return
        if not isinstance(entry, ConverterEntry):
            reason = f"on {section.name}, which does not convert another artifact"
        elif not section.evaluate:
            reason = "with evaluate: false"
        else:
            return
        key = (*path, "max_top1_drop")
        self.found.append(Finding(key, f"{dotted(key)} has no effect {reason}; remove it", "rule"))

    def _options(
        self, entry: Registered[Entry], path: KeyPath, data: dict[str, Json], own: tuple[str, ...]
    ) -> Any:
        cls = entry.entry.config
        owner = f"{path[0]} '{entry.entry.name}'"
        origin = f"{owner} of plugin {entry.plugin.name} {entry.plugin.version}"
        try:
            adapter = _adapter(cls)
            keys = tuple(item.name for item in fields(cls))
        except (PydanticUserError, NameError, TypeError) as error:
            message = f"the options of {origin} cannot be read: {error}"
            raise PluginError(f"{message}; make the class with runner.options") from error
        clash = sorted(set(keys) & {*own, "options"})
        if clash:
            message = f"{origin} has the option '{clash[0]}', which is a key of every"
            raise PluginError(f"{message} section `{path[0]}`; the plugin must rename it")
        part = Checked(path=path, cls=cls, keys=(*own, *keys), owner=owner)
        return self._run(adapter, data, part)

    def _run(self, adapter: TypeAdapter[Any], data: Json, part: Checked) -> Any:
        try:
            # JSON mode takes lists for tuples and stays strict about everything else.
            if raw_bytes.has_raw(data):
                return raw_bytes.restore(adapter.validate_json(json.dumps(raw_bytes.hide(data))))
            return adapter.validate_json(json.dumps(data))
        except ValidationError as error:
            errors = error.errors(include_url=False)
            if self.found and errors[0]["type"] == "json_invalid":
                return None  # the text that no JSON can hold was found in _check_text
            found = explain(errors[:LISTED], part, self.document.root, VARIANTS)
            if len(errors) > LISTED:
                message = f"{dotted(part.path)}: {len(errors) - LISTED} more errors"
                found.append(Finding(part.path, message, "rule"))
            self.found += [
                finding
                for finding in found
                if finding.kind != "value" or finding.path not in self.non_finite
            ]
            return None

    def _check_scalars(self, node: Node, path: KeyPath) -> None:
        if isinstance(node.value, dict):
            for key, member in node.value.items():
                self._check_scalars(member, (*path, key))
        elif isinstance(node.value, tuple):
            for index, item in enumerate(node.value):
                self._check_scalars(item, (*path, index))
        elif isinstance(node.value, str):
            self._check_text(node.value, path)
        elif isinstance(node.value, float) and not math.isfinite(node.value):
            message = f"{dotted(path)}: expected a finite number, got {show(node.value)}"
            self.found.append(Finding(path, message))
            self.non_finite.add(path)

    def _check_text(self, text: str, path: KeyPath) -> None:
        """Refuse what would break a line of a script or of a list, or steer a terminal."""
        half = raw_bytes.lone_half(text)
        if half:
            message = f"{dotted(path)}: expected text, got {half}, which is half a character"
            self.found.append(Finding(path, f"{message}; remove it, or write the whole one"))
        letter = display.first_control(text, prose=path[-1:] in PROSE)
        if letter:
            message = (
                f"{dotted(path)}: holds the control character {letter}; expected a text of one "
                "line without any, so rename what has it in its name, or link to it"
                if letter != "\\r"
                else f"{dotted(path)}: holds a carriage return (\\r), with which lines end in "
                "files of Windows, such as a .env; remove it there: sed -i 's/\\r$//' FILE"
            )
            self.found.append(Finding(path, message, "value"))

    def _rules(self, values: Mapping[str, Any], failed: set[str]) -> None:
        root = self.document.root
        draft = draft_of(values, failed)
        for path, message in broken(draft):
            self.found.append(Finding(path, message, "value" if len(path) > 1 else "rule"))
        self.found += [
            Finding(path, message, "value")
            for path, message in log_files.unusable(values.get("loggers") or ())
        ]
        for path, reason in ineffective(draft):
            node = root.find(path)
            if node is None or node.value in (None, ()):
                continue
            inherited = node.origin.source != shown_path(self.document.path)
            fix = f"switch it off with `{path[-1]}: null`" if inherited else "remove it"
            message = f"{dotted(path)} has no effect {reason}; {fix}"
            self.found.append(Finding(path, message, "rule"))


def draft_of(values: Mapping[str, Any], failed: set[str] | frozenset[str] = frozenset()) -> Draft:
    """Return what rules look at, given the sections of a recipe that are right."""

    def section(name: str) -> Any:
        if name in failed:
            return None
        item = next(item for item in fields(Recipe) if item.name == name)
        default = None if item.default is MISSING else item.default
        return values.get(name, default)

    return Draft(
        trains="train" in failed or values.get("train") is not None,
        optimizes="optimizer" in failed or values.get("optimizer") is not None,
        precision=section("precision"),
        transforms=section("transforms"),
        loader=section("loader"),
        loss=section("loss"),
        optimizer=section("optimizer"),
        schedule=section("schedule"),
        train=section("train"),
        throughput=section("throughput"),
        model=section("model"),
        device=section("device"),
        distributed=section("distributed"),
    )


def _unknown_section(name: str, known: Mapping[str, _Section]) -> Finding:
    message = f"unknown section '{name}'{did_you_mean(name, known)}"
    if "did you mean" not in message:
        homes = [
            section.name
            for section in known.values()
            if section.cls and not section.is_list and name in section_keys(section.cls)
        ]
        if homes:
            message += f"; it is a key of {' and '.join(homes)}"
        else:
            message += f"; a recipe has {', '.join(known)}"
    return Finding((name,), message, "unknown")


def _missing_section(section: _Section) -> Finding:
    if section.cls is None:
        about = lowered(help_text(Recipe, section.name))
        return Finding(
            (section.name,), f"missing key '{section.name}': {about or 'text'}", "missing"
        )
    about = lowered((section.cls.__doc__ or "").partition("\n")[0])
    return Finding((section.name,), f"missing section '{section.name}': {about}", "missing")

"""YAML text -> a tree that knows where each value was written.

Scalars follow the core schema of YAML 1.2, which holds no surprises: ``1e-3`` is a number, ``on``,
``yes`` and ``3:25`` are text, ``010`` is ten. Only PyYAML's parser is used: no tag can make an
object.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Union, final

import yaml

from runner.errors import Problem, RecipeError
from runner.recipe.phrasing import show, shown_path
from runner.recipe.scanner import StrictLoader
from runner.recipe.syntax import explain_syntax
from runner.storage import files

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

Scalar = Union[None, bool, int, float, str]  # noqa: UP007  evaluated, and Python is 3.10
Json = Union[Scalar, list["Json"], dict[str, "Json"]]  # noqa: UP007

KeyPath = tuple[Union[str, int], ...]  # noqa: UP007
"""Keys and list positions from the top of a recipe."""

NODE_LIMIT = 30_000
"""Values in one file, aliases expanded; nested aliases could otherwise fill the memory, and PyYAML
takes seconds for more."""

DEPTH_LIMIT = 50

SIZE_LIMIT = 1 << 26
"""Bytes of one file; of more it is refused, before it takes memory."""

_TAG = "tag:yaml.org,2002:"


@final
@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value comes from."""

    source: str
    """A file, ``--set key=value``, or ``default``."""
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}" if self.line else self.source

    def problem(self, message: str) -> Problem:
        """Say what is wrong here."""
        return Problem(self.source, self.line, self.column, message)


DEFAULT = Origin("default")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A value with the places where it and its key were written."""

    value: Scalar | tuple[Node, ...] | dict[str, Node]
    origin: Origin
    key: Origin | None = None
    """Place of the key, for members of a mapping."""
    plain: bool = False
    """An unquoted scalar, whose type follows from its text."""
    text: str = ""
    """How an unquoted scalar, or a whole override, was written."""

    @property
    def place(self) -> Origin:
        """Where the member begins: its key, or its value in a list."""
        return self.key or self.origin

    def get(self, part: str | int) -> Node | None:
        """Return a member, or ``None``."""
        if isinstance(self.value, dict) and isinstance(part, str):
            return self.value.get(part)
        if isinstance(self.value, tuple) and isinstance(part, int) and part < len(self.value):
            return self.value[part]
        return None

    def find(self, path: Sequence[str | int]) -> Node | None:
        """Return the node at a path, or ``None``."""
        node: Node | None = self
        for part in path:
            if node is None:
                return None
            node = node.get(part)
        return node

    def data(self) -> Json:
        """Return the value without its origins."""
        if isinstance(self.value, dict):
            return {key: node.data() for key, node in self.value.items()}
        if isinstance(self.value, tuple):
            return [node.data() for node in self.value]
        return self.value


_SCALARS: tuple[tuple[str, re.Pattern[str], Callable[[str], Scalar]], ...] = (
    ("null", re.compile(r"null|Null|NULL|~|"), lambda _: None),
    ("bool", re.compile(r"true|True|TRUE|false|False|FALSE"), lambda text: text[0] in "tT"),
    ("int", re.compile(r"[-+]?[0-9]+"), int),
    ("int", re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+"), lambda text: int(text, 0)),
    ("float", re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"), float),
    ("float", re.compile(r"[-+]?\.(inf|Inf|INF)"), lambda text: float(text.replace(".", ""))),
    ("float", re.compile(r"\.(nan|NaN|NAN)"), lambda _: float("nan")),
)
_DIGIT_LIMIT = 1000  # int() refuses beyond 4,300 digits


def typed(text: str) -> tuple[str, Scalar]:
    """Return the type name and the value of an unquoted scalar."""
    for name, pattern, convert in _SCALARS:
        if len(text) < _DIGIT_LIMIT and pattern.fullmatch(text):
            return name, convert(text)
    return "str", text


@final
class _Loader(StrictLoader):
    """A parser that leaves untagged scalars for ``typed``."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._left = NODE_LIMIT

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._left -= 1
        if self._left < 0:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]  # of PyYAML
            message = f"more than {NODE_LIMIT:,} values"
            raise yaml.composer.ComposerError(None, None, message, mark)
        return super().compose_node(parent, index)

    def resolve(self, kind: object, value: object, implicit: object) -> str:  # noqa: ARG002
        if kind is yaml.ScalarNode:
            quoted = isinstance(implicit, tuple) and not implicit[0]
            return _TAG + "str" if quoted else "?"
        return _TAG + ("map" if kind is yaml.MappingNode else "seq")


@final
class _Reader:
    """Turns PyYAML's nodes of one file into ours and collects what is wrong."""

    def __init__(self, source: str, *, line_numbers: bool) -> None:
        self.source = source
        self.line_numbers = line_numbers
        self.problems: list[Problem] = []
        self._count = 0
        self._open: set[int] = set()

    def place(self, node: yaml.Node) -> Origin:
        if not self.line_numbers:
            return Origin(self.source)
        return Origin(self.source, node.start_mark.line + 1, node.start_mark.column + 1)

    def error(self, node: yaml.Node, message: str) -> None:
        self.problems.append(self.place(node).problem(message))

    def node(self, raw: yaml.Node) -> Node:
        """Convert a node and its members."""
        self._count += 1
        if self._count > NODE_LIMIT:
            raise RecipeError([self.place(raw).problem(f"more than {NODE_LIMIT:,} values")])
        if id(raw) in self._open:
            raise RecipeError([self.place(raw).problem("this anchor contains itself")])
        if len(self._open) > DEPTH_LIMIT:
            raise RecipeError([self.place(raw).problem("is nested too deeply")])
        self._open.add(id(raw))
        value = self._value(raw)
        self._open.discard(id(raw))
        plain = raw.tag == "?"
        text = raw.value if plain and isinstance(raw, yaml.ScalarNode) else ""
        return Node(value=value, origin=self.place(raw), plain=plain, text=text)

    def _value(self, raw: yaml.Node) -> Scalar | tuple[Node, ...] | dict[str, Node]:
        if isinstance(raw, yaml.MappingNode) and raw.tag == _TAG + "map":
            return self._mapping(raw)
        if isinstance(raw, yaml.SequenceNode) and raw.tag == _TAG + "seq":
            return tuple(self.node(item) for item in raw.value)
        if not isinstance(raw, yaml.ScalarNode):
            self.error(raw, f"the tag {_short(raw.tag)} is not allowed in a recipe; remove it")
            return None
        return typed(raw.value)[1] if raw.tag == "?" else self._tagged(raw)

    def _tagged(self, raw: yaml.ScalarNode) -> Scalar:
        text = str(raw.value)
        if raw.tag == _TAG + "str":
            return text
        name, value = typed(text)
        if raw.tag == _TAG + name:
            return value
        if raw.tag == _TAG + "float" and isinstance(value, int):
            return float(value)
        if raw.tag in {_TAG + other for other, _, _ in _SCALARS}:
            self.error(raw, f"{text!r} is not what its tag {_short(raw.tag)} says")
        else:
            self.error(raw, f"the tag {_short(raw.tag)} is not allowed in a recipe; remove it")
        return None

    def _mapping(self, raw: yaml.MappingNode) -> dict[str, Node]:
        members: dict[str, Node] = {}
        for raw_key, raw_value in raw.value:
            key = self._key(raw_key)
            if key is None:
                continue
            if key in members:
                first = members[key].place
                where = f", first at line {first.line}" if first.line else ""
                self.error(raw_key, f"the key '{key}' is given twice{where}; remove one")
                continue
            members[key] = replace(self.node(raw_value), key=self.place(raw_key))
        return members

    def _key(self, raw: yaml.Node) -> str | None:
        if not isinstance(raw, yaml.ScalarNode):
            self.error(raw, "a list or mapping cannot be a key")
            return None
        if raw.tag == "?" and raw.value == "<<":
            message = "merge keys (<<) are not part of YAML 1.2; write the keys out, or use extends"
            self.error(raw, message)
            return None
        value = typed(raw.value)[1] if raw.tag == "?" else raw.value
        if not isinstance(value, str):
            self.error(raw, f"expected a word as key, got {show(value)}; quote it if it is a name")
            return None
        return value


def _short(tag: str) -> str:
    return tag.replace(_TAG, "!!")


def parse(
    text: str, source: str, problems: list[Problem], *, line_numbers: bool = True
) -> Node | None:
    """Parse one YAML document; ``None`` when it holds nothing.

    Tags, duplicate keys and keys that are no words are added to ``problems``, so that they are
    reported together with everything else.

    Raises:
        RecipeError: The text is not YAML.
    """
    reader = _Reader(source, line_numbers=line_numbers)
    try:
        loader = _Loader(text)
        try:
            raw = loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        line, column, message = explain_syntax(error, text)
        place = Origin(source, line, column) if line_numbers else Origin(source)
        raise RecipeError([place.problem(message)]) from None
    except RecursionError:
        raise RecipeError([Problem(source, 0, 0, "is nested too deeply")]) from None
    if raw is None:
        return None
    node = reader.node(raw)
    problems.extend(reader.problems)
    return node


def read(path: Path, problems: list[Problem]) -> Node:
    """Read the mapping of sections that a recipe file holds; see ``parse`` for ``problems``.

    Raises:
        RecipeError: The file is missing, unreadable, not UTF-8, not YAML, or not a mapping.
    """
    name = shown_path(path)
    try:
        text = files.read_regular(path, SIZE_LIMIT).decode("utf-8-sig")
    except FileNotFoundError:
        problem = "there is no such file; see: runner list recipes"
        raise RecipeError([Problem(name, 0, 0, problem)]) from None
    except IsADirectoryError:
        problem = "is a folder; expected a recipe, which is one YAML file"
        raise RecipeError([Problem(name, 0, 0, problem)]) from None
    except OSError as error:
        problem = f"cannot be read: {error.strerror or error}"
        raise RecipeError([Problem(name, 0, 0, problem)]) from None
    except UnicodeDecodeError as error:
        problem = f"is not UTF-8 text (byte {error.start}); save it as UTF-8"
        raise RecipeError([Problem(name, 0, 0, problem)]) from None
    node = parse(text, name, problems)
    if node is None:
        problem = "is empty; a recipe is a mapping of sections: summary, framework, device, ..."
        raise RecipeError([Problem(name, 0, 0, problem)])
    if not isinstance(node.value, dict):
        got = show(node.data())
        problem = f"expected sections such as `framework: torch`, got {got}"
        raise RecipeError([node.origin.problem(problem)])
    return node

"""Environment variables in the text of a recipe: ``${NAME}`` and ``${NAME:-default}``."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, final

from runner.recipe.phrasing import dotted, show
from runner.recipe.source import KeyPath, Node, Origin, typed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runner.errors import Problem

_VARIABLE = re.compile(
    r"(?P<literal>\$\$\{)|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}"
    r"|(?P<broken>\$\{)"
)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class UnsetVariable:
    """An environment variable that a recipe needs and that has no value."""

    name: str
    path: KeyPath
    """Path of the value that needs it."""
    origin: Origin

    def problem(self) -> Problem:
        """Say how to give the value."""
        key = dotted(self.path)
        fix = f"export {self.name}=..."
        if self.path[0] != "extends":
            fix += f" or --set {key}=..."
        return self.origin.problem(
            f"{key}: the environment variable {self.name} is not set; set it with: {fix}"
        )


def expand_text(text: str, environ: Mapping[str, str]) -> tuple[str, list[str]]:
    """Return the text with its variables filled in, and the names of those without a value."""
    unset: list[str] = []

    def value(match: re.Match[str]) -> str:
        if match["literal"]:
            return "${"
        if match["broken"]:
            return match[0]
        found = environ.get(match["name"]) or match["default"]
        if found is None:
            unset.append(match["name"])
            return match[0]
        return found

    return _VARIABLE.sub(value, text), unset


def escape(text: str) -> str:
    """Write text so that ``expand_text`` gives it back."""
    return text.replace("${", "$${")


def expand(
    root: Node, environ: Mapping[str, str], problems: list[Problem]
) -> tuple[Node, list[UnsetVariable]]:
    """Fill in the variables of all text below ``root``.

    An unquoted value takes its type from what was filled in, so ``batch_size: ${BATCH}`` is a
    number; a quoted one stays text.
    """
    unset: list[UnsetVariable] = []

    def visit(node: Node, path: KeyPath) -> Node:
        if isinstance(node.value, dict):
            members = {key: visit(member, (*path, key)) for key, member in node.value.items()}
            return replace(node, value=members)
        if isinstance(node.value, tuple):
            items = tuple(visit(item, (*path, i)) for i, item in enumerate(node.value))
            return replace(node, value=items)
        if not isinstance(node.value, str) or "${" not in node.value:
            return node
        if any(match["broken"] for match in _VARIABLE.finditer(node.value)):
            message = (
                f"{dotted(path)}: cannot read {show(node.value)}; expected ${{NAME}} or "
                "${NAME:-default} (a plain '${' is written '$${')"
            )
            problems.append(node.origin.problem(message))
            return node
        text, names = expand_text(node.value, environ)
        unset.extend(UnsetVariable(name=name, path=path, origin=node.origin) for name in names)
        typed_again = node.plain and not names and "$${" not in node.value
        return replace(node, value=typed(text)[1] if typed_again else text)

    return visit(root, ()), unset

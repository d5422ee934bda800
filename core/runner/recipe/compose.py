"""Recipe files -> one document: ``extends``, ``--set`` and environment variables.

Files are merged from the base to the recipe that was asked for. Mappings merge key by key; lists
and scalars replace. A mapping whose ``name`` differs from the base's replaces it as a whole, so
that the options of another component never linger.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, final

from runner.entries import FrameworkEntry
from runner.errors import Problem, RecipeError, UsageError
from runner.recipe import source
from runner.recipe.catalog import find
from runner.recipe.document import Document
from runner.recipe.environment import UnsetVariable, expand, expand_text
from runner.recipe.framework_change import adapt
from runner.recipe.overrides import Override, apply, parse_override
from runner.recipe.phrasing import show, shown_path
from runner.recipe.tree import long_form, merge, precision_long_form
from runner.terminal import display

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from runner.plugins.registry import Registry
    from runner.recipe.source import Node


def compose(
    path: Path,
    overrides: Sequence[str] = (),
    *,
    environ: Mapping[str, str],
    allow_unset: bool = False,
    registry: Registry | None = None,
    read: Callable[[Path, list[Problem]], Node] = source.read,
) -> Document:
    """Read a recipe, the files it extends, the overrides and the environment.

    Args:
        path: The recipe file.
        overrides: Assignments such as ``train.epochs=10`` or ``export.0.name=onnx``.
        environ: Values of ``${NAME}`` and ``${NAME:-default}``; empty ones count as unset.
        allow_unset: Keep variables without a value as they are, and list them in ``unset``.
        registry: Where to look for recipes of plugins that ``extends`` names.
        read: Reads one file, and adds what is wrong in it to the problems.

    Raises:
        RecipeError: A file cannot be read or is not YAML, ``extends`` goes in a circle, or an
            override is not an assignment. What else is wrong is kept for ``validate``.
    """
    problems: list[Problem] = []
    letter = display.first_control(path.name)
    if letter:
        message = f"the file's name holds the control character {letter}; rename it"
        problems.append(Problem(shown_path(path), 1, 1, message))
    files = _Files(environ, registry, problems, read)
    root = files.load(path, ())
    parsed: list[Override] = []
    for text in overrides:
        override = parse_override(text, problems)
        if override:
            parsed.append(override)
    # A new name replaces its section, so names come first whatever their order was.
    before = root
    for override in sorted(parsed, key=lambda override: not override.chooses_name):
        root = apply(root, override, problems)
    given = {override.value.origin.source for override in parsed}
    root, notes = adapt(root, before, given, registry)
    root, unset = expand(precision_long_form(root), environ, problems)
    root = _without_foreign_exports(root, registry, problems)
    if not allow_unset:
        problems += [variable.problem() for variable in unset]
    return Document(
        path=path,
        files=tuple(files.order),
        root=root,
        unset=tuple(unset),
        problems=tuple(problems),
        notes=notes,
    )


def _without_foreign_exports(
    root: Node, registry: Registry | None, problems: list[Problem]
) -> Node:
    """Leave out each export that is marked as another framework's."""
    exports, own = root.get("export"), root.find(("framework", "name"))
    if not isinstance(root.value, dict) or exports is None or not isinstance(exports.value, tuple):
        return root
    kept = []
    for item in exports.value:
        marked = item.get("framework")
        if marked is None or marked.value is None or (own and marked.value == own.value):
            kept.append(item)
        elif registry is not None:
            try:
                registry.find(FrameworkEntry, str(marked.value))
            except UsageError as error:
                problems.append(marked.origin.problem(str(error)))
    return replace(root, value={**root.value, "export": replace(exports, value=tuple(kept))})


@final
class _Files:
    """Reads recipe files and the files they extend."""

    def __init__(
        self,
        environ: Mapping[str, str],
        registry: Registry | None,
        problems: list[Problem],
        read: Callable[[Path, list[Problem]], Node],
    ) -> None:
        self.environ = environ
        self.registry = registry
        self.problems = problems
        self.read = read
        self.order: list[Path] = []

    def load(self, path: Path, chain: tuple[Path, ...]) -> Node:
        """Return a file merged over its bases."""
        node = self.read(path, self.problems)
        assert isinstance(node.value, dict)
        extends = node.value.get("extends")
        own = {key: long_form((key,), member) for key, member in node.value.items()}
        own.pop("extends", None)
        merged = replace(node, value=own)
        if extends is not None:
            bases: Node | None = None
            for item in self._items(extends):
                base = self._base(path, item, (*chain, path))
                if base is not None:
                    bases = merge(bases, base) if bases else base
            merged = merge(bases, merged) if bases else merged
        if path not in self.order:
            self.order.append(path)
        return merged

    def _items(self, extends: Node) -> tuple[Node, ...]:
        items = extends.value if isinstance(extends.value, tuple) else (extends,)
        wrong = [item for item in items if not isinstance(item.value, str)]
        for item in wrong:
            message = (
                f"extends: expected a file or a recipe name, or a list, got {show(item.data())}"
            )
            self.problems.append(item.origin.problem(message))
        return tuple(item for item in items if item not in wrong)

    def _base(self, path: Path, item: Node, chain: tuple[Path, ...]) -> Node | None:
        text, unset = expand_text(str(item.value), self.environ)
        if unset:
            variable = UnsetVariable(name=unset[0], path=("extends",), origin=item.origin)
            self.problems.append(variable.problem())
            return None
        base = path.parent / text
        if not os.path.isfile(base):  # noqa: PTH113  a name that no file can have is none
            try:
                base = find(text, self.registry)
            except UsageError as error:
                message = f"extends: no file '{text}' beside this recipe: {error}"
                self.problems.append(item.origin.problem(message))
                return None
        known = [other.resolve() for other in chain]
        if base.resolve() in known:
            circle = [*chain[known.index(base.resolve()) :], base]
            names = " -> ".join(shown_path(file) for file in circle)
            raise RecipeError([item.origin.problem(f"extends goes in a circle: {names}")])
        return self.load(base, chain)

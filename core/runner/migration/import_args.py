"""Command lines of programs that a recipe replaces: ``runner import-args``."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from textwrap import indent
from typing import TYPE_CHECKING, Any, cast, final

from runner import recipe
from runner.cli.hints import TAKE_RECIPES
from runner.entries import ImporterEntry, Translation
from runner.errors import UsageError
from runner.migration.command_line import split, split_text
from runner.planning.loading import load
from runner.plugins.returns import calling, check_instance, origin
from runner.recipe.environment import escape
from runner.recipe.source import typed
from runner.storage.files import write_output
from runner.terminal import display

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from runner.plugins.registry import Registered, Registry
    from runner.recipe import Document
    from runner.recipe.source import Json


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What a command line of another program is here."""

    importer: str
    """The entry that understood it."""
    recipe: str
    """The recipe that it comes down to."""
    overrides: Mapping[str, Json]
    """What differs from that, by dotted key."""
    text: str
    """Both as a recipe file."""
    command: str
    """The command line that does the same, without a file or with the one that was written."""
    notes: tuple[str, ...]
    """What had no effect there, means something else, or is not taken over."""
    assumed: tuple[str, ...] = ()
    """What the command line does not say and was taken for granted."""


def carry_out(words: Sequence[str], *, importer: str, output: Path | None) -> Imported:
    """Translate a command line, and check that the recipe which comes of it is right.

    Args:
        words: The command line; one word is split as a shell does.
        importer: The entry to use; that which recognises the command line if empty.
        output: A file for the recipe.

    Raises:
        UsageError: Nothing understands the command line, or several entries do.
        RecipeError: What comes of it is no valid recipe.
        StorageError: The file cannot be written.
    """
    from runner.plugins import loading

    if len(words) == 1:
        words = split_text(words[0], os.environ)
    return _translate(_choose(words, importer, loading.load()), words, output)


def _translate(
    chosen: Registered[ImporterEntry], words: Sequence[str], output: Path | None
) -> Imported:
    with calling(chosen, "translate()"):
        translation = chosen.entry.translate(words)
    check_instance(translation, Translation, f"{origin(chosen)}, translate()")
    base = load(translation.recipe, allow_unset=True)
    overrides = _differences(
        translation.overrides, recipe.resolved(base.plan.recipe), base.document
    )
    load(translation.recipe, list(_sets(overrides)), allow_unset=True)
    text = _file(translation, overrides, words)
    if output:
        write_output(output, text)
    line = split(words)
    rest = line.rest if line else ()
    shell = (f"{' '.join(rest)}: is for the shell, and not taken over",) if rest else ()
    return Imported(
        importer=chosen.entry.name,
        recipe=translation.recipe,
        overrides=overrides,
        text=text,
        command=_command(translation, {} if output else overrides, output),
        notes=(*translation.notes, *shell),
        assumed=tuple(translation.assumed),
    )


def as_text(imported: Imported) -> str:
    """Write recipe, command and notes for people; everything but the recipe is a comment."""
    comments = [
        imported.command,
        *(f"warning: {note}" for note in imported.notes),
        *(f"assumed: {text}" for text in imported.assumed),
    ]
    return "\n\n".join([imported.text.rstrip(), indent("\n".join(comments), "# ")])


def _choose(words: Sequence[str], name: str, registry: Registry) -> Registered[ImporterEntry]:
    if name:
        return registry.find(ImporterEntry, name)
    known = registry.entries(ImporterEntry)
    found = [item for item in known if _recognises(item, words)]
    if len(found) == 1:
        return found[0]
    if found:
        choices = [
            f"--importer {item.entry.name}: {_translate(item, words, None).command}"
            for item in found
        ]
        raise UsageError(
            f"{display.command(words)}: {len(found)} programs have a script of this name; name its "
            "folder as well, or choose one of\n  " + "\n  ".join(choices)
        )
    understood = "; ".join(f"{item.entry.name} ({item.entry.summary})" for item in known)
    raise UsageError(
        f"{display.command(words) or 'nothing'}: no script that is understood; there are importers "
        f"for: {understood or 'nothing'}; the name of a script that many have is no evidence: if "
        "it is one of these, name its folder, or say so with --importer"
    )


def _recognises(item: Registered[ImporterEntry], words: Sequence[str]) -> bool:
    with calling(item, "recognises()"):
        return item.entry.recognises(words)


def _differences(
    overrides: Mapping[str, Json], base: Mapping[str, Json], document: Document
) -> dict[str, Json]:
    """Leave out what the recipe says anyway.

    A section that names another component is replaced as a whole, so that what is meant of it
    stays.
    """
    renamed = {
        key.partition(".")[0]
        for key, value in overrides.items()
        if key.endswith(".name") and value != _value(base, key)
    }
    kept = {}
    for key, value in overrides.items():
        node = document.root.find(tuple(key.split(".")))
        if value is None:
            differs = node is not None and node.value is not None
        else:
            differs = key.partition(".")[0] in renamed or value != _value(base, key)
        if differs:
            kept[key] = value
    return kept


def _value(base: Mapping[str, Json], key: str) -> Json:
    value: Any = base
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return cast("Json", value)


def _file(translation: Translation, overrides: Mapping[str, Json], words: Sequence[str]) -> str:
    data: dict[str, Any] = {"extends": translation.recipe}
    for key, value in overrides.items():
        *sections, last = key.split(".")
        place = data
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = value
    line = " ".join(display.command(words).split())
    return f"# What this command line does:\n#   {line}\n\n{recipe.as_yaml(data)}"


def _command(translation: Translation, overrides: Mapping[str, Json], output: Path | None) -> str:
    source = str(output) if output else translation.recipe
    names = [source] if translation.command in TAKE_RECIPES else ["--recipe", source]
    environment = [
        f"{name}={display.quote(text)}" for name, text in translation.environment.items()
    ]
    sets = [word for text in _sets(overrides) for word in ("--set", text)]
    words = ["runner", translation.command, *translation.arguments, *names, *sets]
    return " ".join([*environment, display.command(words)])


def _sets(overrides: Mapping[str, Json]) -> Iterator[str]:
    for key, value in overrides.items():
        yield f"{key}={_scalar(value)}"


def _scalar(value: Json) -> str:
    """Write a value so that ``--set`` reads it again."""
    if isinstance(value, str):
        text = escape(value)
        is_plain = typed(text)[0] == "str" and text.strip() == text and text[:1] not in "[{\"'"
        return text if text and is_plain else json.dumps(text)
    return json.dumps(value)

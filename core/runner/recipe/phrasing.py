"""The words of messages about recipes: values, choices, paths and suggestions."""

from __future__ import annotations

import difflib
import json
import os
from typing import TYPE_CHECKING

from runner.terminal import display

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path


LONGEST_WORD = 200
"""Letters of a word that is compared with choices: longer ones take seconds, and resemble none."""


def closest(word: str, choices: Iterable[str]) -> str | None:
    """Return the choice that ``word`` was probably meant to be."""
    if len(word) > LONGEST_WORD:
        return None
    by_lower = {choice.lower(): choice for choice in choices}
    found = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[found[0]] if found else None


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?``, or nothing when no choice is near."""
    match = closest(word, choices)
    return f"; did you mean '{match}'?" if match else ""


def one_of(choices: Sequence[str]) -> str:
    """Join choices as ``a, b or c``."""
    if len(choices) < 2:
        return "".join(choices)
    return f"{', '.join(choices[:-1])} or {choices[-1]}"


def dotted(path: Sequence[str | int]) -> str:
    """Write a path as ``--set`` takes it, such as ``transforms.train.0.size``."""
    return ".".join(str(part) for part in path)


def show(value: object) -> str:
    """Describe a received value in a few words, the way a recipe spells it."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else value[:57] + "...")
    if isinstance(value, (list, dict)):
        kind = "list" if isinstance(value, list) else "mapping"
        return f"a {kind}" if value else f"an empty {kind}"
    text = str(value)
    return text.replace("inf", ".inf").replace("nan", ".nan") if isinstance(value, float) else text


def shown_path(path: Path) -> str:
    """Write a file relative to the working directory where it lies below it."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def as_text(key: str, value: str) -> str:
    """Return the option that sets a key to a text which looks like something else."""
    return display.command(["--set", f"{key}={json.dumps(value, ensure_ascii=False)}"])

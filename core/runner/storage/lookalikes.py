"""Names that look the same to people and are not: what differs, and how to make them one."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def alike(name: str, others: Iterable[str]) -> str:
    """Say which of ``others`` looks like ``name``, and what differs; "" if none does."""
    composed = _composed(name)
    folded = composed.casefold()
    for other in others:
        if other == name:
            continue
        if _composed(other) == composed:
            return _composition(name, other)
        if _composed(other).casefold() == folded:
            return f"{other!r} differs from {name!r} in upper and lower case only"
        if _squeezed(other) == _squeezed(name):
            return f"{other!r} differs from {name!r} in spaces only, which YAML keeps in quotes"
    return ""


def same_looking(missing: Iterable[str], there: Sequence[str]) -> str:
    """Say that names of one side are those of the other in disguise; "" if they are not."""
    return next((f"; {text}" for text in (alike(name, there) for name in missing) if text), "")


def twins(names: Iterable[str]) -> str:
    """Say which two of different names look the same; "" if none do."""
    first: dict[str, str] = {}
    for name in names:
        if not name.isascii() and first.setdefault(_composed(name), name) != name:
            return _composition(name, first[_composed(name)])
    return ""


def _composition(name: str, other: str) -> str:
    first = next(
        (one, two) for one, two in zip(_letters(name), _letters(other), strict=False) if one != two
    )
    one, two = (" ".join(f"U+{ord(sign):04X}" for sign in letter) for letter in first)
    return (
        f"{name!r} is there under a name that looks the same: {first[0]!r} is {one} in one and "
        f"{two} in the other (Unicode NFC and NFD, as macOS and its archives write them); give "
        "both one form, with `convmv -f utf8 -t utf8 --nfc -r --notest FOLDER` for files, or "
        "`uconv -x nfc` for lists"
    )


def _letters(name: str) -> list[str]:
    """Split a name into letters, each with its combining signs."""
    letters: list[str] = []
    for sign in name:
        if letters and unicodedata.combining(sign):
            letters[-1] += sign
        else:
            letters.append(sign)
    return letters


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _squeezed(name: str) -> str:
    return "".join(name.split())

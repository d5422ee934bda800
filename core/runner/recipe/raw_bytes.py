"""Values of a recipe that hold bytes which are no text, such as the name of a folder in GBK.

Python keeps such bytes of a name as lone surrogates, which JSON and pydantic refuse. While a value
is checked, each is a character that nobody uses.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from runner.recipe.source import Json

T = TypeVar("T")

_HIDDEN = {0xDC00 + byte: 0x10FF00 + byte for byte in range(0x80, 0x100)}
_SHOWN = {hidden: raw for raw, hidden in _HIDDEN.items()}


def has_raw(data: Json) -> bool:
    """Return whether there are such bytes in any text."""
    if isinstance(data, dict):
        return any(map(has_raw, data)) or any(map(has_raw, data.values()))
    if isinstance(data, list):
        return any(map(has_raw, data))
    return isinstance(data, str) and any(0xDC80 <= ord(letter) <= 0xDCFF for letter in data)


def lone_half(text: str) -> str:
    """Return the first surrogate that stands for no byte, as an escape; "" if there is none."""
    halves = (ord(letter) for letter in text if 0xD800 <= ord(letter) <= 0xDFFF)
    return next((f"\\u{code:04x}" for code in halves if code not in _HIDDEN), "")


def hide(data: Json) -> Json:
    """Return the same with each such byte as a private character."""
    hidden: Json = _translated(data, _HIDDEN)
    return hidden


def restore(value: T) -> T:
    """Return what came of ``hide`` with the bytes in it again, dataclasses included."""
    restored: T = _translated(value, _SHOWN)
    return restored


def _translated(value: Any, table: dict[int, int]) -> Any:
    if isinstance(value, str):
        return value.translate(table)
    if isinstance(value, (list, tuple)):
        return type(value)(_translated(item, table) for item in value)
    if isinstance(value, dict):
        return {_translated(key, table): _translated(item, table) for key, item in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        changed = {
            item.name: _translated(getattr(value, item.name), table) for item in fields(value)
        }
        return replace(value, **changed)
    return value

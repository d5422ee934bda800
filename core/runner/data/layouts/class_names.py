"""Text files with one class name a line, in the order of the labels, and what is wrong with one."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from runner.data.layouts.label_file import shortened, text_lines
from runner.errors import DataError
from runner.terminal.display import counted

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_EXPECTED = "expected one name per line, in label order"
_JSON = re.compile(r'[\[{](\s*"|\s*$)')
"""How JSON begins; a name such as ``[misc]`` does not."""
_HEADERS = frozenset(
    f"{word}{end}" for word in ("class", "name", "label", "class_name") for end in ("", "s", "es")
)
_NUMBER_FIRST = re.compile(r"(?P<number>\d{1,9})[\s,;:]+(?P<name>\S.*)", re.ASCII)
_NUMBER_LAST = re.compile(r"(?P<name>.*\S)[\s,;:]+(?P<number>\d{1,9})", re.ASCII)


def read_class_names(file: Path, setting: str) -> list[str]:
    """Read the names of all classes.

    Lines may number themselves where that agrees with their order; the number is part of the name.

    Args:
        file: One name a line; empty lines are left out.
        setting: The recipe key that names the file, in errors; "" if it is no key of a recipe.

    Raises:
        DataError: The file is missing or empty, is JSON, has a name twice, or its lines number
            themselves in another order.
    """
    lines = list(text_lines(file, setting))
    if not lines:
        raise DataError(f"{file} is empty, {_EXPECTED}")
    number, first = lines[0]
    if _JSON.match(first):
        raise DataError(
            f"{file}:{number}: found {shortened(first)!r}, {_EXPECTED}; this seems to be JSON"
        )
    _check_distinct(lines, file)
    for pattern in (_NUMBER_FIRST, _NUMBER_LAST):
        _check_order(lines, pattern, file)
    return [name for _, name in lines]


def check_no_header(names: Sequence[str], count: int, file: Path) -> None:
    """Refuse a header, which would shift every name by one.

    Args:
        names: The names of the file.
        count: Classes that the labels speak of.
        file: The file of names.

    Raises:
        DataError: There is one name more than classes, and the first is the word of a header.
    """
    if len(names) == count + 1 and names[0].lower() in _HEADERS:
        number, found = next(text_lines(file, ""))
        raise DataError(
            f"{file}:{number}: found {found!r} and {counted(count, 'more name')} for as many "
            f"labels, {_EXPECTED}; this seems to be a header, remove the line"
        )


def line_of_name(file: Path, label: int) -> int:
    """Return the number of the line that names a class, by its position among the names."""
    return [number for number, _ in text_lines(file, "")][label]


def _check_distinct(lines: Sequence[tuple[int, str]], file: Path) -> None:
    first: dict[str, int] = {}
    for number, name in lines:
        if first.setdefault(name, number) != number:
            raise DataError(
                f"{file}:{number}: has {shortened(name)!r} more than once, first in line "
                f"{first[name]}; {_EXPECTED}"
            )


def _check_order(lines: Sequence[tuple[int, str]], pattern: re.Pattern[str], file: Path) -> None:
    """Refuse lines that give each name its label, in another order than theirs."""
    found = [match for _, line in lines if (match := pattern.fullmatch(line))]
    if len(found) < len(lines) or len({match["name"] for match in found}) < len(lines):
        return  # not all are numbered, or the number is the name, as in "digit 1"
    numbers = [int(match["number"]) for match in found]
    start = min(numbers)
    if start > 1 or sorted(numbers) != list(range(start, start + len(numbers))):
        return
    for place, ((number, line), given) in enumerate(zip(lines, numbers, strict=True), start):
        if given != place:
            raise DataError(
                f"{file}:{number}: found {shortened(line)!r}, but this line names label {place}; "
                f"{_EXPECTED}: sort the lines by their numbers"
            )

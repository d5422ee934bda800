"""Text files with a line ``<path> <label>`` for each image, and what is wrong with a line."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING

from runner.data.layouts.images import IMAGE_ENDINGS
from runner.data.size_limits import MAX_LIST
from runner.errors import DataError
from runner.storage import files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_MOST_DIGITS = 18
"""Of a label: what 64 bits hold."""
_COMMA_TO_SPACE = r"sed -i -E 's/,[[:space:]]*([0-9]+)[[:space:]]*$/ \1/' FILE"
_LABEL_TO_THE_END = r"sed -i -E 's/^([0-9]+)[[:space:]]+(.*)$/\2 \1/' FILE"
Labelled = tuple[list[str], list[int]]
"""Paths and their labels, in the order of the file."""


def read_list(file: Path, setting: str) -> Labelled:
    """Read lines of ``<path> <label>``; the path may hold spaces, empty lines are left out.

    Between both are spaces or tabs. A ``./`` in front of a path is dropped.

    Args:
        file: The list.
        setting: The recipe key or option that names it, in errors.

    Raises:
        DataError: The file is missing, empty, or has a malformed line, which is named.
    """
    paths: list[str] = []
    labels: list[int] = []
    for number, line in text_lines(file, setting):
        path, label = line.rsplit(None, 1) if " " in line or "\t" in line else ("", "")
        if not _is_label(label) or _is_odd(path):
            raise DataError(f"{file}:{number}: found {shortened(line)!r}, {_cause(line, number)}")
        paths.append(_plain(path) if "./" in path or "//" in path else path)
        labels.append(int(label))
    if not paths:
        raise DataError(f"{file} is empty, expected lines of `<path> <label>`")
    return paths, labels


def line_of(file: Path, position: int) -> int:
    """Return the number of the line of an image, by its position among the images."""
    numbers = [number for number, _ in text_lines(file, "")]
    return numbers[position]


def text_lines(file: Path, setting: str) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not empty, stripped, each with its number from 1.

    Names are bytes to a file system: those that are not UTF-8 come as they are on disk.

    Raises:
        DataError: The file is missing or cannot be read as text.
    """
    try:
        content = files.read_regular(file, MAX_LIST)
    except FileNotFoundError as error:
        how = f"; set the file with --set {setting}=/path/to/file" if setting else ""
        raise DataError(f"{file.absolute()} does not exist{how}") from error
    except OSError as error:
        raise DataError(
            f"{file} cannot be read: {error.strerror or error}; expected a text file"
        ) from error
    text = _decoded(content, file).replace("\r\n", "\n").replace("\r", "\n")
    if "\0" in text:
        raise _not_text(file, text[: text.index("\0")].count("\n") + 1)
    lines = enumerate(map(str.strip, text.split("\n")), 1)
    return (numbered for numbered in lines if numbered[1])


def shortened(text: str) -> str:
    """Return a text of no more than a line of a terminal."""
    return text if len(text) <= 200 else text[:200] + "..."


def _decoded(content: bytes, file: Path) -> str:
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        try:
            return content.decode("utf-16")
        except UnicodeDecodeError as error:
            raise DataError(f"{file} begins as UTF-16 text, and is not: {error}") from error
    return content.decode("utf-8-sig", "surrogateescape")


def _not_text(file: Path, line: int) -> DataError:
    return DataError(
        f"{file}:{line}: found a zero byte, expected UTF-8 text; if this is UTF-16 without its "
        f"mark, convert it: iconv -f UTF-16LE -t UTF-8 {file} > NEW_FILE"
    )


def _is_odd(path: str) -> bool:
    """Say whether what looks like a path is rather something else."""
    first, last = path[0], path[-1]
    if first == "#":
        return not path.lower().endswith(IMAGE_ENDINGS)
    return last == "," or (first == last and first in "\"'")


def _plain(path: str) -> str:
    start = "/" if path.startswith("/") else ""
    return start + "/".join(part for part in path.split("/") if part not in ("", "."))


def _cause(line: str, number: int) -> str:
    """Say what is expected, what seems to be there, and how to change it."""
    expected = "expected `<path> <label>` with a space or tab between them and a label of 0 or more"
    hint = _hint(line, line.rsplit(maxsplit=1)[-1], number)
    return f"{expected}; {hint}" if hint else expected


def _hint(line: str, last: str, number: int) -> str:
    hints = {
        "this seems to be a comment, and lists have none: remove the line": line.startswith("#"),
        "quotes would be taken as part of the name: remove them": line[0] in "\"'",
        f"there is a comma between them: change it with {_COMMA_TO_SPACE}": _is_label(
            line.rpartition(",")[2].strip()
        ),
        f"the label seems to stand first: change it with {_LABEL_TO_THE_END}": (
            line != last and _is_label(line.split(maxsplit=1)[0]) and not _is_label(last)
        ),
        "remove images without a class from the list": last[0] == "-" and _is_label(last[1:]),
        "write the label as a whole number": line != last and _is_whole(last),
        "if this is a header, remove the line": number == 1 and last.isalpha(),
    }
    return next((hint for hint, holds in hints.items() if holds), "")


def _is_label(text: str) -> bool:
    # isascii: str.isdigit accepts digits of other scripts, and int() accepts "1_000".
    return text.isdigit() and text.isascii() and len(text) <= _MOST_DIGITS


def _is_whole(text: str) -> bool:
    whole, dot, rest = text.partition(".")
    return bool(dot) and _is_label(whole) and not rest.strip("0")

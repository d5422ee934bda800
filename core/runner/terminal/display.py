"""Foreign text made fit to be shown: on a terminal, in a table, in a spreadsheet, as a command.

Names of files, classes and recipes, and what plugins and libraries say, are whatever somebody has
written. On a terminal they could move the cursor, change its title, turn the direction of writing,
or begin a line that looks like one of ours. All that is printed passes here. Files and ``--json``
keep the exact text.
"""

from __future__ import annotations

import os
import re
import shlex
import unicodedata
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

FULL = "RUNNER_FULL_MESSAGES"
"""Environment variable: ``1`` shows messages at any length."""
ROWS, COLUMNS = 18, 78
"""What a message may take of a screen of 24 by 80."""
VALUE = 1000
"""Characters of one value in the line of an event."""
_LEAST = 68
"""Characters that one of many lines keeps."""
_GAP = 26
"""What says that something is left out is no longer."""
DEEPER = "  | "
"""What the further lines of a message begin with, so that none of them looks like one of ours."""
_BREAKS_OR_TAB = "\t\n"
_CONTROL = re.compile(
    "["
    "\x00-\x1f\x7f-\x9f"  # C0, DEL, C1
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # direction of writing
    "\u2028\u2029"  # line and paragraph separators
    "\ufeff\ufff9-\ufffb\U000e0000-\U000e007f"  # invisible: marks, annotations, tags
    "\ud800-\udfff"  # bytes of a name that is no text
    "]"
)
_SHORT = {"\t": "\\t", "\n": "\\n", "\r": "\\r"}
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def line(text: object) -> str:
    """Return text on one line, with every control character written as an escape."""
    return _CONTROL.sub(_escape, str(text))


def block(text: str) -> str:
    """Return text of several lines; line breaks and tabs stay, other control characters do not."""
    return _CONTROL.sub(lambda found: _escape(found, keep=_BREAKS_OR_TAB), text)


def joined(text: str) -> str:
    """Return a text of several lines as one."""
    return line(" ".join(text.split()))


def message(text: object, prefix: str = "") -> str:
    """Return a message at most a screen long, its further lines marked as belonging to it.

    Args:
        text: The message; what a library says may follow on further lines.
        prefix: What its first line begins with, such as ``error: ``.
    """
    return messages([text], prefix)


def messages(texts: Iterable[object], prefix: str = "") -> str:
    """Return several messages that together are at most a screen long; see ``message``."""
    whole = [item for text in texts for item in _lines(text, prefix)]
    if _in_full():
        return "\n".join(whole)
    fitting = fit(whole)
    if fitting != whole:
        fitting.append(f"{DEEPER}(shortened; {FULL}=1 shows all of it)")
    return "\n".join(fitting)


def _lines(text: object, prefix: str) -> list[str]:
    first, *rest = re.split(r"\r\n|\r|\n", str(text).strip("\r\n"))
    return [prefix + line(first), *(DEEPER + line(item) for item in rest)]


def fit(lines: Sequence[str]) -> list[str]:
    """Return lines that together fit on a screen; what is left out of them is counted."""
    if len(lines) > ROWS:
        half = ROWS // 2
        left = len(lines) - 2 * half
        lines = [*lines[:half], f"{DEEPER}... {left} lines ...", *lines[-half:]]
    longest = max(map(len, lines), default=0)
    while longest > _LEAST and sum(-(-min(len(x), longest) // COLUMNS) or 1 for x in lines) > ROWS:
        longest = max(_LEAST, longest * 7 // 8)
    return [shortened(item, longest) for item in lines]


def shortened(text: str, limit: int = VALUE) -> str:
    """Return text of at most ``limit`` characters (60 or more): its beginning and its end."""
    if len(text) <= limit:
        return text
    kept = limit - _GAP
    end = kept // 3
    return f"{text[: kept - end]}... {len(text) - kept} characters ...{text[-end:]}"


def fields(value: Any) -> Any:
    """Return JSON values with all texts in them on one line each and no longer than a message."""
    if isinstance(value, str):
        text = line(value)
        return text if _in_full() else shortened(text, VALUE)
    if isinstance(value, Mapping):
        return {fields(key): fields(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [fields(item) for item in value]
    return value


def csv_cell(value: object) -> object:
    """Return a value for a CSV file that a spreadsheet takes for text, never for a formula."""
    if isinstance(value, str) and value.lstrip(" ").startswith(_FORMULA):
        return "'" + value
    return value


def command(words: Sequence[str]) -> str:
    """Write a command as a shell takes it, on one line and without control characters."""
    return " ".join(map(quote, words))


def quote(word: str) -> str:
    """Quote one word for a shell; control characters as bash's ``$'...'`` writes them."""
    if not _CONTROL.search(word):
        return shlex.quote(word)
    plain = word.replace("\\", "\\\\").replace("'", "\\'")
    return "$'" + _CONTROL.sub(_escape_for_bash, plain) + "'"


def counted(number: int, noun: str) -> str:
    """Write a number with its noun, such as ``1 epoch``, ``1,200 images`` or ``3 classes``."""
    ending = "es" if noun.endswith(("s", "tch")) else "s"
    return f"{number:,} {noun}{'' if number == 1 else ending}"


def first_control(text: str, *, prose: bool = False) -> str:
    """Return the first control character or line break of a text, as an escape; "" if it has none.

    Args:
        text: A name, a path, a value.
        prose: Line breaks and tabs are allowed, as in a text of several lines.
    """
    allowed = _BREAKS_OR_TAB if prose else ""
    for letter in text:
        if unicodedata.category(letter) in {"Cc", "Zl", "Zp"} and letter not in allowed:
            return line(letter)
    return ""


def has_control(text: str) -> bool:
    """Return whether a text has characters that cannot be shown as they are."""
    return _CONTROL.search(text) is not None


def _escape(found: re.Match[str], keep: str = "") -> str:
    letter, code = found[0], ord(found[0])
    if letter in keep:
        return letter
    if letter in _SHORT:
        return _SHORT[letter]
    if 0xDC80 <= code <= 0xDCFF:  # a byte, as surrogateescape keeps it
        return f"\\x{code - 0xDC00:02x}"
    if code > 0xFFFF:
        return f"\\U{code:08x}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def _escape_for_bash(found: re.Match[str]) -> str:
    return "".join(f"\\x{byte:02x}" for byte in found[0].encode(errors="surrogateescape"))


def _in_full() -> bool:
    return os.environ.get(FULL, "0") not in {"", "0"}

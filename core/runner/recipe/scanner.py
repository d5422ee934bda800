"""PyYAML's parser, kept to YAML 1.2 where it reads something else.

Tabs separate, as the specification allows, and never indent. The last line ends with a break. A
``#`` without a space before it begins no comment. ``-`` alone is no text inside ``[ ]``, and ``?x``
there is no key. Lines that continue a value are indented further than its key. What is refused here
was read as another value, or by luck.
"""

# mypy: disable-error-code="no-untyped-call"
# PyYAML's scanner has no types.

from __future__ import annotations

from typing import Any, NoReturn

import yaml
from yaml.scanner import ScannerError

_BREAKS = "\r\n\x85\u2028\u2029"
_BLANK = f"\0 \t{_BREAKS}"
_FLOW = ",[]{}"
TAB = "found character '\\t'"
COMMENT = "found a comment without a space before '#'"
CONTINUES = "found a line that continues a value and is not indented"
SPACES = "found a line with fewer spaces than the empty lines above it"
ANCHOR = "found a character that an anchor cannot have"


class StrictLoader(yaml.BaseLoader):
    """Reads one document."""

    def __init__(self, text: str) -> None:
        """Prepare to read; the last line is like the others, whether or not a break ends it."""
        super().__init__(text if text.endswith(tuple(_BREAKS)) else f"{text}\n")

    def scan_to_next_token(self) -> None:
        """Skip blanks, line breaks and comments."""
        if self.index == 0 and self.peek() == "\ufeff":
            self.forward()
        first = self.index
        while True:
            spaces = self._skip_blanks()
            if self.peek() == "#":
                self._check_comment(first)
                while self.peek() not in f"\0{_BREAKS}":
                    self.forward()
            if not self.scan_line_break():
                break
            first = -1
            if not self.flow_level:
                self.allow_simple_key = True
        if self.peek() == "\0":
            return
        if spaces < self.column and not self.flow_level:
            self._check_tab(spaces)
        if first == -1 and self.flow_level:
            self._check_continuation(spaces, closing=self.peek() in "]}")

    def _skip_blanks(self) -> int:
        """Skip spaces and tabs; return the column that the spaces alone lead to."""
        while self.peek() == " ":
            self.forward()
        spaces: int = self.column
        while self.peek() in " \t":
            self.forward()
        return spaces

    def _check_comment(self, first: int) -> None:
        if self.index == first and self.index and self.buffer[self.pointer - 1] not in _BLANK:
            self._fail(COMMENT)

    def _check_tab(self, spaces: int) -> None:
        """Let a tab separate; no collection begins behind it, because it indents nothing."""
        at_start = not self.buffer[self.pointer - self.column : self.pointer].strip(" \t")
        indented = self.peek() in "[{" if self.indent == -1 else spaces > self.indent
        if at_start and not indented:
            self._fail(TAB, spaces)
        self.allow_simple_key = False

    def _check_continuation(self, spaces: int, *, closing: bool = False) -> None:
        """Refuse a line of a value that begins left of where it may; brackets may close there."""
        if spaces < self.indent + (0 if closing else 1):
            self._fail(CONTINUES, spaces)

    def scan_plain_spaces(self, indent: int, start_mark: Any) -> list[str] | None:  # noqa: ARG002
        """Return the blanks between two words of a text, which may stand on two lines."""
        length = 0
        while self.peek(length) in " \t":
            length += 1
        blanks = self.prefix(length)
        self.forward(length)
        if self.peek() not in _BREAKS:
            return [blanks] if blanks else []
        first = self.scan_line_break()
        self.allow_simple_key = True
        breaks: list[str] = []
        while True:
            if self._ends_document():
                return None
            while self.peek() == " " or (self.peek() == "\t" and self.column >= indent):
                self.forward()
            if self.peek() == "\t" and self._is_blank_line():
                self._skip_blanks()
            if self.peek() not in _BREAKS:
                break
            breaks.append(self.scan_line_break())
        folded = [first] if first != "\n" else [] if breaks else [" "]
        return [*folded, *breaks]

    def _ends_document(self) -> bool:
        return self.prefix(3) in {"---", "..."} and self.peek(3) in _BLANK

    def _is_blank_line(self) -> bool:
        length = 0
        while self.peek(length) in " \t":
            length += 1
        return self.peek(length) in _BREAKS

    def scan_flow_scalar_breaks(self, double: bool, start_mark: Any) -> list[str]:  # noqa: FBT001
        """Return the line breaks in a quoted text, and skip what indents its next line."""
        chunks: list[str] = []
        while True:
            if self._ends_document():
                raise ScannerError(
                    "while scanning a quoted scalar",
                    start_mark,
                    "found unexpected document separator",
                    self.get_mark(),
                )
            spaces = self._skip_blanks()
            if self.peek() not in _BREAKS:
                # Where nothing closes it, that is what is wrong.
                if ('"' if double else "'") in self.buffer[self.pointer :]:
                    self._check_continuation(spaces)
                return chunks
            chunks.append(self.scan_line_break())

    def scan_block_scalar_indentation(self) -> tuple[list[str], int, Any]:
        """Return the empty lines before a block of text, and how far they are indented."""
        chunks, deepest, mark = super().scan_block_scalar_indentation()
        if max(self.indent + 1, 1) <= self.column < deepest and self.peek() != "\0":
            self._fail(SPACES)
        return chunks, deepest, mark

    def scan_block_scalar(self, style: str) -> Any:
        """Read a block of text; a tab left of it is neither text nor an empty line."""
        token = super().scan_block_scalar(style)
        if self.peek() == "\t":
            self._fail(TAB)
        return token

    def scan_anchor(self, kind: Any) -> Any:
        """Read the name of an anchor or alias."""
        token = super().scan_anchor(kind)
        if self.peek() not in _BLANK + _FLOW:
            self._fail(ANCHOR)
        return token

    def check_key(self) -> bool:
        """Tell whether a ``?`` begins a key."""
        return self.peek(1) in _BLANK + (_FLOW if self.flow_level else "")

    def check_plain(self) -> bool:
        """Tell whether unquoted text begins here."""
        if self.flow_level and self.peek() == "-":
            return self.peek(1) not in _BLANK + _FLOW
        return bool(super().check_plain())

    def compose_scalar_node(self, anchor: Any) -> yaml.ScalarNode:
        """Make a node of a scalar; the tag ``!`` alone says that it is text."""
        is_text = self.peek_event().tag == "!"
        node: yaml.ScalarNode = super().compose_scalar_node(anchor)
        if is_text:
            node.tag = "tag:yaml.org,2002:str"
        return node

    def _fail(self, problem: str, column: int | None = None) -> NoReturn:
        mark = self.get_mark()
        if column is not None:
            mark.column = column
        raise ScannerError(None, None, problem, mark)

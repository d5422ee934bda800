"""Results that show themselves in a terminal and in a notebook."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

from runner.terminal import display

if TYPE_CHECKING:
    from collections.abc import Iterator


class Shown:
    """A result that shows a title and rows of a few words each."""

    __slots__ = ()

    def title(self) -> str:
        """Return what it is of."""
        raise NotImplementedError

    def rows(self) -> Iterator[tuple[str, object]]:
        """Yield a name and a value for each row."""
        raise NotImplementedError

    def __repr__(self) -> str:
        rows = [(name, _text(value)) for name, value in self.rows()]
        width = max((len(name) for name, _ in rows), default=0)
        title = f"{type(self).__name__} {display.line(self.title())}"
        return "\n".join([title, *(f"  {name:<{width}}  {text}" for name, text in rows)])

    def _repr_html_(self) -> str:
        cells = "".join(
            f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
            f"<td style='text-align:left'>{html.escape(_text(value))}</td></tr>"
            for name, value in self.rows()
        )
        title = html.escape(f"{type(self).__name__} {display.line(self.title())}")
        return f"<table><caption>{title}</caption><tbody>{cells}</tbody></table>"


def _text(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else display.line(str(value))

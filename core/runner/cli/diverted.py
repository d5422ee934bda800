"""Commands that keep what plugins and libraries print apart from their own document."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

from runner import streams


class Diverted(TyperCommand):
    """A command; once its arguments are read, standard output is for its document alone."""

    def invoke(self, ctx: Any) -> Any:
        """Carry the command out."""
        streams.divert()
        return super().invoke(ctx)

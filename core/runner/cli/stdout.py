"""Commands that keep what plugins and libraries print apart from their own document."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

from runner.distributed import signals
from runner.terminal import streams


class Diverted(TyperCommand):
    """A command; once its arguments are read, standard output is for its document alone."""

    def invoke(self, ctx: Any) -> Any:
        """Carry the command out; say where Ctrl-C has ended it."""
        streams.divert()
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:  # which typer would make a status without a word
            streams.say(signals.words(error))
            raise SystemExit(128 + signals.number_of(error)) from None

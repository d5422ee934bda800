"""What importing a plugin imports, and where its references lead, in a process of its own.

References lead to modules that import frameworks, which must not meet in the process of the tests.
"""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runner.entries import Lazy
from runner.errors import PluginError
from runner.plugins.loading import load

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A ``lazy`` function of an entry."""

    target: str
    place: str
    count: int | None = None
    """Positional arguments that it is called with, those of a ``functools.partial`` included;
    ``None`` for a function that another is given."""
    named: Sequence[str] = ()
    """Names of other arguments that a ``partial`` gives."""
    missing: Sequence[str] = ()
    """Modules that the entry needs and that are not installed."""

    def problem(self) -> str:
        """Return what is wrong with it; "" if it is right, or cannot be imported here."""
        try:
            function = Lazy(self.target, self.place).resolve()
        except PluginError as error:
            return str(error)
        except ImportError as error:
            if (error.name or "").partition(".")[0] in self.missing:
                return ""
            return f"{self.place} is lazy({self.target!r}), which cannot be imported: {error}"
        if self.count is None:
            return ""
        return misfit(self.place, function, self.count, self.named)


def misfit(place: str, function: Callable[..., Any], count: int, named: Sequence[str] = ()) -> str:
    """Return why a function cannot be called as core does; "" if it can be."""
    signature = inspect.signature(function)
    try:
        signature.bind(*[None] * count, **dict.fromkeys(named))
    except TypeError:
        return f"{place} is called with {count} positional arguments, but takes {signature}"
    return ""


def main() -> None:
    """Load the plugin module that the command line names (JSON), and resolve its references."""
    name, heavy, references = json.loads(sys.argv[1])
    load(extra=[("checked", importlib.import_module(name))], environ={"RUNNER_PLUGINS": ""})
    imported = sorted(set(heavy) & set(sys.modules))
    wrong = [problem for item in references if (problem := Reference(**item).problem())]
    sys.stdout.write(f"\n{json.dumps({'imported': imported, 'wrong': wrong})}\n")


if __name__ == "__main__":
    main()

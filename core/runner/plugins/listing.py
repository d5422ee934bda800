"""What the registry holds of a kind, each entry in one line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from runner.plugins.kinds import Kind
    from runner.plugins.registry import Registry


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """An entry that recipes can name."""

    name: str
    framework: str
    """The framework it belongs to, or ``any``."""
    plugin: str
    summary: str
    available: bool
    """Whether it can be used here."""
    reason: str
    """Why not, and the command that helps; empty if it can."""


def entries(registry: Registry, kind: Kind) -> list[Listed]:
    """Return the entries of a kind; those that several plugins register are marked."""
    rows = [(item, item.reason) for item in registry.entries(kind.entry)]
    for group in registry.clashes(kind.entry):
        names = ", ".join(item.plugin.name for item in group)
        rows += [(item, f"registered by several plugins: {names}") for item in group]
    return [
        Listed(
            name=item.entry.name,
            framework=item.framework,
            plugin=item.plugin.name,
            summary=item.entry.summary,
            available=not reason,
            reason=reason,
        )
        for item, reason in rows
    ]

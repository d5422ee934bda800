"""What plugins and entries look like in lists: JSON-ready data, and plain text tables."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from runner.plugins import kinds, listing
from runner.plugins.registry import ANY_FRAMEWORK
from runner.terminal import display

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runner.entries import Entry
    from runner.plugins.kinds import Kind
    from runner.plugins.registry import PluginInfo, Registered, Registry


def plugins_data(registry: Registry) -> list[dict[str, object]]:
    """Return every plugin with what it registers, ready for JSON."""
    return [_plugin_data(registry, info) for info in registry.plugins]


def plugins_table(registry: Registry) -> str:
    """Return a table of all plugins, followed by the reasons of those that are not ready."""
    if not registry.plugins:
        return "no plugin is installed"
    rows = [
        (
            info.name,
            info.version or "-",
            info.distribution or "-",
            info.state,
            _what_it_registers(info),
        )
        for info in registry.plugins
    ]
    notes = [f"{info.name}: {info.reason}" for info in registry.plugins if info.reason]
    for group in registry.clashes():
        plugins = " and ".join(str(item.plugin) for item in group)
        notes.append(f"{_label(group[0])} is registered by {plugins}; neither is used")
    table = _table(("plugin", "version", "distribution", "state", "registers"), rows)
    return "\n".join([table, *([""] if notes else []), *map(display.line, notes)])


def entries_data(registry: Registry, kind: Kind) -> list[dict[str, object]]:
    """Return the entries of a kind, ready for JSON; those that clash are marked."""
    return [asdict(item) for item in listing.entries(registry, kind)]


def entries_table(registry: Registry, kind: Kind) -> str:
    """Return a table of the entries of a kind: name, framework, plugin, availability, summary."""
    data = entries_data(registry, kind)
    if not data:
        return f"no {kind.name} is registered; see: runner list-plugins"
    rows = [
        (
            str(row["name"]),
            str(row["framework"]),
            str(row["plugin"]),
            "yes" if row["available"] else "no",
            str(row["summary"]),
        )
        for row in data
    ]
    reasons = dict.fromkeys(f"{row['plugin']}: {row['reason']}" for row in data if row["reason"])
    table = _table(("name", "framework", "plugin", "available", "summary"), rows)
    return "\n".join([table, *([""] if reasons else []), *map(display.line, reasons)])


def _plugin_data(registry: Registry, info: PluginInfo) -> dict[str, object]:
    return {
        "name": info.name,
        "version": info.version,
        "distribution": info.distribution,
        "module": info.module,
        "state": info.state,
        "reason": info.reason,
        "entries": {
            kind.name: [row for row in entries_data(registry, kind) if row["plugin"] == info.name]
            for kind in kinds.KINDS
            if info.entries.get(kind.name)
        },
    }


def _what_it_registers(info: PluginInfo) -> str:
    counts = [
        display.counted(len(entries), kind) for kind, entries in info.entries.items() if entries
    ]
    return ", ".join(counts) or "-"


def _label(item: Registered[Entry]) -> str:
    owner = "" if item.framework == ANY_FRAMEWORK else f" for {item.framework}"
    return f"{item.kind} '{item.entry.name}'{owner}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Align columns with two spaces between them."""
    lines = [header, *([display.line(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )

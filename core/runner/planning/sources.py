"""The exporters that conversions start from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runner.entries import ConverterEntry, ExportEntry, ExporterEntry
from runner.errors import UsageError

if TYPE_CHECKING:
    from runner.plugins.registry import Registered, Registry


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The exporter that a converter starts from, and what it is asked for."""

    exporter: Registered[ExporterEntry]
    options: object
    """An instance of its ``config`` class."""

    @property
    def entry(self) -> ExporterEntry:
        """The exporter."""
        return self.exporter.entry


def find_source(
    converter: ConverterEntry, options: object, framework: str, registry: Registry
) -> Source:
    """Find the exporter that a converter starts from.

    Raises:
        UsageError: The framework has none of this name, or not with what the converter asks for.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        found = registry.find(ExportEntry, converter.source, framework)
    except UsageError as error:
        raise UsageError(
            f"exporter {converter.name!r} converts what exporter {converter.source!r} of "
            f"{framework} writes: {error}"
        ) from None
    if isinstance(found.entry, ConverterEntry):
        raise UsageError(
            f"exporter {converter.name!r} converts what {converter.source!r} writes, which is "
            "itself a conversion; a converter's source must be an exporter"
        )
    exporter = registry.find(ExporterEntry, converter.source, framework)
    wanted = dict(converter.source_options(options)) if converter.source_options else {}
    try:
        # JSON mode takes lists for tuples, as recipes do
        asked: object = TypeAdapter(exporter.entry.config).validate_json(json.dumps(wanted))
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()
        )
        raise UsageError(
            f"exporter {converter.name!r} asks exporter {converter.source!r} of {framework} for "
            f"{json.dumps(wanted)}, which that cannot do ({problems}); use another framework"
        ) from None
    return Source(exporter=exporter, options=asked)

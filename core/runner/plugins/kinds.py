"""The kinds of entries that plugins register, one row each.

Loading, the registry, the check of recipes, lists, the checks of plugins and the conformance kit
read this table. A new kind is a row here and its entry type in ``runner.entries``; if recipes
choose one by name, ``runner.recipe.schema`` has the section with the keys that are core's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from runner import entries
from runner.hooks import hookspec

if TYPE_CHECKING:
    from runner.entries import Entry


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of entry."""

    name: str
    """What messages call one of them."""
    entry: type[Entry]
    """The type of its entries, or what their types have in common."""
    variants: tuple[type[Entry], ...] = ()
    """Their types, where there are several."""
    section: str = ""
    """The section of a recipe that chooses one by ``name``; empty if recipes do not."""
    several: bool = False
    """Whether that section is a list."""

    @property
    def plural(self) -> str:
        """What ``runner list`` calls them."""
        return f"{self.name}s"

    @property
    def hook(self) -> str:
        """The hook that registers them."""
        return f"runner_register_{self.plural}"

    @property
    def types(self) -> tuple[type[Entry], ...]:
        """The types that its entries may have."""
        return self.variants or (self.entry,)


KINDS = (
    Kind(name="framework", entry=entries.FrameworkEntry, section="framework"),
    Kind(name="launcher", entry=entries.LauncherEntry),
    Kind(name="device", entry=entries.DeviceEntry, section="device"),
    Kind(name="dataset", entry=entries.DatasetEntry, section="dataset"),
    Kind(name="model", entry=entries.ModelEntry, section="model"),
    Kind(name="optimizer", entry=entries.OptimizerEntry, section="optimizer"),
    Kind(
        name="exporter",
        entry=entries.ExportEntry,
        variants=(entries.ExporterEntry, entries.ConverterEntry),
        section="export",
        several=True,
    ),
    Kind(name="predictor", entry=entries.PredictorEntry),
    Kind(name="logger", entry=entries.LoggerEntry, section="loggers", several=True),
    Kind(name="importer", entry=entries.ImporterEntry),
)


def of(entry: type[Entry]) -> Kind:
    """Return the kind that a type of entries belongs to."""
    return next(kind for kind in KINDS if issubclass(entry, kind.entry))


def of_section(name: str) -> Kind | None:
    """Return the kind that a section of a recipe chooses from; ``None`` if it chooses no entry."""
    return next((kind for kind in KINDS if kind.section == name), None)


def registration_hooks() -> type:
    """Return a class with the specification of every hook that registers entries."""
    return type("RegistrationHooks", (), {kind.hook: hookspec(lambda: ()) for kind in KINDS})

"""Where core looks up what plugins registered: (kind, framework, name) to entry and plugin."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, Literal, TypeVar, final

from runner.entries import ConverterEntry, Entry, ExporterEntry, PredictorEntry
from runner.errors import UsageError
from runner.plugins import kinds

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import TypeGuard

E = TypeVar("E", bound=Entry)
E_co = TypeVar("E_co", bound=Entry, covariant=True)

ANY_FRAMEWORK = "any"

State = Literal["ready", "unavailable", "failed", "disabled", "clash"]


@final
class UnknownEntryError(UsageError):
    """A name that no usable entry has; the message lists the choices."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PluginInfo:
    """What is known about one plugin, whether it could be used or not."""

    name: str
    """Name of its entry point in the group ``runner.plugins``."""
    module: str
    distribution: str = ""
    """The installed distribution it comes from; empty when a program passed it directly."""
    version: str = ""
    """Version of the distribution."""
    state: State
    reason: str = ""
    """Why it is not ready, or which of its entries are not."""
    entries: Mapping[str, tuple[Entry, ...]] = field(default_factory=dict)
    """What it registered, by kind, in its own order."""

    def __str__(self) -> str:
        origin = f"{self.distribution} {self.version}" if self.distribution else self.module
        return f"plugin '{self.name}' ({origin})"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Registered(Generic[E_co]):
    """An entry, and the plugin that it comes from."""

    entry: E_co
    plugin: PluginInfo
    missing: tuple[str, ...] = ()
    """Modules that the entry needs and that are not installed."""
    reason: str = ""
    """Why the entry cannot be used here, and the command that helps; empty when it can."""

    @property
    def kind(self) -> str:
        """The name of the entry's kind."""
        return kinds.of(type(self.entry)).name

    @property
    def framework(self) -> str:
        """The framework that the entry belongs to, or ``any``."""
        return framework_of(self.entry)


def framework_of(entry: Entry) -> str:
    """Return the framework that an entry belongs to, or ``any``."""
    return getattr(entry, "framework", ANY_FRAMEWORK)


def missing_reason(missing: Sequence[str], install: str) -> str:
    """Say which modules are not installed, and the command that installs them."""
    if not missing:
        return ""
    verb = "is" if len(missing) == 1 else "are"
    return f"{', '.join(missing)} {verb} not installed" + (f"; {install}" if install else "")


@final
class Registry:
    """Everything that plugins registered, and the plugins themselves."""

    def __init__(
        self, plugins: Iterable[PluginInfo], registered: Iterable[Registered[Entry]]
    ) -> None:
        self.plugins = tuple(plugins)
        groups: dict[tuple[str, str, str], list[Registered[Entry]]] = {}
        for item in registered:
            groups.setdefault((item.kind, item.framework, item.entry.name), []).append(item)
        self._usable = tuple(group[0] for group in groups.values() if len(group) == 1)
        self._clashes = tuple(tuple(group) for group in groups.values() if len(group) > 1)

    def find(self, entry: type[E], name: str, framework: str | None = None) -> Registered[E]:
        """Return the one entry of a type that has this name.

        The entry may lack modules that it needs: see ``Registered.missing``.

        Args:
            entry: The type, such as ``ModelEntry``.
            name: The name in the recipe.
            framework: Consider only entries of this framework and those that fit any.

        Raises:
            UnknownEntryError: Nothing has this name, or several plugins or frameworks have it.
        """
        kind = kinds.of(entry).name
        matches = [item for item in self.entries(entry, framework) if item.entry.name == name]
        clashing = [
            item
            for group in self.clashes(entry)
            for item in group
            if item.entry.name == name and _fits(item, framework)
        ]
        if clashing or (framework and len(matches) > 1):
            raise UnknownEntryError(_clash(kind, name, [*clashing, *matches]))
        if not matches:
            raise UnknownEntryError(self._unknown(entry, name, framework))
        if len(matches) > 1:
            frameworks = ", ".join(sorted(item.framework for item in matches))
            raise UnknownEntryError(
                f"{kind} '{name}' exists for several frameworks: {frameworks}; name one"
            )
        return matches[0]

    def entries(self, entry: type[E], framework: str | None = None) -> tuple[Registered[E], ...]:
        """Return the usable entries of a type, in the order of their plugins.

        Entries that clash are left out; entries whose requirements are missing are not.
        """
        return tuple(
            item for item in self._usable if _holds(item, entry) and _fits(item, framework)
        )

    def clashes(self, entry: type[Entry] = Entry) -> tuple[tuple[Registered[Entry], ...], ...]:
        """Return the groups of entries that share kind, framework and name."""
        return tuple(group for group in self._clashes if _holds(group[0], entry))

    def predictor(self, artifact_format: str) -> Registered[PredictorEntry]:
        """Return the runtime that executes artifacts of a format.

        That is the first whose requirements are installed, or else the first.

        Raises:
            UnknownEntryError: No runtime lists the format.
        """
        known = self.entries(PredictorEntry)
        matches = [item for item in known if artifact_format in item.entry.formats]
        if not matches:
            formats = sorted({name for item in known for name in item.entry.formats})
            raise UnknownEntryError(
                f"no predictor runs artifacts of the format '{artifact_format}'; formats that "
                f"can be run: {', '.join(formats) or 'none'}" + self._unusable_plugins()
            )
        return next((item for item in matches if not item.missing), matches[0])

    def _unknown(self, entry: type[Entry], name: str, framework: str | None) -> str:
        from difflib import get_close_matches

        kind = kinds.of(entry).name
        names = sorted(
            {i.entry.name for i in self.entries(entry, framework) if self._works(i, framework)}
        )
        message = f"unknown {kind} '{name}'" + (f" for {framework}" if framework else "")
        close = get_close_matches(name, names, n=1)
        if close:
            message += f"; did you mean '{close[0]}'?"
        message += f"; choices: {', '.join(names)}" if names else f"; no {kind} is registered"
        others = sorted({i.framework for i in self.entries(entry) if i.entry.name == name})
        if others:
            message += f"; '{name}' exists for {', '.join(others)}"
        return message + self._unusable_plugins()

    def _works(self, item: Registered[Entry], framework: str | None) -> bool:
        """Return whether an entry can be used with a framework: what it converts is there."""
        if item.reason or not isinstance(item.entry, ConverterEntry) or framework is None:
            return not item.reason
        sources = self.entries(ExporterEntry, framework)
        return any(source.entry.name == item.entry.source for source in sources)

    def _unusable_plugins(self) -> str:
        """Name the plugins whose entries are unknown because they were not loaded."""
        return "".join(
            f"; {info} is {info.state}: {info.reason}"
            for info in self.plugins
            if info.state in {"failed", "disabled", "clash"}
        )


def _holds(item: Registered[Entry], entry: type[E]) -> TypeGuard[Registered[E]]:
    return isinstance(item.entry, entry)


def _fits(item: Registered[Entry], framework: str | None) -> bool:
    return framework is None or item.framework in {framework, ANY_FRAMEWORK}


def _clash(kind: str, name: str, items: Sequence[Registered[Entry]]) -> str:
    plugins = " and ".join(str(item.plugin) for item in items)
    return (
        f"{kind} '{name}' is registered by {plugins}, so neither is used; uninstall one of them, "
        f"or switch it off, as in RUNNER_DISABLE_PLUGINS={items[-1].plugin.name}"
    )

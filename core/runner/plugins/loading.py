"""Discovery and registration of plugins, guarded: a broken plugin never takes others down.

Environment variables:
    RUNNER_PLUGINS: Comma-separated names of the plugins to load; empty loads none.
    RUNNER_DISABLE_PLUGINS: Comma-separated names of plugins to leave out.
    RUNNER_TRACE_PLUGINS: ``1`` writes every hook call to stderr.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import signal
import sys
import threading
import warnings
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import distributions, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from runner import __version__
from runner.entries import ImporterEntry
from runner.errors import PluginError
from runner.plugins import kinds
from runner.plugins.checks import (
    ModuleDefaults,
    RejectedPluginError,
    check_entries,
    explain,
    register,
)
from runner.plugins.registry import PluginInfo, Registered, Registry, missing_reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from importlib.metadata import Distribution, EntryPoint

    import pluggy

    from runner.entries import Entry
    from runner.plugins.registry import State

GROUP = "runner.plugins"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
OWN_DISTRIBUTION = "vision-runner"


def load(
    *,
    extra: Iterable[tuple[str, object]] = (),
    environ: Mapping[str, str] | None = None,
    trace: Callable[[str], object] | None = None,
) -> Registry:
    """Find, import and register plugins; no framework is imported.

    A plugin that fails is listed in ``registry.plugins`` with the reason, and the rest live.

    Args:
        extra: Plugins that are not installed, as name and module; always loaded, after the rest.
        environ: Where the variables above are read; the process environment when left out.
        trace: Takes the lines of RUNNER_TRACE_PLUGINS; stderr when left out.

    Raises:
        PluginError: A variable names a plugin that is not installed.
    """
    environ = os.environ if environ is None else environ
    installed = _installed()
    disabled = _disabled(installed, environ)
    passed = [_passed(name, plugin) for name, plugin in extra]
    names = [item.info.name for item in installed if item.info.name not in disabled]
    names += [item.info.name for item in passed]
    tracing = environ.get("RUNNER_TRACE_PLUGINS", "0") not in {"", "0"}
    write = (trace or sys.stderr.write) if tracing else None
    outcomes: list[_Outcome] = []
    for candidate in [*installed, *passed]:
        name = candidate.info.name
        if candidate not in passed and name in disabled:
            outcomes.append(_unused(candidate, "disabled", disabled[name]))
        elif names.count(name) > 1:
            twins = [item for item in [*installed, *passed] if item.info.name == name]
            outcomes.append(_unused(candidate, "clash", _same_name(twins)))
        else:
            outcomes.append(_open(candidate, write))
    return Registry(
        (outcome.info for outcome in outcomes),
        (item for outcome in outcomes for item in outcome.registered),
    )


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    """A plugin before it is imported."""

    info: PluginInfo
    open: Callable[[], object]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class _Outcome:
    """A plugin after an attempt to open it."""

    info: PluginInfo
    registered: tuple[Registered[Entry], ...] = ()


def own_distributions() -> list[Distribution]:
    """Return what is installed under the product's own name; the copy that runs comes first.

    An older or newer copy's metadata may have been left behind on the path.
    """
    found = {str(item.locate_file("")): item for item in distributions(name=OWN_DISTRIBUTION)}
    return sorted(found.values(), key=lambda item: item.version != __version__)


def _points() -> Iterator[tuple[EntryPoint, str, str]]:
    """Yield the entry points of plugins, with name and version of the distribution of each.

    Of several distributions of one name importlib knows the first on the path alone.
    """
    for item in own_distributions()[:1]:
        version = item.version  # which parses the whole metadata
        yield from ((point, OWN_DISTRIBUTION, version) for point in item.entry_points)
    known: dict[Distribution | None, tuple[str, str]] = {None: ("", "")}
    for point in entry_points(group=GROUP):
        if point.dist is not None and point.dist not in known:
            metadata = point.dist.metadata
            known[point.dist] = (metadata["Name"] or "", metadata["Version"] or "")
        name, version = known[point.dist]
        if name.replace("_", "-").lower() != OWN_DISTRIBUTION:
            yield point, name, version


def _installed() -> list[_Candidate]:
    candidates = []
    for point, distribution, version in _points():
        if point.group != GROUP:
            continue
        info = PluginInfo(
            name=point.name,
            module=point.value,
            distribution=distribution,
            version=version,
            state="ready",
        )
        candidates.append(_Candidate(info=info, open=partial(_import, point)))
    # The order decides which predictor runs a format: our own first, then by name, never by the
    # order of folders on disk.
    return sorted(
        candidates,
        key=lambda c: (c.info.distribution != OWN_DISTRIBUTION, c.info.name, c.info.distribution),
    )


def _import(point: EntryPoint) -> object:
    if not point.pattern.match(point.value):
        raise RejectedPluginError(
            f"its entry point {point.value!r} is malformed; expected a module, or module:attribute"
        )
    return point.load()


def _passed(name: str, plugin: object) -> _Candidate:
    module = getattr(plugin, "__name__", type(plugin).__module__)
    info = PluginInfo(name=name, module=str(module), state="ready")
    return _Candidate(info=info, open=lambda: plugin)


def _disabled(installed: Sequence[_Candidate], environ: Mapping[str, str]) -> dict[str, str]:
    """Return why plugins are left out, by name."""
    names = sorted({item.info.name for item in installed})
    reasons: dict[str, str] = {}
    if "RUNNER_PLUGINS" in environ:
        chosen = _names("RUNNER_PLUGINS", environ, names)
        reasons |= {name: "RUNNER_PLUGINS leaves it out" for name in names if name not in chosen}
    for name in _names("RUNNER_DISABLE_PLUGINS", environ, names):
        reasons[name] = "RUNNER_DISABLE_PLUGINS names it"
    return reasons


def _names(variable: str, environ: Mapping[str, str], known: Sequence[str]) -> list[str]:
    """Read a list of plugin names from an environment variable."""
    names = [name.strip() for name in environ.get(variable, "").split(",") if name.strip()]
    for name in names:
        if name not in known:
            from difflib import get_close_matches

            close = get_close_matches(name, known, n=1)
            hint = f"did you mean '{close[0]}'? " if close else ""
            raise PluginError(
                f"{variable} names the plugin '{name}', which is not installed; {hint}"
                f"installed: {', '.join(known) or 'none'}"
            )
    return names


def _same_name(twins: Sequence[_Candidate]) -> str:
    plugins = " and ".join(f"{twin.info} in {twin.info.module}" for twin in twins)
    return f"the name '{twins[0].info.name}' is used by {plugins}; uninstall one of them"


def _open(candidate: _Candidate, trace: Callable[[str], object] | None) -> _Outcome:
    """Import a plugin, check it and collect its entries; a failure becomes its state."""
    info = candidate.info
    if trace is not None and info.distribution:  # one that ends the process is named by it
        trace(f"runner: {info.name}: importing {info.module}\n")
    before = _Process.now()
    undone: list[str] = []
    try:
        try:
            with warnings.catch_warnings():
                plugin = candidate.open()
        finally:
            undone = before.restore()
        manager = register(plugin, info.name)
        if trace is not None:
            _trace(manager, info.name, trace)
        implemented = {caller.name for caller in manager.get_hookcallers(plugin) or ()}
        defaults = ModuleDefaults.of(plugin)
        entries = {
            kind.name: check_entries(kind, getattr(manager.hook, kind.hook)(), str(info), defaults)
            for kind in kinds.KINDS
            if kind.hook in implemented
        }
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001  a plugin may even call sys.exit() when imported
        reason = "; ".join([explain(error, info.module), *_told(undone)])
        return _unused(candidate, "failed", reason)
    outcome = _availability(replace(info, entries=entries), defaults)
    if undone:
        reason = "; ".join(filter(None, (outcome.info.reason, *_told(undone))))
        outcome = replace(outcome, info=replace(outcome.info, reason=reason))
    return outcome


def _told(undone: Sequence[str]) -> list[str]:
    return [f"importing it changed {' and '.join(undone)}, which was undone"] if undone else []


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class _Process:
    """What the import of a plugin must leave as it is, because everybody shares it."""

    folder: str | None
    handlers: Mapping[int, Any]
    level: int
    log_handlers: Sequence[logging.Handler]

    @classmethod
    def now(cls) -> _Process:
        return cls(
            folder=_current_folder(),
            handlers={number: signal.getsignal(number) for number in SIGNALS},
            level=logging.getLogger().level,
            log_handlers=list(logging.getLogger().handlers),
        )

    def restore(self) -> list[str]:
        """Undo what differs, and name it."""
        undone = []
        if self.folder and _current_folder() != self.folder:
            os.chdir(self.folder)
            undone.append("the current folder")
        changed = [n for n in SIGNALS if signal.getsignal(n) != self.handlers[n]]
        # Only the main thread may; None stands for a handler that was not installed from Python.
        if changed and threading.current_thread() is threading.main_thread():
            for number in changed:
                if self.handlers[number] is not None:
                    signal.signal(number, self.handlers[number])
            undone.append("what signals do")
        root = logging.getLogger()
        if root.level != self.level or root.handlers != self.log_handlers:
            root.setLevel(self.level)
            root.handlers[:] = self.log_handlers
            undone.append("the root logger")
        return undone


def _current_folder() -> str | None:
    try:
        return str(Path.cwd())
    except OSError:  # it was removed
        return None


def _unused(candidate: _Candidate, state: State, reason: str) -> _Outcome:
    return _Outcome(info=replace(candidate.info, state=state, reason=reason))


def _availability(info: PluginInfo, defaults: ModuleDefaults) -> _Outcome:
    """Find out which requirements of a plugin and its entries are not installed."""
    reason = missing_reason(_missing(defaults.requires), defaults.install)
    rows = [
        (entry, _missing(entry.requires)) for entries in info.entries.values() for entry in entries
    ]
    # An importer only reads command lines: it says nothing about the framework being there.
    used = [row for row in rows if not isinstance(row[0], ImporterEntry)] or rows
    lacking = [row for row in used if row[1]]
    if not reason and lacking and len(lacking) == len(used):
        entry, missing = lacking[0]
        reason = missing_reason(missing, entry.install)
    if reason:
        info = replace(info, state="unavailable", reason=reason)
    elif lacking:
        names = ", ".join(dict.fromkeys(name for _, missing in lacking for name in missing))
        verb = "lacks" if len(lacking) == 1 else "lack"
        text = f"{len(lacking)} of {len(used)} entries {verb} what is not installed: {names}"
        info = replace(info, reason=text)
    registered = tuple(
        Registered(
            entry=entry,
            plugin=info,
            missing=missing,
            reason=missing_reason(missing, entry.install),
        )
        for entry, missing in rows
    )
    return _Outcome(info=info, registered=registered)


def _missing(modules: Iterable[str]) -> tuple[str, ...]:
    """Return the modules that are not installed, without importing any."""
    return tuple(dict.fromkeys(name for name in modules if not _is_installed(name)))


def _is_installed(module: str) -> bool:
    top, _, rest = module.partition(".")
    if top in sys.modules:
        return sys.modules[top] is not None
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):  # a module that some other package has broken
        return False
    # Any folder of that name on sys.path is found as a namespace package, which has no origin.
    return spec is not None and (spec.origin is not None or bool(rest))


def _trace(manager: pluggy.PluginManager, plugin: str, write: Callable[[str], object]) -> None:
    def before(hook: str, _impls: object, arguments: Mapping[str, object]) -> None:
        write(f"runner: {plugin}: {hook}({', '.join(arguments)})\n")

    def after(outcome: pluggy.Result[object], hook: str, *_: object) -> None:
        if outcome.exception is not None:
            write(f"runner: {plugin}: {hook} raised {outcome.exception!r}\n")

    manager.add_hookcall_monitoring(before, after)

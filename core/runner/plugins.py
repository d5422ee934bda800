"""Discovery and registration of plugins, guarded: a broken plugin never takes others down.

Environment variables:
    RUNNER_PLUGINS: Comma-separated names of the plugins to load; empty loads none.
    RUNNER_DISABLE_PLUGINS: Comma-separated names of plugins to leave out.
    RUNNER_TRACE_PLUGINS: ``1`` writes every hook call to stderr.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, final

from runner.errors import PluginError
from runner.observers import OBSERVER_HOOKS, Observers
from runner.plugin_checks import check_entries, explain, register, requirements
from runner.registry import PluginInfo, Registered, Registry, missing_reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import pluggy

    from runner.observers import ObserverReport
    from runner.registry import State

__all__ = ["PluginInfo", "Plugins", "load"]

GROUP = "runner.plugins"
OWN_DISTRIBUTION = "vision-runner"
KIND_OF_HOOK = {
    "runner_register_frameworks": "framework",
    "runner_register_devices": "device",
    "runner_register_datasets": "dataset",
    "runner_register_models": "model",
    "runner_register_optimizers": "optimizer",
    "runner_register_exporters": "exporter",
    "runner_register_predictors": "predictor",
    "runner_register_loggers": "logger",
    "runner_register_importers": "importer",
}


@final
class Plugins:
    """The plugins of this process: what they registered, and who observes runs."""

    def __init__(self, registry: Registry, managers: Mapping[str, pluggy.PluginManager]) -> None:
        self.registry = registry
        self._managers = managers

    def observers(self, report: ObserverReport) -> Observers:
        """Return the observers of one run; ``report`` learns of each that is switched off."""
        observes = {
            info.name: info.observes for info in self.registry.plugins if info.state == "ready"
        }

        def call(plugin: str, hook: str, arguments: Mapping[str, object]) -> object:
            return _call(self._managers[plugin], hook, arguments)

        return Observers(observes, call, report)


def load(
    *,
    extra: Iterable[tuple[str, object]] = (),
    environ: Mapping[str, str] | None = None,
    trace: Callable[[str], object] | None = None,
) -> Plugins:
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
    return Plugins(
        Registry(
            (outcome.info for outcome in outcomes),
            (item for outcome in outcomes for item in outcome.registered),
        ),
        {o.info.name: o.manager for o in outcomes if o.manager is not None},
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
    registered: tuple[Registered, ...] = ()
    manager: pluggy.PluginManager | None = None


def _installed() -> list[_Candidate]:
    candidates = []
    for point in entry_points(group=GROUP):
        distribution = point.dist
        info = PluginInfo(
            name=point.name,
            module=point.value,
            distribution=distribution.name if distribution else "",
            version=distribution.version if distribution else "",
            state="ready",
        )
        candidates.append(_Candidate(info=info, open=point.load))
    # The order decides which predictor runs a format: our own first, then by name, never by the
    # order of folders on disk.
    return sorted(
        candidates,
        key=lambda c: (c.info.distribution != OWN_DISTRIBUTION, c.info.name, c.info.distribution),
    )


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
    try:
        plugin = candidate.open()
        manager = register(plugin, info.name)
        if trace is not None:
            _trace(manager, info.name, trace)
        implemented = {caller.name for caller in manager.get_hookcallers(plugin) or ()}
        needs, install = requirements(plugin)
        entries = {
            kind: check_entries(kind, _call(manager, hook, {}))
            for hook, kind in KIND_OF_HOOK.items()
            if hook in implemented
        }
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001  a plugin may even call sys.exit() when imported
        return _unused(candidate, "failed", explain(error, info.module))
    observes = tuple(hook for hook in OBSERVER_HOOKS if hook in implemented)
    info = replace(info, entries=entries, observes=observes)
    return replace(_availability(info, needs, install), manager=manager)


def _unused(candidate: _Candidate, state: State, reason: str) -> _Outcome:
    return _Outcome(info=replace(candidate.info, state=state, reason=reason))


def _availability(info: PluginInfo, needs: Sequence[str], install: str) -> _Outcome:
    """Find out which requirements of a plugin and its entries are not installed."""
    reason = missing_reason(_missing(needs), install)
    rows = [
        (kind, entry, _missing((*needs, *entry.requires)))
        for kind, entries in info.entries.items()
        for entry in entries
    ]
    if not reason and rows and not info.observes and all(missing for _, _, missing in rows):
        _, entry, missing = rows[0]
        reason = missing_reason(missing, entry.install or install)
    if reason:
        info = replace(info, state="unavailable", reason=reason)
    registered = tuple(
        Registered(
            kind=kind,
            entry=entry,
            plugin=info,
            missing=missing,
            reason=missing_reason(missing, entry.install or install),
        )
        for kind, entry, missing in rows
    )
    return _Outcome(info=info, registered=registered)


def _call(
    manager: pluggy.PluginManager, hook: str, arguments: Mapping[str, object]
) -> Sequence[object]:
    results: Sequence[object] = getattr(manager.hook, hook)(**arguments)
    return results


def _missing(modules: Iterable[str]) -> tuple[str, ...]:
    """Return the modules that are not installed, without importing any."""
    return tuple(dict.fromkeys(name for name in modules if not _is_installed(name)))


def _is_installed(module: str) -> bool:
    top, _, rest = module.partition(".")
    if top in sys.modules:
        return sys.modules[top] is not None
    spec = importlib.util.find_spec(top)
    # Any folder of that name on sys.path is found as a namespace package, which has no origin.
    return spec is not None and (spec.origin is not None or bool(rest))


def _trace(manager: pluggy.PluginManager, plugin: str, write: Callable[[str], object]) -> None:
    def before(hook: str, _impls: object, arguments: Mapping[str, object]) -> None:
        write(f"runner: {plugin}: {hook}({', '.join(arguments)})\n")

    def after(outcome: pluggy.Result[object], hook: str, *_: object) -> None:
        if outcome.exception is not None:
            write(f"runner: {plugin}: {hook} raised {outcome.exception!r}\n")

    manager.add_hookcall_monitoring(before, after)

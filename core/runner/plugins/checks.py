"""What a plugin must promise before any of its entries is used, and how a failure is explained."""

from __future__ import annotations

import ast
import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from traceback import walk_tb
from typing import TYPE_CHECKING, Any, TypeVar, final

import pluggy

from runner import hooks
from runner.entries import Entry, ImporterEntry, Lazy
from runner.plugins import kinds
from runner.plugins.registry import ANY_FRAMEWORK, framework_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from dataclasses import Field
    from typing import TypeGuard

    from runner.plugins.kinds import Kind

E = TypeVar("E", bound=Entry)
NAME = re.compile(r"[a-z0-9_]+")
ITEMS = {
    "requires": "module names",
    "formats": "formats",
    "weight_suffixes": "file endings",
    "interface_variables": "variables",
    "address_variables": "variables",
}
"""What tuples of texts hold."""
SHARES = {"tolerance": "[0, inf)", "min_agreement": "[0, 1]"}


@final
class RejectedPluginError(Exception):
    """The plugin broke a promise; the message says which."""


def register(plugin: object, name: str) -> pluggy.PluginManager:
    """Give a plugin a manager of its own, so that it can be called, and can fail, alone.

    One shared manager would keep half the hooks of a plugin that fails to register, and its
    ``subset_hook_caller`` overlooks implementations that use ``specname``.

    Raises:
        RejectedPluginError: A hook is unknown, has wrong arguments, or is not marked.
    """
    manager = pluggy.PluginManager("runner")
    manager.add_hookspecs(kinds.registration_hooks())
    known = [kind.hook for kind in kinds.KINDS]
    try:
        manager.register(plugin, name)
    except pluggy.PluginValidationError as error:
        raise RejectedPluginError("; ".join(str(error).splitlines())) from error
    for caller in manager.get_hookcallers(plugin) or ():
        if not caller.has_spec():
            raise RejectedPluginError(f"unknown hook '{caller.name}'{_closest(caller.name, known)}")
        if any(impl.wrapper or impl.hookwrapper for impl in caller.get_hookimpls()):
            raise RejectedPluginError(
                f"'{caller.name}' is a hook wrapper; plugins are called one at a time, so there "
                "is nothing to wrap: write a plain @hookimpl function"
            )
    for hook in known:
        if _is_unmarked(manager, plugin, hook):
            raise RejectedPluginError(f"'{hook}' is not marked; put @hookimpl above it")
    if not manager.get_hookcallers(plugin):
        raise RejectedPluginError(
            f"implements no hook; write functions marked @hookimpl; hooks: {', '.join(known)}"
        )
    return manager


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleDefaults:
    """What a plugin's module says once for all of its entries."""

    requires: tuple[str, ...]
    install: str
    framework: str

    @classmethod
    def of(cls, plugin: object) -> ModuleDefaults:
        """Read RUNNER_REQUIRES, RUNNER_INSTALL and RUNNER_FRAMEWORK.

        Raises:
            RejectedPluginError: They are not a tuple of strings and two strings.
        """
        requires: object = getattr(plugin, "RUNNER_REQUIRES", ())
        if not _is_tuple_of_text(requires):
            raise RejectedPluginError(
                f"RUNNER_REQUIRES must be a tuple of module names, not {requires!r}"
            )
        texts = {name: getattr(plugin, name, "") for name in ("RUNNER_INSTALL", "RUNNER_FRAMEWORK")}
        for name, value in texts.items():
            if not isinstance(value, str):
                raise RejectedPluginError(f"{name} must be a string, not {value!r}")
        install, framework = texts.values()
        return cls(requires=requires, install=install, framework=framework)

    def fill(self, entry: E, place: str) -> E:
        """Return an entry with what it leaves to its module, and references that know their place.

        An importer needs none of the modules: it only reads command lines.
        """
        changes: dict[str, Any] = {}
        if _is_tuple_of_text(entry.requires) and not isinstance(entry, ImporterEntry):
            changes["requires"] = tuple(dict.fromkeys((*self.requires, *entry.requires)))
        if entry.install == "":
            changes["install"] = self.install
        if framework_of(entry) == "":
            changes["framework"] = self.framework
        for item in fields(entry):
            value, field = getattr(entry, item.name), f"{place}, {item.name}"
            if isinstance(value, Lazy):
                changes[item.name] = replace(value, place=field)
            elif isinstance(value, partial):
                function, *given = (
                    replace(part, place=field) if isinstance(part, Lazy) else part
                    for part in (value.func, *value.args)
                )
                changes[item.name] = partial(function, *given, **value.keywords)
        return replace(entry, **changes)


def check_entries(
    kind: Kind, results: Sequence[object], plugin: str, defaults: ModuleDefaults
) -> tuple[Entry, ...]:
    """Check what a registration hook returned, and return its entries, complete.

    Raises:
        RejectedPluginError: At least one is not a valid entry of this kind; all are named.
    """
    entries: list[Entry] = []
    problems: list[str] = []
    if not results:  # pluggy leaves out None
        raise RejectedPluginError(f"the {kind.name} hook must return or yield entries, not None")
    for result in results:
        if isinstance(result, str) or not isinstance(result, Iterable):
            raise RejectedPluginError(
                f"the {kind.name} hook must return or yield entries, not {result!r}"
            )
        for given in result:
            entry = given
            if isinstance(given, kind.types):
                entry = defaults.fill(given, f"{kind.name} {given.name!r} of {plugin}")
            problems += _problems(kind, entry)
            entries.append(entry)
    if not problems:
        problems = list(_duplicates(kind, entries))
    if problems:
        raise RejectedPluginError("; ".join(problems))
    return tuple(entries)


def explain(error: BaseException, module: str) -> str:
    """Describe a failure on one line, with the innermost place inside the plugin's own files."""
    text = " ".join(str(error).split())
    if isinstance(error, RejectedPluginError):
        return text
    message = f"{type(error).__name__}: {text}" if text else type(error).__name__
    if isinstance(error, SyntaxError):
        return f"SyntaxError: {error.msg} ({error.filename}:{error.lineno})"
    # The package that holds the module, so that frames of helpers beside it count as well.
    target = module.partition(":")[0]
    package = target.rpartition(".")[0] or target
    place = ""
    for frame, line in walk_tb(error.__traceback__):
        name = str(frame.f_globals.get("__name__", ""))
        if name == package or name.startswith(f"{package}."):
            place = f" ({frame.f_code.co_filename}:{line})"
    return message + place


def _problems(kind: Kind, entry: object) -> Iterator[str]:
    """Yield what is wrong with one entry."""
    if not isinstance(entry, kind.types):
        names = " or ".join(item.__name__ for item in kind.types)
        yield f"the {kind.name} hook yielded {entry!r:.80} where a {names} is expected"
        return
    place = f"{kind.name} {entry.name!r}"
    if isinstance(entry.name, str) and not NAME.fullmatch(entry.name):
        yield f"{place}: a name has lowercase letters, digits and underscores only"
    framework = framework_of(entry)
    if not isinstance(framework, str) or not isinstance(entry.summary, str):
        yield f"{place}: framework and summary must be text, not {framework!r}, {entry.summary!r}"
        return
    needs_one = any(item.name == "framework" and item.default == "" for item in fields(entry))
    if not framework:
        yield f"{place}: which framework? say framework=, or RUNNER_FRAMEWORK once for the module"
    elif not NAME.fullmatch(framework) or (needs_one and framework == ANY_FRAMEWORK):
        yield f"{place}: framework must name one framework, not {framework!r}"
    if not entry.summary.strip() or "\n" in entry.summary:
        yield f"{place}: summary must be one line, not {entry.summary!r}"
    if not (isinstance(entry.config, type) and is_dataclass(entry.config)):
        yield f"{place}: config must be a class made with runner.options, not {entry.config!r}"
    yield from _field_problems(place, entry)


def _field_problems(place: str, entry: Entry) -> Iterator[str]:
    for item in fields(entry):
        value = getattr(entry, item.name)
        if item.type == "str" and not isinstance(value, str):
            yield f"{place}: {item.name} must be text, not {value!r}"
        if item.type == "tuple[str, ...]" and not _is_tuple_of_text(value):
            what = ITEMS.get(item.name, "texts")
            yield f"{place}: {item.name} must be a tuple of {what}, not {value!r}"
        if item.name in SHARES and not _is_share(value, SHARES[item.name]):
            yield f"{place}: {item.name} must be a number in {SHARES[item.name]}, not {value!r}"
        if argument_count(item) is not None and value is not None and not callable(value):
            yield f"{place}: {item.name} must be callable, not {value!r}"


def argument_count(item: Field[Any]) -> int | None:
    """Return with how many arguments core calls what a field of an entry holds.

    Its annotation says so: ``Callable[[Any, int], Any]``. ``None`` if the field holds a value.
    """
    if "Callable[" not in str(item.type):
        return None
    for node in ast.walk(ast.parse(str(item.type), mode="eval")):
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Callable":
            assert isinstance(node.slice, ast.Tuple), f"Callable without arguments: {item}"
            arguments = node.slice.elts[0]
            assert isinstance(arguments, ast.List), f"Callable without arguments: {item}"
            return len(arguments.elts)
    return None


def _is_tuple_of_text(value: object) -> TypeGuard[tuple[str, ...]]:
    return isinstance(value, tuple) and all(isinstance(item, str) and item for item in value)


def _is_share(value: object, bounds: str) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return False
    return value >= 0 and (bounds != "[0, 1]" or value <= 1)


def _duplicates(kind: Kind, entries: Sequence[Entry]) -> Iterator[str]:
    """Yield the names that one plugin registers twice, also as of one framework and of any."""
    exact = Counter((entry.name, framework_of(entry)) for entry in entries)
    names_for_any = {entry.name for entry in entries if framework_of(entry) == ANY_FRAMEWORK}
    for (name, framework), count in exact.items():
        if count > 1 or (framework != ANY_FRAMEWORK and name in names_for_any):
            yield f"{kind.name} '{name}' is registered twice for framework {framework}"


def _is_unmarked(manager: pluggy.PluginManager, plugin: object, hook: str) -> bool:
    """Tell whether a plugin defines a hook but forgot the marker."""
    function = getattr(plugin, hook, None)
    is_spec = function is getattr(hooks, hook, None)
    return callable(function) and not is_spec and not manager.parse_hookimpl_opts(plugin, hook)


def _closest(name: str, known: Sequence[str]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, known, n=1)
    hint = f"; did you mean '{close[0]}'?" if close else ""
    return f"{hint}; hooks: {', '.join(known)}"

"""References to functions whose modules are imported late, and what a module says once."""

from __future__ import annotations

import sys
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from runner import ImporterEntry, ModelEntry, hookimpl, lazy
from runner.errors import PluginError
from runner.plugins.loading import load
from runner.testing import check_plugin

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from runner.plugins.registry import Registry


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with a network, on the path."""
    folder = tmp_path / "acme_lazy"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "net.py").write_text(
        "def tiny(options, num_classes): return f'{options} {num_classes}'\n"
        "def named(name, options, num_classes): return f'{name} {options} {num_classes}'\n"
    )
    (folder / "lost.py").write_text("import acme_absent\n\ndef tiny(options, num_classes): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.startswith("acme_lazy")]:
        monkeypatch.delitem(sys.modules, name)
    return folder


def registry_of(*models: ModelEntry, **module: object) -> Registry:
    plugin = ModuleType("acme")
    vars(plugin).update(module, runner_register_models=lambda: models)
    hookimpl(plugin.runner_register_models)
    return load(extra=[("acme", plugin)], environ={"RUNNER_PLUGINS": ""})


def model(build: Callable[..., Any], **fields: Any) -> ModelEntry:
    given: dict[str, Any] = {"name": "tiny", "framework": "f", "summary": "s", "build": build}
    return ModelEntry(**given | fields)


def test_the_module_is_imported_by_the_first_call(package: Path) -> None:
    entry = registry_of(model(lazy("acme_lazy.net:tiny"))).find(ModelEntry, "tiny").entry
    assert "acme_lazy" not in sys.modules
    assert entry.build("o", 3) == "o 3"
    assert "acme_lazy.net" in sys.modules


def test_a_partial_passes_arguments_on(package: Path) -> None:
    build = partial(lazy("acme_lazy.net:named"), "resnet")
    assert registry_of(model(build)).find(ModelEntry, "tiny").entry.build("o", 3) == "resnet o 3"


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("acme_lazy.net:tini", r"net.py has no 'tini'; did you mean 'tiny'\?; expected"),
        ("acme_lazy.ned:tiny", "there is no module acme_lazy.ned; expected an installed module"),
        ("acme_absent.net:tiny", "there is no module acme_absent; expected an installed module"),
    ],
)
@pytest.mark.parametrize("wrap", [lambda build: build, lambda build: partial(build, "x")])
def test_what_leads_nowhere_is_named_with_its_place(
    package: Path, target: str, message: str, wrap: Callable[..., Any]
) -> None:
    entry = registry_of(model(wrap(lazy(target)))).find(ModelEntry, "tiny").entry
    place = rf"model 'tiny' of plugin 'acme' \(acme\), build is lazy\('{target}'\), and .*"
    with pytest.raises(PluginError, match=place + message):
        entry.build("o", 3)


def test_a_module_that_another_one_lacks_is_no_wrong_reference(package: Path) -> None:
    with pytest.raises(ModuleNotFoundError, match="acme_absent"):
        lazy("acme_lazy.lost:tiny")("o", 3)


@pytest.mark.parametrize("target", ["net", "net:", ":tiny", "net.tiny", "net:a.b", "a b:c"])
def test_a_reference_has_a_module_and_a_name(target: str) -> None:
    with pytest.raises(ValueError, match=r"expected 'package.module:name'"):
        lazy(target)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("build=lazy('acme_lazy.net:tini')", r"model 'tiny' of .*, build is .* has no 'tini'"),
        ("build=lazy('acme_lazy.net:named')", r"build is called with 2 positional arguments, but"),
        ("build=lazy('acme_lazy.lost:tiny')", r"cannot be imported: No module named 'acme_absent'"),
        ("build=partial(lazy('acme_lazy.net:tiny'), 1)", r"is called with 3 positional arguments"),
        ("build=partial(print, lazy('acme_lazy.net:tini'))", r", build is .* has no 'tini'"),
        ("build=lazy('acme_lazy.net:tiny')", ""),
        ("build=partial(lazy('acme_lazy.net:named'), 'x')", ""),
        ("build=lazy('acme_lazy.lost:tiny'), requires=('acme_absent',)", ""),
    ],
)
def test_the_kit_resolves_every_reference(
    package: Path, monkeypatch: pytest.MonkeyPatch, line: str, message: str
) -> None:
    (package / "plugin.py").write_text(
        "from functools import partial\n"
        "from runner import ModelEntry, hookimpl, lazy\n"
        "@hookimpl\n"
        "def runner_register_models():\n"
        f"    yield ModelEntry(name='tiny', framework='f', summary='s', {line})\n"
    )
    if not message:
        check_plugin("acme_lazy.plugin")
        return
    with pytest.raises(AssertionError, match=message):
        check_plugin("acme_lazy.plugin")


def test_a_module_says_once_what_its_entries_have_in_common() -> None:
    own = {"requires": ("acme_more",), "install": "pip install acme[more]", "framework": "own"}
    registry = registry_of(
        model(print, framework=""),
        model(print, name="other", **own),
        RUNNER_FRAMEWORK="f",
        RUNNER_REQUIRES=("acme_absent",),
        RUNNER_INSTALL="pip install acme",
    )
    first = registry.find(ModelEntry, "tiny")
    assert first.reason == "acme_absent is not installed; pip install acme"
    assert (first.framework, first.entry.requires) == ("f", ("acme_absent",))
    other = registry.find(ModelEntry, "other")
    assert other.reason == "acme_absent, acme_more are not installed; pip install acme[more]"
    assert other.framework == "own"


def test_an_importer_needs_nothing_of_its_module() -> None:
    def offered() -> list[ImporterEntry]:
        return [ImporterEntry(name="i", summary="s", recognises=bool, translate=print)]  # type: ignore[arg-type]

    registry = registry_of(
        runner_register_importers=hookimpl(offered), RUNNER_REQUIRES=("acme_absent",)
    )
    assert registry.find(ImporterEntry, "i").reason == ""


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        ({}, "model 'tiny': which framework? say framework=, or RUNNER_FRAMEWORK once for the"),
        ({"RUNNER_FRAMEWORK": 3}, "RUNNER_FRAMEWORK must be a string, not 3"),
        ({"RUNNER_INSTALL": ["x"]}, "RUNNER_INSTALL must be a string, not ['x']"),
        ({"RUNNER_REQUIRES": "torch"}, "RUNNER_REQUIRES must be a tuple of module names, not"),
        ({"RUNNER_FRAMEWORK": "any"}, "model 'tiny': framework must name one framework, not 'any'"),
    ],
)
def test_what_a_module_says_is_checked(module: dict[str, object], reason: str) -> None:
    info = registry_of(model(print, framework=""), **module).plugins[-1]
    assert info.state == "failed"
    assert info.reason.startswith(reason)

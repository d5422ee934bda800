"""Discovery is tested on real distribution metadata: tests/data/third_party is put on sys.path."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

from runner import DatasetEntry, LoggerEntry, ModelEntry, hookimpl
from runner.cli import doctor
from runner.cli.tables import entries_data, entries_table, plugins_data, plugins_table
from runner.entries import ExportEntry
from runner.errors import PluginError
from runner.plugins import kinds
from runner.plugins.loading import load
from runner.plugins.registry import Registry, UnknownEntryError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from runner.plugins.registry import PluginInfo

    LoadCases = Callable[..., Registry]

THIRD_PARTY = Path(__file__).parents[2] / "data" / "third_party"


@pytest.fixture
def load_cases(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoadCases]:
    """Install fake distributions and load them, and no others, by the names of their plugins."""
    before = set(sys.modules)

    def load_them(*cases: str, plugins: str = "", **environ: str) -> Registry:
        for case in cases:
            monkeypatch.syspath_prepend(THIRD_PARTY / case)
        names = plugins or ",".join("acme" if case == "success" else case for case in cases)
        return load(environ={"RUNNER_PLUGINS": names, **environ})

    yield load_them
    for name in set(sys.modules) - before:
        if name.startswith("acme_"):
            del sys.modules[name]


def info_of(registry: Registry, name: str) -> PluginInfo:
    return next(info for info in registry.plugins if info.name == name)


def module(**attributes: object) -> ModuleType:
    made = ModuleType("inline_plugin")
    vars(made).update(attributes)
    return made


def install(folder: Path, name: str, code: str, entry: str = "", metadata: str = "") -> None:
    """Write a distribution of one module."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / f"{name}.py").write_text(code)
    (info / "entry_points.txt").write_text(f"[runner.plugins]\n{entry or f'{name} = {name}'}\n")
    (info / "METADATA").write_text(
        metadata or f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
    )


def load_inline(**attributes: object) -> Registry:
    return load(extra=[("inline", module(**attributes))], environ={"RUNNER_PLUGINS": ""})


def model(name: str = "net", framework: str = "fake", **more: object) -> ModelEntry:
    return ModelEntry(
        name=name,
        framework=framework,
        summary="A test",
        build=lambda *_: None,
        **more,  # type: ignore[arg-type]  # tests also pass wrong types
    )


def registers(*entries: object) -> object:
    @hookimpl
    def runner_register_models() -> object:
        return entries

    return runner_register_models


def test_a_working_distribution_is_ready(load_cases: LoadCases) -> None:
    registry = load_cases("success")
    info = info_of(registry, "acme")
    assert (info.state, info.reason) == ("ready", "")
    assert (info.distribution, info.version) == ("acme-vision", "1.2.0")
    assert info.module == "acme_vision.plugin"
    found = registry.find(ModelEntry, "acme_net", "fake")
    assert found.plugin is info
    assert found.missing == ()


@pytest.mark.parametrize(
    ("case", "parts"),
    [
        ("import_error", ["ImportError: cannot import name 'gone'", "helper.py:3)"]),
        ("unknown_hook", ["'runner_register_model'", "did you mean 'runner_register_models'"]),
        ("wrong_argument", ["runner_register_models", "registry"]),
        ("raises_in_hook", ["RuntimeError: the licence server does not answer", "acme_raises.py:"]),
        (
            "bad_entry",
            [
                "'resnet50' where a ModelEntry is expected",
                "OptimizerEntry(name='other_kind'",
                "'Bad-Name': a name has lowercase letters",
                "'two_lines': summary must be one line",
            ],
        ),
    ],
)
def test_a_broken_plugin_is_explained_and_the_rest_live(
    load_cases: LoadCases, case: str, parts: list[str]
) -> None:
    registry = load_cases("success", case)
    info = info_of(registry, case)
    assert info.state == "failed"
    for part in parts:
        assert part in info.reason
    assert info.distribution.startswith("acme-")
    assert "\n" not in info.reason
    assert not info.entries
    assert registry.find(ModelEntry, "acme_net", "fake").entry.name == "acme_net"
    with pytest.raises(UnknownEntryError, match=f"plugin '{case}' .* is failed") as caught:
        registry.find(ModelEntry, "never", "fake")
    assert info.reason in str(caught.value)


def test_two_distributions_with_one_plugin_name(load_cases: LoadCases) -> None:
    registry = load_cases("same_name_a", "same_name_b", plugins="same_name")
    twins = [info for info in registry.plugins if info.name == "same_name"]
    assert [info.state for info in twins] == ["clash", "clash"]
    for info in twins:
        assert "acme-same-name-a 1.0.0" in info.reason
        assert "acme-same-name-b 2.0.0" in info.reason
    assert not any(name.startswith("acme_same_name") for name in sys.modules)


def test_two_plugins_with_one_entry_name_lose_only_that_name(load_cases: LoadCases) -> None:
    registry = load_cases("clash_a", "clash_b")
    with pytest.raises(UnknownEntryError) as caught:
        registry.find(ModelEntry, "twin", "fake")
    assert "acme-clash-a 1.0.0" in str(caught.value)
    assert "acme-clash-b 2.0.0" in str(caught.value)
    assert [item.entry.name for item in registry.entries(ModelEntry)] == ["only_a", "only_b"]
    assert "model 'twin' for fake is registered by" in plugins_table(registry)
    assert "registered by several plugins: clash_a, clash_b" in entries_table(
        registry, kinds.of(ModelEntry)
    )


def test_the_environment_chooses_plugins(load_cases: LoadCases) -> None:
    registry = load_cases("success", "clash_a", plugins="acme,clash_a")
    assert {info_of(registry, n).state for n in ("acme", "clash_a")} == {"ready"}
    registry = load_cases(plugins="acme")
    assert info_of(registry, "clash_a").state == "disabled"
    assert "RUNNER_PLUGINS" in info_of(registry, "clash_a").reason
    registry = load_cases(plugins="acme,clash_a", RUNNER_DISABLE_PLUGINS="acme")
    assert info_of(registry, "acme").state == "disabled"
    with pytest.raises(UnknownEntryError, match="RUNNER_DISABLE_PLUGINS names it"):
        registry.find(ModelEntry, "acme_net", "fake")
    none = load(environ={"RUNNER_PLUGINS": ""})
    assert {info.state for info in none.plugins} == {"disabled"}


@pytest.mark.parametrize("variable", ["RUNNER_PLUGINS", "RUNNER_DISABLE_PLUGINS"])
def test_an_unknown_plugin_name_in_the_environment(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.syspath_prepend(THIRD_PARTY / "success")
    with pytest.raises(PluginError, match=rf"{variable} names .*'acne'.* did you mean 'acme'\?"):
        load(environ={variable: "acne"})


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({}, "implements no hook"),
        ({"runner_register_models": lambda: ()}, "put @hookimpl above it"),
        ({"runner_register_models": hookimpl(lambda: "abc")}, "not 'abc'"),
        ({"runner_register_models": registers(model(), model())}, "registered twice"),
        ({"runner_register_models": registers(model(framework="any"))}, "must name one framework"),
        ({"runner_register_models": registers(model(config=int))}, "runner.options"),
        ({"runner_register_models": registers(model(requires="torch"))}, "tuple of module names"),
        ({"runner_register_models": hookimpl(lambda: None)}, "not None"),
        ({"runner_register_models": hookimpl(lambda: 3)}, "not 3"),
        ({"runner_register_models": hookimpl(wrapper=True)(lambda: (yield))}, "hook wrapper"),
        ({"runner_register_models": registers(), "RUNNER_REQUIRES": "x"}, "RUNNER_REQUIRES must"),
        ({"runner_register_models": hookimpl(lambda: sys.exit(3))}, "SystemExit: 3"),
    ],
)
def test_what_a_plugin_must_promise(attributes: dict[str, object], message: str) -> None:
    info = info_of(load_inline(**attributes), "inline")
    assert info.state == "failed"
    assert message in info.reason


def test_a_hook_under_another_name_belongs_to_its_own_plugin_only() -> None:
    @hookimpl(specname="runner_register_models")
    def offer() -> tuple[ModelEntry, ...]:
        return (model("one"),)

    registry = load(
        extra=[
            ("one", module(offer=offer)),
            ("two", module(runner_register_models=registers(model("two")))),
        ],
        environ={"RUNNER_PLUGINS": ""},
    )
    owners = {i.entry.name: i.plugin.name for i in registry.entries(ModelEntry)}
    assert owners == {"one": "one", "two": "two"}


def test_missing_requirements_make_entries_and_plugins_unavailable() -> None:
    absent = model("absent", requires=("absent_package.part",), install="pip install absent")
    registry = load_inline(runner_register_models=registers(absent))
    info = info_of(registry, "inline")
    reason = "absent_package.part is not installed; pip install absent"
    assert (info.state, info.reason) == ("unavailable", reason)

    registry = load_inline(runner_register_models=registers(absent, model("net")))
    found = registry.find(ModelEntry, "absent", "fake")
    assert (found.plugin.state, found.missing) == ("ready", ("absent_package.part",))
    assert found.reason == reason
    assert reason in entries_table(registry, kinds.of(ModelEntry))


def test_a_folder_of_the_same_name_is_not_an_installed_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "absent_package").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    registry = load_inline(runner_register_models=registers(model(requires=("absent_package",))))
    assert info_of(registry, "inline").state == "unavailable"


def test_a_missing_requirement_of_the_module_counts_for_its_entries() -> None:
    registry = load_inline(
        runner_register_models=registers(model()),
        RUNNER_REQUIRES=("absent_package",),
        RUNNER_INSTALL="pip install absent",
    )
    assert info_of(registry, "inline").state == "unavailable"
    found = registry.find(ModelEntry, "net")
    assert found.reason == "absent_package is not installed; pip install absent"


def test_lists_are_plain_data_and_aligned_text(load_cases: LoadCases) -> None:
    registry = load_cases("success", "import_error")
    data = plugins_data(registry)
    acme = next(row for row in json.loads(json.dumps(data)) if row["name"] == "acme")
    assert acme["entries"] == {
        "model": entries_data(registry, kinds.of(ModelEntry)),
        "logger": entries_data(registry, kinds.of(LoggerEntry)),
    }
    assert entries_data(registry, kinds.of(ModelEntry)) == [
        {
            "name": "acme_net",
            "framework": "fake",
            "plugin": "acme",
            "summary": "acme_net of a test",
            "available": True,
            "reason": "",
        }
    ]
    lines = plugins_table(registry).splitlines()
    assert lines[0].split() == ["plugin", "version", "distribution", "state", "registers"]
    assert any(
        line.split() == ["acme", "1.2.0", "acme-vision", "ready", "1", "model,", "1", "logger"]
        for line in lines
    )
    assert any(line.startswith("import_error: ImportError: cannot") for line in lines)
    assert entries_table(registry, kinds.of(ExportEntry)).startswith("no exporter is registered")


def test_calls_are_traced_on_request() -> None:
    @hookimpl
    def runner_register_models() -> list[ModelEntry]:
        raise RuntimeError("no")

    lines: list[str] = []
    load(
        extra=[("inline", module(runner_register_models=runner_register_models))],
        environ={"RUNNER_PLUGINS": "", "RUNNER_TRACE_PLUGINS": "1"},
        trace=lines.append,
    )
    assert lines == [
        "runner: inline: runner_register_models()\n",
        "runner: inline: runner_register_models raised RuntimeError('no')\n",
    ]


def test_a_dataset_for_any_framework_clashes_with_one_for_a_framework() -> None:
    def offers(framework: str) -> ModuleType:
        @hookimpl
        def runner_register_datasets() -> list[DatasetEntry]:
            entry = DatasetEntry(
                name="shapes",
                framework=framework,
                summary="Shapes",
                open=lambda *_: pytest.fail("opened"),
            )
            return [entry]

        return module(runner_register_datasets=runner_register_datasets)

    registry = load(
        extra=[("one", offers("any")), ("two", offers("fake"))], environ={"RUNNER_PLUGINS": ""}
    )
    with pytest.raises(UnknownEntryError, match=r"plugin 'one' .* and plugin 'two'"):
        registry.find(DatasetEntry, "shapes", "fake")
    assert registry.find(DatasetEntry, "shapes", "other").plugin.name == "one"


def test_loading_imports_no_framework_and_no_heavy_package() -> None:
    program = (
        "import sys\n"
        "from runner.plugins.loading import load\n"
        "from runner.cli.tables import plugins_table, entries_table\n"
        "from runner.plugins.kinds import KINDS\n"
        "registry = load()\n"
        "plugins_table(registry), [entries_table(registry, kind) for kind in KINDS]\n"
        "heavy = {'torch', 'torchvision', 'numpy', 'PIL', 'pydantic', 'rich', 'yaml', 'sklearn',"
        " 'onnx', 'onnxruntime', 'mindspore', 'tensorboardX'}\n"
        "print(sorted(heavy & set(sys.modules)), [p.state for p in registry.plugins])\n"
    )
    paths = [str(THIRD_PARTY / "success"), *filter(None, sys.path)]
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=True,
    )
    heavy, _, states = done.stdout.partition("] ")
    assert heavy == "["
    assert "'ready'" in states


def test_a_plugin_whose_library_crashes_is_told(tmp_path):
    """A crash ends the process, and what the kernel says of it names nobody."""
    (tmp_path / "crash.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    metadata = tmp_path / "crash-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: crash\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text("[runner.plugins]\ncrash = crash\n")
    done = subprocess.run(
        [sys.executable, "-m", "runner", "list-plugins"],
        env={**os.environ, "PYTHONPATH": str(tmp_path), "RUNNER_PLUGINS": "crash"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGSEGV
    assert "Segmentation fault" in done.stderr
    assert f'"{tmp_path}/crash.py", line 2' in done.stderr


def test_metadata_of_another_copy_of_the_product_hides_nothing(tmp_path, monkeypatch):
    left = tmp_path / "vision_runner-9.dist-info"
    left.mkdir()
    (left / "METADATA").write_text("Metadata-Version: 2.1\nName: vision-runner\nVersion: 9\n")
    (left / "entry_points.txt").write_text("[runner.plugins]\ntorch = runner_torch.plugin\n")
    before = [info for info in load(environ={}).plugins if info.name == "data"]
    monkeypatch.syspath_prepend(tmp_path)
    registry = load(environ={"RUNNER_PLUGINS": "data"})
    assert [info for info in registry.plugins if info.name == "data"] == before
    registry.find(DatasetEntry, "class_folders", "torch")
    [finding] = doctor.copies()
    assert not finding.ok
    assert f"9 was left behind in {tmp_path}" in finding.text


CHANGES = """
import logging, os, signal
os.chdir("/")
signal.signal(signal.SIGTERM, signal.SIG_IGN)
logging.basicConfig(level=10)
from runner import hookimpl
@hookimpl
def runner_register_models(): return ()
"""


def test_what_an_import_changes_of_the_process_is_undone_and_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    install(tmp_path, "acme_changes", CHANGES)
    monkeypatch.syspath_prepend(tmp_path)
    before = signal.getsignal(signal.SIGTERM), logging.getLogger().level
    info = info_of(load(environ={"RUNNER_PLUGINS": "acme_changes"}), "acme_changes")
    assert (signal.getsignal(signal.SIGTERM), logging.getLogger().level) == before
    assert Path.cwd() == tmp_path
    assert info.state == "ready"
    assert "importing it changed the current folder and what signals do" in info.reason


@pytest.mark.parametrize(
    ("entry", "metadata", "reason"),
    [
        ("acme_odd = no such module", "", "its entry point 'no such module' is malformed"),
        ("", "Metadata-Version: 2.1\n", "implements no hook"),
    ],
)
def test_odd_metadata_is_named(tmp_path, monkeypatch, entry, metadata, reason):
    install(tmp_path, "acme_odd", "x = 1\n", entry, metadata)
    monkeypatch.syspath_prepend(tmp_path)
    info = info_of(load(environ={"RUNNER_PLUGINS": "acme_odd"}), "acme_odd")
    assert info.state == "failed"
    assert reason in info.reason


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"requires": (None,)}, "requires must be a tuple of module names, not (None,)"),
        ({"requires": "torch"}, "requires must be a tuple of module names, not 'torch'"),
        ({"install": None}, "install must be text, not None"),
        ({"framework": 3}, "framework and summary must be text, not 3"),
    ],
)
def test_fields_of_an_entry_have_their_types(changes, reason):
    fields = {"name": "net", "framework": "torch", "summary": "x", "build": print, **changes}
    registry = load_inline(runner_register_models=hookimpl(specname="runner_register_models")(
        lambda: [ModelEntry(**fields)]))  # fmt: skip
    info = info_of(registry, "inline")
    assert info.state == "failed"
    assert reason in info.reason


def test_a_framework_that_is_not_installed_is_not_ready_for_its_importer(monkeypatch):
    monkeypatch.setitem(sys.modules, "mindspore", None)
    info = info_of(load(environ={"RUNNER_PLUGINS": "mindspore"}), "mindspore")
    assert info.state == "unavailable"
    assert "mindspore is not installed" in info.reason


def test_a_plugin_says_how_many_of_its_entries_lack_modules():
    entries = [
        ModelEntry(name=name, framework="torch", summary="x", build=print, requires=needs)
        for name, needs in (("one", ()), ("two", ("no_such_module",)))
    ]
    hook = hookimpl(specname="runner_register_models")(lambda: entries)
    info = info_of(load_inline(runner_register_models=hook), "inline")
    assert info.state == "ready"
    assert info.reason == "1 of 2 entries lacks what is not installed: no_such_module"

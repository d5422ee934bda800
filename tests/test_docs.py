"""What the documentation says is what the program does."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass, fields
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer

import runner
from runner.cli import application
from runner.errors import RecipeError
from runner.plugins.kinds import KINDS
from runner.plugins.loading import load
from runner.recipe import compose, validate
from runner.recipe.validate import sections
from runner.testing import check_plugin
from runner_torch.traits import DeviceTraits

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runner.plugins.registry import Registry

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
RECIPES, PLUGINS, ARCHITECTURE = (
    ROOT / "docs" / f"{name}.md" for name in ("recipes", "plugins", "architecture")
)
ENVIRONMENT = {"CIFAR10": "/data", "IMAGENET": "/data", "BATCH": "64"}

# What the snippets of docs/recipes.md are laid on.
BASE = """\
summary: Base
framework: torch
device: cpu
dataset: synthetic
transforms:
  train: [{name: resize, exact: [32, 32]}]
  eval: [{name: resize, exact: [32, 32]}]
model: resnet18
optimizer: {name: sgd, learning_rate: 0.1}
train: {epochs: 100, batch_size: 8}
"""


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the name behind it, its text, and where it stands."""

    language: str
    name: str
    text: str
    place: str


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for match in re.finditer(r"^```(\w*)[ ]?(.*)\n((?:.*\n)*?)```$", text, re.MULTILINE):
        line = text[: match.start()].count("\n") + 1
        yield Block(match[1], match[2], match[3], f"{page.relative_to(ROOT)}:{line}")


def blocks_in(pages: list[Path], language: str) -> list[Any]:
    found = [block for page in pages for block in blocks(page) if block.language == language]
    return [pytest.param(block, id=block.place) for block in found]


def table_under(page: Path, header: str) -> list[list[str]]:
    """Return the cells of the table that begins with a header line."""
    _, found, rest = page.read_text(encoding="utf-8").partition(f"{header}\n")
    assert found, f"{page} has no table {header!r}"
    lines = rest.splitlines()[1:]
    rows = lines[: next((i for i, line in enumerate(lines) if not line.startswith("|")), None)]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


@pytest.fixture(scope="module")
def reference() -> Any:
    """Import docs/build_recipe_reference.py."""
    path = ROOT / "docs" / "build_recipe_reference.py"
    spec = importlib.util.spec_from_file_location("build_recipe_reference", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def registry(reference: Any) -> Registry:
    """Provide the entries of this distribution, whatever else is installed."""
    own: Registry = reference.own_registry()
    return own


def test_the_reference_of_recipes_is_current(reference):
    text = RECIPES.read_text(encoding="utf-8")
    current = reference.replace_generated(text, reference.reference())
    assert text == current, f"docs/recipes.md is not current; run: {reference.COMMAND}"


def test_the_reference_has_every_section_and_entry(reference, registry):
    text = reference.reference()
    names = [item.entry.name for kind in KINDS for item in registry.entries(kind.entry)]
    assert len(names) > 30
    assert [name for name in [*sections(), *names] if f"`{name}`" not in text] == []


# README and docs: links, commands, recipes


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    anchors = {"#" + re.sub(r"[^\w\- ]", "", title).lower().replace(" ", "-") for title in headings}
    broken = [
        target
        for target in targets
        if "://" not in target
        and (
            target not in anchors
            if target.startswith("#")
            else not (page.parent / target.partition("#")[0]).exists()
        )
    ]
    assert broken == []


def command_lines() -> Iterator[Any]:
    for page in PAGES:
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
            quoted = re.findall(r"`(runner [a-z][^`]*)`", line)
            plain = re.findall(r"^\s*(?:\$ )?(?:\$\(BIN\)/)?(runner [a-z].*)$", line)
            for text in [*quoted, *plain]:
                yield pytest.param(text, id=f"{page.name}:{number}:{text[:40]}")


@pytest.mark.parametrize("line", list(command_lines()))
def test_commands_and_options_exist(line):
    command: Any = typer.main.get_command(application())
    own = line.partition(" > ")[0].partition("#")[0].partition(" -- ")[0]
    words = shlex.split(own)[1:]
    first, *_ = words
    while hasattr(command, "commands"):
        name = words.pop(0)
        assert name in command.commands, f"no command {name!r}: {', '.join(command.commands)}"
        command = command.commands[name]
    known = {option: parameter for parameter in command.params for option in parameter.opts}
    given = [word.partition("=")[0] for word in words if word.startswith("--")]
    assert [option for option in given if option not in known] == []
    if first == "list" and words:
        assert set(words[0].split("|")) <= {*(kind.plural for kind in KINDS), "recipes"}


def test_options_that_stand_alone_exist():
    group: Any = typer.main.get_command(application())
    known = {o for command in group.commands.values() for p in command.params for o in p.opts}
    text = PAGES[0].read_text(encoding="utf-8")
    given = re.findall(r"`(--[a-z-]+)", text)
    assert len(given) > 5
    assert [option for option in given if option not in known] == []


def test_every_command_is_in_the_readme():
    group: Any = typer.main.get_command(application())
    text = PAGES[0].read_text(encoding="utf-8")
    assert [name for name in group.commands if f"`runner {name}" not in text] == []


@pytest.mark.parametrize("block", blocks_in(PAGES, "yaml"))
def test_recipes_are_valid(block, registry, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / (block.name or "recipe.yaml")
    is_part = "framework:" not in block.text and "extends:" not in block.text
    (tmp_path / "base.yaml").write_text(BASE)
    file.write_text(("extends: base.yaml\n" if is_part else "") + block.text)

    document = compose(file, environ=ENVIRONMENT, registry=registry)
    if not block.name:
        validate(document, registry)
        return
    with pytest.raises(RecipeError) as error:
        validate(document, registry)
    shown = [other for other in blocks(RECIPES) if other.name == f"errors of {block.name}"]
    expected = [f"error: {problem}" for problem in error.value.problems]
    assert [other.text.splitlines() for other in shown] == [expected]


def test_every_recipe_that_ships_is_described():
    names = {path.stem for path in (ROOT / "recipes").glob("[!_]*.yaml")}
    rows = table_under(RECIPES, "| recipe | what |")
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row[0])} == names


# docs/plugins.md: tables and examples


def test_the_table_of_hooks_is_complete():
    types = {kind.hook: ", ".join(f"`{entry.__name__}`" for entry in kind.types) for kind in KINDS}
    rows = table_under(PLUGINS, "| hook | entry |")
    assert {row[0].strip("`"): row[1] for row in rows} == types


def test_the_readme_names_every_hook():
    text = PAGES[0].read_text(encoding="utf-8")
    assert [kind.hook for kind in KINDS if kind.hook not in text] == []


def test_the_table_of_entries_is_complete():
    shown = {
        row[0].strip("`"): {
            re.split(r"[`(]", part)[1] for part in re.findall(r"`\w+[^`]*`", row[1])
        }
        for row in table_under(PLUGINS, "| entry | fields |")
    }
    common = {row[0].strip("`") for row in table_under(PLUGINS, "| field | meaning |")}
    for entry in (entry for kind in KINDS for entry in kind.types):
        assert {item.name for item in fields(entry)} - common == shown[entry.__name__] - {"any"}


def test_the_table_of_traits_is_complete():
    rows = table_under(PLUGINS, "| trait | meaning |")
    assert {row[0].strip("`") for row in rows} == {item.name for item in fields(DeviceTraits)}


def test_the_table_of_what_frameworks_share_is_complete():
    rows = table_under(PLUGINS, "| module | holds |")
    files = (ROOT / "core" / "runner" / "framework").glob("[!_]*.py")
    assert {row[0].strip("`") for row in rows} == {f"runner.framework.{f.stem}" for f in files}


def test_the_table_of_engine_methods_is_complete():
    rows = table_under(PLUGINS, "| method | does |")
    shown = {name for row in rows for name in re.findall(r"`(\w+)\(", row[0])}
    tree = ast.parse((ROOT / "core" / "runner" / "contracts.py").read_text(encoding="utf-8"))
    engine = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "Engine")
    assert shown == {node.name for node in engine.body if isinstance(node, ast.FunctionDef)}


@pytest.fixture
def examples(tmp_path, monkeypatch):
    """Write the modules of docs/plugins.md to a folder from which they can be imported."""
    for block in blocks(PLUGINS):
        if block.name:
            (tmp_path / block.name).write_text(block.text)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("acme_")]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("module", "registers"),
    [
        ("acme_models", {"model": ["patch_net"]}),
        ("acme_options", {"model": ["wide_net"]}),
        ("acme_data", {"dataset": ["npz"]}),
        ("acme_optimizers", {"optimizer": ["rmsprop"]}),
        ("acme_export", {"exporter": ["acme"], "predictor": ["acme_runtime"]}),
        ("acme_device", {"device": ["acme"]}),
        ("acme_accuracy", {"logger": ["acme_accuracy"]}),
        ("acme_log", {"logger": ["acme_log"]}),
        ("acme_import", {"importer": ["acme_train"]}),
    ],
)
def test_example_plugins_register(examples, module, registers):
    plugin = importlib.import_module(module)
    extra = [("example", plugin)]
    [info] = (
        i for i in load(extra=extra, environ={"RUNNER_PLUGINS": ""}).plugins if i.name == "example"
    )
    assert info.state in {"ready", "unavailable"}, info.reason
    found = {kind: [entry.name for entry in group] for kind, group in info.entries.items()}
    assert found == registers


def test_every_example_is_tried(examples):
    [marker] = test_example_plugins_register.pytestmark
    tried = {module for module, _ in marker.args[1]} | {"acme_net", "test_acme", "test_acme_step"}
    assert {path.stem for path in examples.glob("*.py")} == tried


@pytest.mark.parametrize(
    "module",
    [
        "acme_models",
        "acme_options",
        "acme_optimizers",
        "acme_export",
        "acme_log",
        "acme_import",
    ],
)
def test_examples_keep_their_promises(examples, module):
    check_plugin(module)


def test_the_smallest_plugin_is_small(examples):
    """A model needs at most 12 lines and 4 names of Vision Runner: a hook and what it imports."""
    text = (examples / "acme_models.py").read_text(encoding="utf-8")
    tree = ast.parse(text)
    imported = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    assert [node.module for node in imported] == ["runner"]
    hooks = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    names = [*hooks, *(alias.name for node in imported for alias in node.names)]
    assert (len(text.splitlines()) <= 12, len(names) <= 4) == (True, True)


def test_the_networks_of_the_examples_compute(examples):
    pytest.importorskip("torch")
    program = (
        "import torch, acme_models, acme_options\n"
        "for plugin in (acme_models, acme_options):\n"
        "    [entry] = plugin.runner_register_models()\n"
        "    model = entry.build(entry.config(), 5).eval()\n"
        "    assert model(torch.zeros(2, 3, 8, 8)).shape == (2, 5)\n"
    )
    assert run_python(program, examples) == ""


def test_the_example_test_passes(examples, tmp_path):
    tests = importlib.import_module("test_acme")
    try:
        tests.test_promises()
        tests.test_dataset(tmp_path)
    finally:
        del sys.modules["test_acme"]


def test_the_example_of_a_step_passes(examples):
    tests = importlib.import_module("test_acme_step")
    try:
        tests.test_steps()
    finally:
        del sys.modules["test_acme_step"]


def test_the_entry_point_of_the_example_names_its_module():
    [block] = (block for block in blocks(PLUGINS) if block.language == "toml")
    assert 'acme_models = "acme_models"' in block.text
    assert '[project.entry-points."runner.plugins"]' in block.text


def test_example_plugins_are_typed(examples):
    mypy = pytest.importorskip("mypy.api")
    config = examples / "mypy.ini"
    config.write_text(
        "[mypy]\nstrict = True\nexplicit_package_bases = True\n"
        f"mypy_path = {ROOT / 'core'}:{ROOT / 'plugins'}\n"
        "[mypy-acme_runtime,torch_acme]\nignore_missing_imports = True\n"
        "[mypy-torch.*,numpy.*]\nfollow_imports = skip\n"
    )
    files = [str(path) for path in examples.glob("acme_*.py")]
    cache = ["--cache-dir", str(examples / "cache")]
    out, err, code = mypy.run(["--config-file", str(config), *cache, *files])
    assert code == 0, out + err


# A stand-in for a vendor's package, on the device type that torch keeps free for one.
TORCH_ACME = """
import types, torch
torch.utils.rename_privateuse1_backend("acme")
module = types.ModuleType("torch.acme")
module.is_available = lambda: True
module.device_count = lambda: 1
module.set_device = module.synchronize = lambda device=None: None
module.max_memory_allocated = lambda device=None: 1024
torch._register_device_module("acme", module)
card_name = "Acme {}".format
set_fast_math = lambda enabled: None
driver_version = lambda: "1.0"
"""
OPEN_ACME = """
import sys, acme_device
from runner import DeviceEntry
from runner.errors import DeviceError
from runner.plugins.loading import load
registry = load(extra=[("acme", acme_device)], environ={"RUNNER_PLUGINS": ""})
entry = registry.find(DeviceEntry, "acme", "torch").entry
assert "torch" not in sys.modules
assert entry.probe().available, entry.probe()
device = entry.open(entry.config())
device.synchronize()
print(device.name, device.describe(), device.peak_memory_bytes())
try:
    entry.open(entry.config(index=3))
except DeviceError as error:
    print(error)
"""


def run_python(program: str, folder: Path) -> str:
    path = [str(folder), *sys.path]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"import sys; sys.path[:] = {path!r}\n{program}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="torch is not installed")
def test_the_example_device_opens(examples):
    (examples / "torch_acme.py").write_text(TORCH_ACME)
    out = run_python(OPEN_ACME, examples).splitlines()
    assert out[0] == (
        "acme {'device': 'acme:0', 'name': 'Acme 0', 'driver': '1.0', 'fast_math': False} 1024"
    )
    assert out[1].startswith("device acme has no index 3: 1 visible")


@pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="torch is not installed")
def test_the_example_device_explains_its_absence(examples):
    out = run_python(
        "import acme_device; print(next(iter(acme_device.runner_register_devices())).probe())",
        examples,
    )
    assert "available=False" in out
    assert "No module named 'torch_acme'" in out


# docs/architecture.md


def test_every_module_of_core_has_its_place():
    assert runner.__file__ is not None
    core = Path(runner.__file__).parent
    rows = table_under(ARCHITECTURE, "| `core/runner/` | what for |")
    told: dict[str, str] = {}
    for first, *others in rows:
        for room in re.findall(r"`([\w/]+)/`", first) or ["."]:
            told[room] = told.get(room, "") + first + " ".join(others)
    rooms = {path.parent.relative_to(core).as_posix() for path in core.rglob("[!_]*.py")}
    assert told.keys() == rooms
    for file in core.rglob("[!_]*.py"):
        room = file.parent.relative_to(core).as_posix()
        assert re.search(rf"`{file.stem}(\.py)?`", told[room]), f"{file.stem} in {room}"


def test_the_picture_of_the_rooms_has_the_order_that_is_checked():
    [picture] = re.findall(r"```text\n(cli .*?)```", ARCHITECTURE.read_text("utf-8"), re.DOTALL)
    drawn = [name for line in picture.splitlines() for name in line.split("  ")[0].split(" · ")]
    settings = (ROOT / "pyproject.toml").read_text("utf-8")
    [layers] = re.findall(r"^layers = \[\n(.*?)^\]", settings, re.DOTALL | re.MULTILINE)
    assert drawn == [
        *re.findall(r'"(\w+)"', layers),
        *("hooks", "entries", "contracts", "options", "errors"),
    ]


def test_contributors_are_sent_to_files_that_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    rows = re.findall(r"^\| .* \| (.*) \|$", text, re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`([\w/]+(?:\.py|/))`", row)]
    folders = [ROOT / "core" / "runner", ROOT / "plugins" / "runner_torch"]
    folders += [ROOT / "plugins" / "runner_mindspore"]
    assert len(named) > 20
    assert [name for name in named if not any((folder / name).exists() for folder in folders)] == []


def test_functions_on_the_way_of_data_exist():
    rows = table_under(ARCHITECTURE, "| # | where | takes | gives | framework imported |")
    named = [name for row in rows for name in re.findall(r"`(\w+(?:\.\w+)+)`", row[1])]
    assert len(named) > 6
    for name in named:
        if name.startswith("engine."):
            continue
        found: Any = runner
        for part in name.split("."):
            if not hasattr(found, part):
                importlib.import_module(f"{found.__name__}.{part}")
            found = getattr(found, part)
        assert signature(found)

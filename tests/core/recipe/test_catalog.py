from __future__ import annotations

from pathlib import Path

import pytest

from runner.errors import UsageError
from runner.plugins.registry import PluginInfo, Registry
from runner.recipe import find, list_recipes

BASE = "summary: A toy\n"


def plugin(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> PluginInfo:
    """Write an importable package that holds the recipe toys/tiny."""
    package = folder / "site" / name
    (package / "recipes" / "toys").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "recipes" / "toys" / "tiny.yaml").write_text(BASE)
    monkeypatch.syspath_prepend(str(folder / "site"))
    return PluginInfo(
        name=name, module=f"{name}.plugin", distribution=f"{name}-dist", version="1", state="ready"
    )


def test_names_and_paths(folder: Path) -> None:
    assert find("quickstart").name == "quickstart.yaml"
    assert find("quickstart.yaml") == find("quickstart")
    assert find("base.yaml") == Path("base.yaml")
    Path("quickstart").write_text(BASE)
    assert find("quickstart") == Path("quickstart")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "quickstrat",
            "unknown recipe 'quickstrat'; did you mean 'quickstart'? see: runner list recipes",
        ),
        ("zzz", "unknown recipe 'zzz'; see: runner list recipes"),
        ("bse.yaml", "no recipe 'bse.yaml': there is no such file; did you mean 'base.yaml'?"),
        ("nowhere/base.yaml", "no recipe 'nowhere/base.yaml': there is no folder 'nowhere'"),
        (".", "'.' is a folder; expected a recipe, which is one YAML file"),
    ],
)
def test_names_that_do_not_exist(folder: Path, name: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        find(name)
    assert str(error.value) == message


def test_recipes_of_plugins(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry([plugin(folder, "acme_one", monkeypatch)], [])
    assert find("toys/tiny", registry) == folder / "site/acme_one/recipes/toys/tiny.yaml"
    listed = {item.name: item for item in list_recipes(registry)}
    assert listed["toys/tiny"].summary == "A toy"
    assert listed["toys/tiny"].source == "acme_one-dist"
    assert listed["quickstart"].summary.startswith("Handwritten digits")
    assert listed["quickstart"].source in {"checkout", "runner"}


def test_parts_that_recipes_extend_are_no_recipes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry([plugin(folder, "acme_six", monkeypatch)], [])
    toys = folder / "site/acme_six/recipes/toys"
    (toys / "_part.yaml").write_text(BASE)
    assert {item.name for item in list_recipes(registry) if "acme" in item.source} == {"toys/tiny"}
    with pytest.raises(UsageError, match="unknown recipe '_part'"):
        find("_part", registry)
    assert find(str(toys / "_part.yaml")).name == "_part.yaml"


def test_two_plugins_with_one_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugins = [plugin(folder, name, monkeypatch) for name in ("acme_two", "acme_three")]
    with pytest.raises(UsageError, match=r"several plugins have a recipe 'toys/tiny'; give a path"):
        find("toys/tiny", Registry(plugins, []))


def test_own_recipes_win_over_a_plugin_s(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = plugin(folder, "acme_four", monkeypatch)
    (folder / "site/acme_four/recipes/quickstart.yaml").write_text(BASE)
    assert find("quickstart", Registry([info], [])) == find("quickstart")


def test_a_broken_recipe_is_listed_with_its_problem(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = plugin(folder, "acme_five", monkeypatch)
    broken = folder / "site/acme_five/recipes/toys/tiny.yaml"
    broken.write_text("a: b: c")
    (item,) = [item for item in list_recipes(Registry([info], [])) if item.name == "toys/tiny"]
    assert item.summary.startswith("broken: site/acme_five/recipes/toys/tiny.yaml:1:5: unexpected")

"""Every recipe of the project can be read, explained and written out."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from runner import recipe

FOLDER = Path(__file__).parents[2] / "recipes"
NAMES = [path.stem for path in sorted(FOLDER.glob("[!_]*.yaml"))]
FRAMEWORKS = ("torch", "torchvision", "mindspore", "onnx", "onnxruntime")


def test_there_are_recipes():
    assert {"quickstart", "quickstart_mindspore", "resnext152_ascend"} <= set(NAMES)
    assert f"\n{len(NAMES)} recipes are included" in (FOLDER.parent / "README.md").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_a_resolved_recipe_is_the_same_recipe(name, make_plan, registry, tmp_path):
    plan = make_plan(name)
    file = tmp_path / "recipe.yaml"
    file.write_text(recipe.dump(plan.recipe))
    again = recipe.compose(file, environ={}, registry=registry)
    assert recipe.validate(again, registry) == plan.recipe


def test_every_recipe_is_explained_without_a_framework():
    code = (
        "import sys; from runner.cli import main\n"
        f"for name in {NAMES}:\n"
        "    sys.argv = ['runner', 'explain', name]\n"
        "    try: main()\n"
        "    except SystemExit as left: assert not left.code, (name, left.code)\n"
        f"print([name for name in {FRAMEWORKS} if name in sys.modules], file=sys.stderr)"
    )
    environ = {k: v for k, v in os.environ.items() if k not in {"CIFAR10", "IMAGENET"}}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environ
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip().splitlines()[-1] == "[]"
    assert done.stdout.count("values and where they come from") == len(NAMES)

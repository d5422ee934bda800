"""Mutated recipes are answered in words, in time, and in little memory."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "fuzz_recipes.py"


@pytest.fixture(scope="module")
def fuzz() -> Any:
    spec = importlib.util.spec_from_file_location("fuzz_recipes", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["fuzz_recipes"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("seed", [1])
def test_mutated_recipes_are_answered_in_words(fuzz, seed):
    found = fuzz.run(seed, 80)
    assert not found, "\n".join(f"case {number}: {wrong}" for number, _, wrong in found)


@pytest.mark.slow
def test_many_mutated_recipes_are_answered_in_words(fuzz):
    found = fuzz.run(3, 1000)
    assert not found, "\n".join(f"case {number}: {wrong}" for number, _, wrong in found)


def test_the_same_seed_gives_the_same_recipes(fuzz):
    assert list(fuzz.cases(7, 20)) == list(fuzz.cases(7, 20))


LONG = "a" * 5000


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        (f"extends: {LONG}\n", (), "extends: no file"),
        ("", (f"transforms.eval.{'9' * 5000}.name=resize",), "expected a position up to"),
        ("", ("export=[{name: .nan}]",), "expected a finite number, got .nan"),
        ("throughput: [{name: .nan}]\n", (), "expected a finite number, got .nan"),
        (
            "".join(f"key_{number}: 1\n" for number in range(14000)),
            (),
            "13950 more unknown sections",
        ),
        ("note: [" + "1, " * 40000 + "1]\n", (), "more than 30,000 values"),
    ],
    ids=["long base", "long position", "export", "throughput", "many keys", "many values"],
)
def test_each_kind_that_was_found(fuzz, tmp_path, text, overrides, message):
    recipe = (fuzz.RECIPES / "quickstart.yaml").read_text()
    case = fuzz.Case(recipe + text, overrides)
    answer = fuzz.outcome(case, tmp_path, fuzz.loading.load())
    assert message in answer

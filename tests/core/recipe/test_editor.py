from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # has no stubs

import runner
from runner.plugins.loading import load
from runner.recipe import dump, json_schema
from runner.recipe.source import parse, read

if TYPE_CHECKING:
    from runner.errors import Problem
    from runner.plugins.registry import Registry


@pytest.fixture(scope="module")
def errors(registry: Registry) -> Any:
    schema = json_schema(registry)
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)

    def run(text: str) -> list[str]:
        node = parse(text, "r.yaml", [])
        assert node is not None
        return [error.json_path for error in validator.iter_errors(node.data())]

    return run


@pytest.mark.parametrize(
    "text",
    [
        "extends: base.yaml",
        "extends: [base.yaml, other]\nmodel: {width: 2}",
        "extends: base.yaml\nmodel: {name: net, width: 2, weights: null}",
        "extends: base.yaml\ndevice: {name: cpu, count: 2}\noptimizer: adam\nprecision: bf16",
        "extends: base.yaml\ntrain: null\nschedule: null\nexport: [file, {name: file, low: 0}]",
        "extends: base.yaml\nschedule: {name: cosine, warmup: null, decay_epochs: 3}",
        "extends: base.yaml\nprecision: {compute: fp16, loss_scale: 128}",
    ],
)
def test_right_recipes(errors: Any, text: str) -> None:
    assert errors(text) == []


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("summary: not complete", "$"),
        ("extends: b\nepochs: 3", "$"),
        ("extends: b\nmodel: nett", "$.model"),
        ("extends: b\nmodel: {name: other, width: 2}", "$.model"),
        ("extends: b\nmodel: {name: net, width: 0}", "$.model"),
        ("extends: b\nmodel: {widht: 2}", "$.model"),
        ("extends: b\ntrain: {epochs: 0}", "$.train"),
        ("extends: b\nmodel: null", "$.model"),
        ("extends: b\nexport: [onnx]", "$.export[0]"),
    ],
)
def test_wrong_recipes(errors: Any, text: str, path: str) -> None:
    assert errors(text) == [path]


def test_help_comes_from_the_text_under_a_field(registry: Registry) -> None:
    schema: Any = json_schema(registry)
    assert schema["properties"]["seed"]["description"].startswith("Seed of fresh weights")
    model = schema["properties"]["model"]["anyOf"][1]
    (net,) = [branch for branch in model["allOf"] if "width" in branch["then"]["properties"]]
    assert net["then"]["properties"]["width"]["description"] == "Factor on the channels."


def test_a_dump_fits_the_schema(check: Any, errors: Any) -> None:
    assert errors(dump(check("extends: base.yaml\nschedule: cosine\nexport: [file]\n"))) == []


def test_the_recipes_that_ship_fit_the_schema() -> None:
    own = ("runner.data", *(f"runner_{x}" for x in ("torch", "mindspore", "ascend", "cambricon")))
    extra = [(name, importlib.import_module(f"{name}.plugin")) for name in own]
    registry = load(extra=extra, environ={"RUNNER_PLUGINS": ""})
    validator = Draft202012Validator(json_schema(registry))
    files = sorted((Path(str(runner.__file__)).parents[2] / "recipes").glob("[!_]*.yaml"))
    assert files
    for file in files:
        problems: list[Problem] = []
        errors = validator.iter_errors(read(file, problems).data())
        assert [f"{file}: {error.json_path}: {error.message}" for error in errors] == []
        assert problems == []

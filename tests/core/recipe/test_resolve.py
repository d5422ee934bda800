from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from runner.recipe import Recipe, compose, dump, origins, resolved, validate

if TYPE_CHECKING:
    from runner.plugins.registry import Registry

FULL = """\
extends: base.yaml
summary: "on: 'yes' # \\u00e9 ${X} 1e-3"
precision: {compute: fp16, loss_scale: 128}
model: {name: net, width: 2, blocks: [1, 3], weights: "010"}
dataset: {name: folders, root: "1e-3", depth: null, num_classes: 3}
transforms:
  train:
    - {name: random_resized_crop, size: 8, scale: [0.5, 1]}
    - {name: horizontal_flip}
  mean: [0.5, 0.5, 0.5]
loss: {label_smoothing: 0.1, smooth_over: others}
loader: {damaged_images: skip, max_damaged: 3}
schedule: {name: multistep, milestones: [1], warmup_epochs: 1, warmup: constant}
export: [file, {name: file, low: -3, tolerance: 1e-6}]
reference: [{metric: val.top1, value: 0.76, source: a paper}]
"""


@pytest.mark.parametrize(
    "text",
    [
        "extends: base.yaml\n",
        FULL,
        "extends: base.yaml\nschedule: {name: cosine, warmup_epochs: 1}\n",
        "extends: base.yaml\nschedule: linear\n",
        "extends: base.yaml\nsummary: 'a $${b} $ $$${c} ${'\n",
        "extends: base.yaml\ntrain: null\noptimizer: null\ntransforms: {train: null}\n",
    ],
)
def test_a_dump_gives_an_equal_recipe(
    folder: Path, registry: Registry, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("r.yaml").write_text(text.replace("'a $${b} $ $$${c} ${'", "'a $${b} $ $$${c} $${'"))
    recipe = validate(compose(Path("r.yaml"), environ={"X": "${Y}"}), registry)
    Path("again.yaml").write_text(dump(recipe), encoding="utf-8")
    again = validate(compose(Path("again.yaml"), environ={}), registry)
    assert again == recipe
    assert dump(again) == dump(recipe)


def test_options_and_defaults_are_shown(check: Any) -> None:
    data = resolved(check("extends: base.yaml\n"))
    assert data["optimizer"] == {
        "name": "sgd",
        "learning_rate": 0.1,
        "weight_decay": 0.0,
        "no_weight_decay": [],
        "momentum": 0.9,
        "nesterov": False,
    }
    assert data["model"] == {
        "name": "net",
        "weights": None,
        "width": 1.0,
        "stem": "imagenet",
        "blocks": [2, 2],
    }
    assert list(data)[:3] == ["summary", "framework", "device"]


def test_keys_without_effect_are_not_shown(check: Any) -> None:
    data = resolved(check("extends: base.yaml\nschedule: cosine\n"))
    assert data["schedule"] == {
        "name": "cosine",
        "update": "step",
        "warmup_epochs": 0,
        "decay_epochs": None,
        "min_learning_rate": 0.0,
    }
    assert data["precision"] == {"compute": "fp32"}


def test_other_yaml_readers_read_the_same(check: Any) -> None:
    recipe = check(FULL, environ={"X": "x"})
    assert yaml.safe_load(dump(recipe)) == resolved(recipe)


def test_a_dump_is_laid_out_for_people(check: Any) -> None:
    text = dump(check("extends: base.yaml\n"))
    assert "framework:\n  name: fake\n" in text
    assert "  train:\n  - {name: random_crop, size: 8, padding: 0}\n" in text
    assert "  mean: [0.485, 0.456, 0.406]\n" in text


def test_every_value_has_an_origin(document: Any, registry: Registry) -> None:
    found = document(
        "extends: base.yaml\nschedule: {warmup_epochs: null}\n", "train.epochs=5", "model.width=2"
    )
    recipe = validate(found, registry)
    shown = {".".join(map(str, path)): str(place) for path, place in origins(found, recipe).items()}
    assert shown["train.epochs"] == "--set train.epochs=5"
    assert shown["model.width"] == "--set model.width=2"
    assert shown["model.name"] == "base.yaml:9:9"
    assert shown["optimizer.momentum"] == "default"
    assert shown["schedule.warmup_epochs"] == "default"
    assert shown["transforms.train.0.size"] == "base.yaml:6:37"
    assert shown["transforms.train.0.padding"] == "default"
    assert shown["transforms.mean"] == "default"


def test_the_type_is_what_validate_returns(check: Any) -> None:
    assert isinstance(check("extends: base.yaml\n"), Recipe)

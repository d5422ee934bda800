"""Update rules, and which parameters they decay."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from runner.errors import UsageError
from runner.framework.options import AdamWOptions, SgdOptions
from runner_torch.autoload import torch
from runner_torch.optimizers import parameter_groups
from runner_torch.plugin import runner_register_models, runner_register_optimizers

OPTIMIZERS = {entry.name: entry for entry in runner_register_optimizers()}


@pytest.fixture(scope="module")
def resnet18() -> Any:
    entry = next(e for e in runner_register_models() if e.name == "resnet18")
    with torch.device("meta"):
        return entry.build(entry.config(), 1000)


def undecayed(module: torch.nn.Module, *rules: str) -> set[str]:
    names = {id(p): n for n, p in module.named_parameters()}
    groups = parameter_groups(module, 1e-4, rules)
    return {names[id(p)] for g in groups if g["weight_decay"] == 0 for p in g["params"]}


def test_without_rules_everything_decays(resnet18: torch.nn.Module) -> None:
    (group,) = parameter_groups(resnet18, 1e-4, ())
    assert group["weight_decay"] == 1e-4
    assert len(group["params"]) == 62


def test_bias_and_norm(resnet18: torch.nn.Module) -> None:
    kept = undecayed(resnet18, "bias", "norm")
    assert len(kept) == 41
    assert {"fc.bias", "bn1.weight", "layer2.0.downsample.1.weight"} <= kept
    assert "layer2.0.downsample.0.weight" not in kept


def test_bias_alone_leaves_gammas_decayed(resnet18: torch.nn.Module) -> None:
    kept = undecayed(resnet18, "bias")
    assert len(kept) == 21
    assert "bn1.bias" in kept
    assert "bn1.weight" not in kept


def test_patterns(resnet18: torch.nn.Module) -> None:
    kept = undecayed(resnet18, "*bn*")  # Ascend ModelZoo ResNet50_for_PyTorch, 8 cards
    assert "layer1.0.bn1.weight" in kept
    assert "layer2.0.downsample.1.weight" not in kept


def test_every_parameter_is_in_one_group_in_the_models_order(resnet18: torch.nn.Module) -> None:
    groups = parameter_groups(resnet18, 1e-4, ("bias",))
    order = {id(p): i for i, p in enumerate(resnet18.parameters())}
    positions = [[order[id(p)] for p in group["params"]] for group in groups]
    assert all(p == sorted(p) for p in positions)
    assert sorted(positions[0] + positions[1]) == list(range(62))


@pytest.mark.parametrize("rule", ["*.gamma", "norm"])
def test_a_rule_that_matches_nothing_is_an_error(rule: str) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(2, 2))
    with pytest.raises(UsageError) as caught:
        parameter_groups(module, 0.1, (rule,))
    assert f"{rule!r} matches none of the 2 parameters (0.weight, 0.bias)" in str(caught.value)


def updated(name: str, options: object, **group: float) -> float:
    weight = torch.nn.Parameter(torch.tensor([1.0]))
    groups = [{"params": [weight], "weight_decay": 0.0, **group}]
    optimizer = OPTIMIZERS[name].build(groups, options, 0.1)
    for gradient in (1.0, 2.0):
        weight.grad = torch.tensor([gradient])
        optimizer.step()
    return weight.item()


def test_sgd() -> None:
    assert updated("sgd", SgdOptions(momentum=0.0)) == pytest.approx(1 - 0.1 - 0.2)
    assert updated("sgd", SgdOptions(momentum=0.5)) == pytest.approx(1 - 0.1 - 0.25)
    nesterov = SgdOptions(momentum=0.5, nesterov=True)
    assert updated("sgd", nesterov) == pytest.approx(1 - 0.1 * 1.5 - 0.1 * (2 + 0.5 * 2.5))
    assert updated("sgd", SgdOptions(momentum=0.0), weight_decay=1.0) == pytest.approx(0.52)


def test_adamw_decays_apart_from_the_gradient() -> None:
    options = AdamWOptions(betas=(0.0, 0.0))
    assert updated("adamw", options) == pytest.approx(0.8)
    assert updated("adamw", options, weight_decay=1.0) == pytest.approx(0.9 * (0.9 - 0.1) - 0.1)


def test_options_are_checked() -> None:
    sgd = TypeAdapter(SgdOptions)
    assert sgd.validate_json('{"momentum": 0.8, "nesterov": true}').nesterov
    with pytest.raises(ValidationError, match="nesterov needs a momentum above 0"):
        sgd.validate_json('{"momentum": 0.0, "nesterov": true}')
    with pytest.raises(ValidationError):
        sgd.validate_json('{"momentum": 1.0}')
    assert TypeAdapter(AdamWOptions).validate_json('{"betas": [0.8, 0.9]}').betas == (0.8, 0.9)

"""Update rules, and which parameters they decay."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("mindspore")

from runner import OptimizerEntry
from runner.errors import PluginError, UsageError
from runner.framework.options import AdamWOptions, SgdOptions
from runner_mindspore.autoload import Tensor, ms, nn, ops
from runner_mindspore.optimizers import parameter_groups
from runner_mindspore.plugin import runner_register_models, runner_register_optimizers
from runner_mindspore.weights import canonical_names

if TYPE_CHECKING:
    from tests.plugins.mindspore.conftest import MakeBatches, MakeEngine, Mode

OPTIMIZERS = {entry.name: entry for entry in runner_register_optimizers()}


@pytest.fixture(scope="module")
def resnet18() -> Any:
    entry = next(e for e in runner_register_models() if e.name == "resnet18")
    return entry.build(entry.config(), 10)


def undecayed(net: nn.Cell, *rules: str) -> set[str]:
    names = {id(p): n for n, p in canonical_names(net).items()}
    *groups, _ = parameter_groups(net, 1e-4, rules)
    return {names[id(p)] for g in groups if g["weight_decay"] == 0 for p in g["params"]}


def test_without_rules_everything_decays(resnet18: nn.Cell) -> None:
    group, order = parameter_groups(resnet18, 1e-4, ())
    assert group["weight_decay"] == 1e-4
    assert len(group["params"]) == len(order["order_params"]) == 62


def test_bias_and_norm(resnet18: nn.Cell) -> None:
    kept = undecayed(resnet18, "bias", "norm")
    assert len(kept) == 41
    assert {"fc.bias", "bn1.weight", "layer2.0.downsample.1.weight"} <= kept
    assert "layer2.0.downsample.0.weight" not in kept


def test_bias_alone_leaves_gammas_decayed(resnet18: nn.Cell) -> None:
    kept = undecayed(resnet18, "bias")
    assert len(kept) == 21
    assert "bn1.bias" in kept
    assert "bn1.weight" not in kept


def test_patterns(resnet18: nn.Cell) -> None:
    kept = undecayed(resnet18, "*bn*")
    assert "layer1.0.bn1.weight" in kept
    assert "layer2.0.downsample.1.weight" not in kept


def test_a_rule_that_matches_nothing_is_an_error() -> None:
    with pytest.raises(UsageError) as caught:
        parameter_groups(nn.Dense(2, 2), 0.1, ("norm",))
    assert "'norm' matches none of the 2 parameters (weight, bias)" in str(caught.value)


def updated(name: str, options: object, **group: float) -> float:
    weight = ms.Parameter(Tensor([1.0], ms.float32), name="weight")
    groups = [{"params": [weight], "weight_decay": 0.0, **group}]
    optimizer = OPTIMIZERS[name].build(groups, options, 0.1)
    for gradient in (1.0, 2.0):
        optimizer((Tensor([gradient], ms.float32),))
    return float(weight.asnumpy()[0])


def test_sgd(mode: Mode) -> None:
    ms.set_context(mode=ms.GRAPH_MODE if mode == "graph" else ms.PYNATIVE_MODE)
    assert updated("sgd", SgdOptions(momentum=0.0)) == pytest.approx(1 - 0.1 - 0.2)
    assert updated("sgd", SgdOptions(momentum=0.5)) == pytest.approx(1 - 0.1 - 0.25)
    nesterov = SgdOptions(momentum=0.5, nesterov=True)
    assert updated("sgd", nesterov) == pytest.approx(1 - 0.1 * 1.5 - 0.1 * (2 + 0.5 * 2.5))
    assert updated("sgd", SgdOptions(momentum=0.0), weight_decay=1.0) == pytest.approx(0.52)


def test_adamw_decays_apart_from_the_gradient() -> None:
    options = AdamWOptions(betas=(0.0, 0.0))
    assert updated("adamw", options) == pytest.approx(0.8)
    assert updated("adamw", options, weight_decay=1.0) == pytest.approx(0.9 * (0.9 - 0.1) - 0.1)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sgd", SgdOptions()),
        ("sgd", SgdOptions(nesterov=True)),
        ("sgd", SgdOptions(dampening=0.3)),
        ("sgd", SgdOptions(momentum=0.0)),
        ("adamw", AdamWOptions()),
        ("adamw", AdamWOptions(betas=(0.5, 0.9), eps=0.1)),
    ],
)
def test_updates_equal_those_of_torch(name: str, options: object) -> None:
    torch = pytest.importorskip("torch")
    from runner_torch.plugin import runner_register_optimizers as registered

    others = {entry.name: entry for entry in registered()}
    random = np.random.default_rng(0)
    values = [random.normal(size=shape).astype(np.float32) for shape in ((3, 4), (5,))]
    ours = [ms.Parameter(Tensor(v), name=f"w{i}") for i, v in enumerate(values)]
    theirs = [torch.nn.Parameter(torch.tensor(v)) for v in values]
    optimizer, other = (
        entries[name].build(
            [{"params": [a], "weight_decay": 0.1}, {"params": [b], "weight_decay": 0.0}],
            options,
            0.05,
        )
        for entries, (a, b) in ((OPTIMIZERS, ours), (others, theirs))
    )
    for step in range(20):
        gradients = [random.normal(size=v.shape).astype(np.float32) / (step + 1) for v in values]
        optimizer(tuple(Tensor(g) for g in gradients))
        for parameter, gradient in zip(theirs, gradients, strict=True):
            parameter.grad = torch.from_numpy(gradient)
        other.step()
        for mine, parameter in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(
                mine.asnumpy(), parameter.detach().numpy(), rtol=2e-6, atol=1e-6
            )


class SignDescent(nn.Optimizer):
    """An update rule as another package may bring it."""

    def construct(self, gradients: tuple[Tensor, ...]) -> Tensor:
        lr = self.get_lr()
        pairs = zip(self.parameters, gradients)  # noqa: B905  graphs know no `strict`
        return tuple([ops.assign_sub(p, lr * ops.sign(g)) for p, g in pairs])


def entry(build: Any) -> OptimizerEntry:
    return OptimizerEntry(name="own", summary="Own", framework="mindspore", build=build)


def test_any_optimizer_of_mindspores_kind_will_do(
    make_engine: MakeEngine, make_batches: MakeBatches, mode: Mode
) -> None:
    own = entry(lambda groups, options, lr: SignDescent(lr, groups))
    engine = make_engine(mode=mode)
    engine = type(engine)(
        replace(engine._spec, optimizer=own, optimizer_options=None), engine._device
    )
    before = engine.weights()["fc.weight"]
    engine.train_step(make_batches(1)[0], 0.25).read()
    steps = np.abs(engine.weights()["fc.weight"] - before)
    np.testing.assert_allclose(steps[steps > 0], 0.25, rtol=1e-5)
    assert (steps > 0).any()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda groups, options, lr: [1], r"own was built as list"),
        (
            lambda groups, options, lr: nn.Momentum(groups, [0.1, 0.2], 0.9),
            r"own has a learning rate of its own",
        ),
    ],
)
def test_an_optimizer_that_steps_cannot_drive_is_refused(
    make_engine: MakeEngine, build: Any, message: str
) -> None:
    engine = make_engine(optimizer=None)
    with pytest.raises(PluginError, match=message):
        type(engine)(replace(engine._spec, optimizer=entry(build)), engine._device)

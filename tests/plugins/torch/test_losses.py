"""The loss: smoothing over all or over the other classes, and auxiliary heads."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest

from runner.errors import UsageError
from runner.recipe.schema import LossSection
from runner_torch.autoload import torch
from runner_torch.losses import training_loss

if TYPE_CHECKING:
    from tests.plugins.torch.conftest import MakeBatches, MakeEngine, MakeSpec


def targets(section: LossSection, num_classes: int) -> list[float]:
    """Read the target distribution for label 0 off the gradient: softmax minus target."""
    logits = torch.zeros(1, num_classes, dtype=torch.float64).requires_grad_()
    training_loss(section, num_classes)(logits, torch.tensor([0])).backward()
    assert logits.grad is not None
    distribution: list[float] = (1 / num_classes - logits.grad[0]).tolist()
    return distribution


def test_smoothing_over_all_classes() -> None:
    target, off, *_ = targets(LossSection(label_smoothing=0.1), 1000)
    assert target == pytest.approx(0.9001, abs=1e-6)
    assert off == pytest.approx(0.0001, abs=1e-7)


def test_smoothing_over_the_other_classes() -> None:
    section = LossSection(label_smoothing=0.1, smooth_over="others")
    target, off, *rest = targets(section, 1000)
    assert target == pytest.approx(0.9, abs=1e-6)
    assert off == pytest.approx(0.0001001001, abs=1e-7)
    assert sum([target, off, *rest]) == pytest.approx(1, abs=1e-5)


def test_smoothing_that_prefers_wrong_classes_is_refused() -> None:
    section = LossSection(label_smoothing=0.8, smooth_over="others")
    with pytest.raises(UsageError, match=r"label_smoothing is 0\.8.* at most 0\.666667"):
        training_loss(section, 3)


def test_the_first_output_is_the_main_one() -> None:
    right, wrong = torch.tensor([[9.0, 0.0]]), torch.tensor([[0.0, 9.0]])
    label, small, large = torch.tensor([0]), math.log1p(math.exp(-9)), math.log1p(math.exp(9))
    loss = training_loss(LossSection(aux_weight=0.3), 2)
    assert loss((right, wrong, wrong), label).item() == pytest.approx(small + 0.6 * large)
    assert loss((wrong, right, right), label).item() == pytest.approx(large + 0.6 * small)


def test_googlenet_trains_on_the_weighted_sum(
    make_engine: MakeEngine, make_spec: MakeSpec, make_batches: MakeBatches
) -> None:
    spec = make_spec(model="googlenet")
    engine = make_engine(model="googlenet")
    (batch,) = make_batches(1)
    state = torch.get_rng_state()
    loss = engine.train_step(batch, 0.0).read().loss

    torch.manual_seed(1)
    model = spec.model.build(spec.model_options, 10).to(memory_format=torch.channels_last)
    torch.set_rng_state(state)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) * 255 for v in (spec.mean, spec.std))
    images = torch.from_numpy(batch.images).permute(0, 3, 1, 2).float().sub_(mean).div_(std)
    output = model(images)
    labels = torch.from_numpy(batch.labels)
    main, aux2, aux1 = (
        torch.nn.functional.cross_entropy(logits, labels).item()
        for logits in (output.logits, output.aux_logits2, output.aux_logits1)
    )
    assert loss == pytest.approx(main + 0.3 * (aux1 + aux2), rel=1e-5)


def test_half_precision_logits_are_widened() -> None:
    logits = torch.tensor([[6.0, 0.0]], dtype=torch.float16)
    loss = training_loss(LossSection(), 2)(logits, torch.tensor([0]))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(math.log1p(math.exp(-6)), rel=1e-4)

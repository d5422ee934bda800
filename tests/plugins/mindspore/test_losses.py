"""The loss: smoothing over all or over the other classes, and auxiliary heads."""

from __future__ import annotations

import math

import pytest

pytest.importorskip("mindspore")

from runner.errors import UsageError
from runner.recipe.schema import LossSection
from runner_mindspore.autoload import Tensor, ms
from runner_mindspore.losses import training_loss


@pytest.fixture(autouse=True)
def _operator_by_operator() -> None:
    ms.set_context(mode=ms.PYNATIVE_MODE)


def targets(section: LossSection, num_classes: int) -> list[float]:
    """Read the target distribution for label 0 off the gradient: softmax minus target."""
    logits, labels = ms.ops.zeros((1, num_classes)), Tensor([0], ms.int32)
    gradient = ms.grad(training_loss(section, num_classes))(logits, labels)
    distribution: list[float] = (1 / num_classes - gradient.asnumpy()[0]).tolist()
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
    right, wrong = Tensor([[9.0, 0.0]]), Tensor([[0.0, 9.0]])
    label = Tensor([0], ms.int32)
    small, large = math.log1p(math.exp(-9)), math.log1p(math.exp(9))
    loss = training_loss(LossSection(aux_weight=0.3), 2)
    found = loss((right, wrong, wrong), label).asnumpy()
    assert found == pytest.approx(small + 0.6 * large, rel=1e-5)
    found = loss((wrong, right, right), label).asnumpy()
    assert found == pytest.approx(large + 0.6 * small, rel=1e-5)


def test_half_precision_logits_are_widened() -> None:
    logits = Tensor([[6.0, 0.0]], ms.float16)
    loss = training_loss(LossSection(), 2)(logits, Tensor([0], ms.int32))
    assert loss.dtype == ms.float32
    assert loss.asnumpy() == pytest.approx(math.log1p(math.exp(-6)), rel=1e-4)

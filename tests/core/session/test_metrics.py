"""Accuracy and loss from logits, checked against the definitions."""

from __future__ import annotations

import numpy as np
import pytest

from runner.cli.accuracy import accuracy
from runner.contracts import EvalCounts
from runner.errors import NonFiniteError
from runner.session.metrics import count_correct, probabilities, total


def test_top1_top5_and_loss():
    logits = np.array([[9, 8, 7, 6, 5, 4], [9, 8, 7, 6, 5, 4], [9, 8, 7, 6, 5, 4]], np.float32)
    counts = count_correct(logits, np.array([0, 4, 5]))
    assert (counts.top1, counts.top5, counts.count) == (1, 2, 3)
    expected = -np.log(probabilities(logits)[[0, 1, 2], [0, 4, 5]]).sum()
    assert counts.loss_sum == pytest.approx(expected, rel=1e-6)


def test_equal_logits_and_nan_are_never_taken_for_knowledge():
    assert count_correct(np.zeros((2, 10), np.float32), np.array([3, 9])).top1 == 0
    assert count_correct(np.full((2, 10), np.nan, np.float32), np.array([0, 3])).top5 == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 2])
def test_an_image_with_a_logit_that_is_not_finite_is_wrong(value: float, place: int):
    logits = np.zeros((1, 3), np.float32)
    logits[0, place] = value
    counts = count_correct(logits, np.array([0]))
    assert (counts.top1, counts.top5, counts.count) == (0, 0, 1)


def test_sums_are_exact_over_batches_of_different_size():
    parts = [
        EvalCounts(top1=1, top5=2, loss_sum=3.0, count=4),
        EvalCounts(top1=1, top5=1, loss_sum=0.5, count=1),
    ]
    result = total(parts, 10)
    assert (result.top1, result.top5, result.loss, result.count) == (0.4, 0.6, 0.7, 5)


@pytest.mark.parametrize(("classes", "named"), [(5, False), (6, True)])
def test_top5_is_no_metric_of_five_classes(classes: int, named: bool):
    found = total([EvalCounts(top1=1, top5=2, loss_sum=3.0, count=4)], classes)
    assert ("val.top5" in found.as_metrics()) == named
    assert ("top-5" in accuracy(found.as_metrics())) == named


def test_an_evaluation_that_is_not_finite_is_an_error():
    with pytest.raises(NonFiniteError, match="the loss of the evaluation is nan"):
        total([EvalCounts(top1=0, top5=0, loss_sum=float("nan"), count=4)], 10)

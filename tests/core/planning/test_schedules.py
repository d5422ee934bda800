"""Every schedule of the four original systems against values computed from their formulas."""

from __future__ import annotations

import pytest

from runner.planning.schedules import learning_rate
from runner.recipe.schema import ScheduleSection

CAMBRICON_STEP = ScheduleSection(name="step", update="epoch", gamma=0.1, every_epochs=30)
CAMBRICON_ALEXNET = ScheduleSection(name="step", update="epoch", gamma=0.94, every_epochs=2)
CAMBRICON_MOBILENET = ScheduleSection(name="cosine", warmup_epochs=3, warmup="from_zero")
CAMBRICON_SHUFFLENET = ScheduleSection(
    name="linear", warmup_epochs=4, warmup="constant", warmup_factor=0.1, decay_epochs=300
)
ASCEND_RESNET_1 = ScheduleSection(
    name="cosine", update="epoch", warmup_epochs=5, warmup_update="epoch"
)
ASCEND_RESNET_8 = ScheduleSection(
    name="cosine", update="epoch", warmup_epochs=8, warmup_update="epoch"
)
ASCEND_RESNET_LINEAR = ScheduleSection(
    name="linear", update="epoch", warmup_epochs=8, warmup_update="epoch"
)
ASCEND_RESNET_STEP = ScheduleSection(
    name="multistep",
    update="epoch",
    milestones=[30, 60, 80],
    warmup_epochs=8,
    warmup_update="epoch",
)
ASCEND_MOBILENET = ScheduleSection(name="step", gamma=0.98, every_epochs=2.5)
MINDSPORE_COSINE = ScheduleSection(
    name="cosine", update="epoch", warmup_epochs=1, decay_from="start", decay_epochs=150
)
MINDSPORE_STEP = ScheduleSection(
    name="multistep", update="epoch", milestones=[30, 60, 90, 120], warmup_epochs=1
)


@pytest.mark.parametrize(
    ("schedule", "peak", "epochs", "steps_per_epoch", "epoch", "iteration", "expected"),
    [
        (CAMBRICON_STEP, 0.1, 100, 5005, 29, 5004, 0.1),
        (CAMBRICON_STEP, 0.1, 100, 5005, 30, 0, 0.01),
        (CAMBRICON_STEP, 0.1, 100, 5005, 60, 0, 0.001),
        (CAMBRICON_STEP, 0.1, 100, 5005, 90, 7, 0.0001),
        (CAMBRICON_ALEXNET, 0.04, 150, 1252, 1, 1251, 0.04),
        (CAMBRICON_ALEXNET, 0.04, 150, 1252, 2, 0, 0.0376),
        (CAMBRICON_ALEXNET, 0.04, 150, 1252, 3, 9, 0.0376),
        (CAMBRICON_ALEXNET, 0.04, 150, 1252, 50, 0, 0.0085164055),
        (CAMBRICON_ALEXNET, 0.04, 150, 1252, 149, 0, 0.0004106966),
        (CAMBRICON_MOBILENET, 0.05, 150, 5005, 0, 0, 0.0),
        (CAMBRICON_MOBILENET, 0.05, 150, 5005, 0, 1, 3.330003330e-06),
        (CAMBRICON_MOBILENET, 0.05, 150, 5005, 1, 0, 0.0166666667),
        (CAMBRICON_MOBILENET, 0.05, 150, 5005, 2, 5004, 0.0499966670),
        (CAMBRICON_MOBILENET, 0.05, 150, 5005, 3, 0, 0.05),
        (CAMBRICON_MOBILENET, 0.05, 150, 5005, 75, 0, 0.0258012894),
        (CAMBRICON_MOBILENET, 0.05, 150, 5005, 76, 2502, 0.0250000534),
        (CAMBRICON_MOBILENET, 0.05, 150, 5005, 149, 5004, 2.279e-13),
        (CAMBRICON_SHUFFLENET, 0.5, 300, 313, 0, 0, 0.05),
        (CAMBRICON_SHUFFLENET, 0.5, 300, 313, 3, 312, 0.05),
        (CAMBRICON_SHUFFLENET, 0.5, 300, 313, 4, 0, 0.5),
        (CAMBRICON_SHUFFLENET, 0.5, 300, 313, 150, 0, 0.2566666667),
        (CAMBRICON_SHUFFLENET, 0.5, 300, 313, 299, 312, 0.0066719915),
        (ASCEND_RESNET_1, 0.2, 90, 2502, 0, 0, 0.04),
        (ASCEND_RESNET_1, 0.2, 90, 2502, 4, 2501, 0.2),
        (ASCEND_RESNET_1, 0.2, 90, 2502, 5, 0, 0.2),
        (ASCEND_RESNET_1, 0.2, 90, 2502, 6, 0, 0.1999317060),
        (ASCEND_RESNET_1, 0.2, 90, 2502, 47, 99, 0.1018477905),
        (ASCEND_RESNET_1, 0.2, 90, 2502, 89, 0, 6.82939857e-05),
        (ASCEND_RESNET_8, 1.6, 90, 312, 0, 311, 0.2),
        (ASCEND_RESNET_8, 1.6, 90, 312, 7, 0, 1.6),
        (ASCEND_RESNET_8, 1.6, 90, 312, 8, 0, 1.6),
        (ASCEND_RESNET_8, 1.6, 90, 312, 9, 0, 1.5994129448),
        (ASCEND_RESNET_8, 1.6, 90, 312, 49, 0, 0.8),
        (ASCEND_RESNET_8, 1.6, 90, 312, 89, 0, 0.000587055159),
        (ASCEND_RESNET_LINEAR, 1.6, 90, 312, 8, 0, 1.6),
        (ASCEND_RESNET_LINEAR, 1.6, 90, 312, 49, 0, 0.8),
        (ASCEND_RESNET_LINEAR, 1.6, 90, 312, 89, 0, 0.0195121951),
        (ASCEND_RESNET_STEP, 1.6, 90, 312, 29, 0, 1.6),
        (ASCEND_RESNET_STEP, 1.6, 90, 312, 60, 0, 0.016),
        (ASCEND_RESNET_STEP, 1.6, 90, 312, 80, 0, 0.0016),
        (ASCEND_MOBILENET, 0.4, 600, 312, 0, 0, 0.4),
        (ASCEND_MOBILENET, 0.4, 600, 312, 2, 155, 0.4),
        (ASCEND_MOBILENET, 0.4, 600, 312, 2, 156, 0.392),
        (ASCEND_MOBILENET, 0.4, 600, 312, 25, 0, 0.3268291228),
        (ASCEND_MOBILENET, 0.4, 600, 312, 599, 311, 0.0031995734),
        (ASCEND_MOBILENET, 0.05, 600, 2502, 2, 1250, 0.05),
        (ASCEND_MOBILENET, 0.05, 600, 2502, 2, 1251, 0.049),
        (ASCEND_MOBILENET, 0.05, 600, 2502, 599, 2501, 0.000399946679),
        (MINDSPORE_COSINE, 0.4, 150, 1251, 0, 0, 0.000319744205),
        (MINDSPORE_COSINE, 0.4, 150, 1251, 0, 625, 0.2001598721),
        (MINDSPORE_COSINE, 0.4, 150, 1251, 0, 1250, 0.4),
        (MINDSPORE_COSINE, 0.4, 150, 1251, 1, 0, 0.3999561367),
        (MINDSPORE_COSINE, 0.4, 150, 1251, 2, 0, 0.3998245660),
        (MINDSPORE_COSINE, 0.4, 150, 1251, 75, 600, 0.2),
        (MINDSPORE_COSINE, 0.4, 150, 1251, 149, 1250, 4.3863305e-05),
        (MINDSPORE_STEP, 0.4, 150, 1251, 29, 1250, 0.4),
        (MINDSPORE_STEP, 0.4, 150, 1251, 30, 0, 0.04),
        (MINDSPORE_STEP, 0.4, 150, 1251, 120, 0, 4e-5),
    ],
)
def test_golden_vectors(schedule, peak, epochs, steps_per_epoch, epoch, iteration, expected):
    value = learning_rate(
        schedule,
        peak,
        epoch * steps_per_epoch + iteration,
        epochs=epochs,
        steps_per_epoch=steps_per_epoch,
    )
    assert value == pytest.approx(expected, rel=1e-6, abs=1e-16)


def test_cosine_reaches_its_minimum_and_stays_there():
    schedule = ScheduleSection(name="cosine", decay_epochs=2, min_learning_rate=0.01)
    values = [learning_rate(schedule, 1.0, s, epochs=4, steps_per_epoch=10) for s in (20, 25, 39)]
    assert values == pytest.approx([0.01, 0.01, 0.01])


def test_constant_keeps_the_peak():
    schedule = ScheduleSection(name="constant")
    assert learning_rate(schedule, 0.3, 99, epochs=1, steps_per_epoch=100) == 0.3

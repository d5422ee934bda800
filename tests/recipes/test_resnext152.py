"""The recipes of MindSpore models resnext152_64x4d against what its scripts do.

Numbers are computed from the formulas and constants of its code, not with this project.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from runner.data.transforms.options import (
    CenterCrop,
    ColorJitter,
    HorizontalFlip,
    RandomResizedCrop,
    Resize,
)
from runner.framework.loss import smoothing_over_all
from runner.framework.options import ResNetOptions, SgdOptions

TRAIN_IMAGES = 1_281_167


def rate(plan, step):
    return plan.learning_rate(step, plan.steps_per_epoch(TRAIN_IMAGES))


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 0.000319744205),
        (625, 0.2001598721),
        (1250, 0.4),
        (1251, 0.3999561367),
        (2502, 0.3998245660),
        (75 * 1251, 0.2),
        (150 * 1251 - 1, 4.3863305e-05),
    ],
)
def test_cosine_by_epoch_that_counts_the_warm_up(make_plan, step, expected):
    assert rate(make_plan("resnext152_ascend"), step) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [(1, 0.4), (29, 0.4), (30, 0.04), (60, 0.004), (90, 4e-4), (119, 4e-4), (149, 4e-5)],
)
def test_the_other_rule_divides_by_ten(make_plan, epoch, expected):
    plan = make_plan("resnext152_ascend_multistep")
    assert rate(plan, 625) == pytest.approx(0.2001598721, rel=1e-7)
    assert rate(plan, epoch * 1251) == pytest.approx(expected)
    assert rate(plan, epoch * 1251 + 1250) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "device", "cards", "per_card", "peak", "steps", "conv_init"),
    [
        ("resnext152_ascend", "ascend", 8, 128, 0.4, 1251, "fan_out_per_group"),
        ("resnext152_ascend_multistep", "ascend", 8, 128, 0.4, 1251, "fan_out_per_group"),
        ("resnext152_ascend_1card", "ascend", 1, 128, 0.4, 10009, "fan_out_per_group"),
        ("resnext152_gpu", "gpu", 8, 16, 0.05, 10009, "fan_out"),
        ("resnext152_gpu_1card", "gpu", 1, 32, 0.0125, 40036, "fan_out"),
    ],
)
def test_cards_batches_and_peaks(make_plan, name, device, cards, per_card, peak, steps, conv_init):
    plan = make_plan(name)
    assert (plan.device_entry.name, plan.recipe.device.count) == (device, cards)
    assert (plan.train_batch.devices, plan.train_batch.micro) == (cards, per_card)
    assert plan.train_batch.accumulation == 1
    assert plan.train.batch_size == cards * per_card
    assert plan.recipe.optimizer.learning_rate == peak
    assert plan.steps_per_epoch(TRAIN_IMAGES) == steps
    assert plan.recipe.model.options == ResNetOptions(
        max_pool_padding="end", zero_init_last_gamma=True, conv_init=conv_init
    )


def test_steps_without_the_images_that_fill_no_batch(make_plan):
    plan = make_plan("resnext152_ascend")
    assert plan.train.last_batch == "drop"
    assert (plan.recipe.dataset.train_images, plan.recipe.dataset.val_images) == (1281167, 50000)


def test_transforms(make_plan):
    transforms = make_plan("resnext152_ascend").recipe.transforms
    assert transforms.train == [
        RandomResizedCrop(
            name="random_resized_crop", size=224, scale=(0.08, 1.0), ratio=(0.75, 1.333)
        ),
        HorizontalFlip(name="horizontal_flip", probability=0.5),
        ColorJitter(name="color_jitter", brightness=0.4, contrast=0.4, saturation=0.4),
    ]
    assert transforms.eval == [
        Resize(name="resize", exact=(256, 256)),
        CenterCrop(name="center_crop", size=224),
    ]
    assert [255 * x for x in transforms.mean] == pytest.approx([123.675, 116.28, 103.53])
    assert [255 * x for x in transforms.std] == pytest.approx([58.395, 57.12, 57.375])


def test_smoothing_gives_the_mass_to_the_other_classes(make_plan):
    over_all = smoothing_over_all(make_plan("resnext152_ascend").recipe.loss, 1000)
    assert over_all / 1000 == pytest.approx(0.0001001001001, rel=1e-9)
    assert 1 - over_all + over_all / 1000 == pytest.approx(0.9)


def test_precision_is_that_of_the_published_figures(make_plan):
    precision = make_plan("resnext152_ascend").recipe.precision
    assert (precision.compute, precision.level) == ("fp16", "O3")
    assert precision.effective_batch_norm == "fp32"
    assert precision.effective_loss_scale == 1024


def test_update_rule(make_plan):
    section = make_plan("resnext152_ascend").recipe.optimizer
    assert section.options == SgdOptions(momentum=0.9, nesterov=False, dampening=0.0)
    assert (section.weight_decay, section.no_weight_decay) == (1e-4, ["bias", "norm"])


def test_decay_spares_biases_gammas_and_betas_of_the_real_network(make_plan, registry):
    torch = pytest.importorskip("torch")
    from runner_torch.optimizers import parameter_groups

    section = make_plan("resnext152_ascend", "framework=torch", "device=cpu", "precision=fp32")
    with torch.device("meta"):
        model = section.model_entry.build(section.recipe.model.options, 1000)
    assert sum(p.numel() for p in model.parameters()) == 114_971_944
    decayed, spared = parameter_groups(model, 1e-4, section.recipe.optimizer.no_weight_decay)
    # 155 convolutions and the classifier; a gamma and a beta each, and the classifier's bias
    assert (decayed["weight_decay"], len(decayed["params"])) == (1e-4, 156)
    assert (spared["weight_decay"], len(spared["params"])) == (0.0, 311)
    assert {p.dim() for p in decayed["params"]} == {2, 4}
    assert {p.dim() for p in spared["params"]} == {1}


def test_throughput_is_measured_as_there(make_plan):
    [section] = make_plan("resnext152_gpu").recipe.throughput
    assert (section.name, section.skip_steps, section.per) == ("mean_fps", 0, "epoch")
    assert make_plan("resnext152_ascend_eval").recipe.throughput == []


def test_checkpoints_and_evaluation(make_plan):
    loaded = make_plan("resnext152_ascend").recipe
    assert (loaded.checkpoint.every_epochs, loaded.checkpoint.keep) == (2, 30)
    assert loaded.checkpoint.keep_best
    assert (loaded.eval.batch_size, loaded.eval.every_epochs) == (32, 1)
    assert (loaded.train.epochs, loaded.seed) == (150, 1)


@pytest.mark.parametrize(
    ("name", "top1"),
    [
        ("resnext152_ascend", [0.8008]),
        ("resnext152_gpu", [0.7936]),
        ("resnext152_ascend_eval", [0.8008, 0.7936, 0.79174]),
    ],
)
def test_published_figures(make_plan, name, top1):
    figures = make_plan(name).recipe.reference
    assert [item.value for item in figures if item.metric == "val.top1"] == top1


def test_the_evaluating_form_sees_what_training_evaluates(make_plan):
    trains, evaluates = make_plan("resnext152_ascend"), make_plan("resnext152_ascend_eval")
    assert evaluates.recipe.train is None
    assert evaluates.recipe.device.count == 1
    assert evaluates.recipe.transforms.eval == trains.recipe.transforms.eval
    assert evaluates.recipe.model == trains.recipe.model
    assert evaluates.recipe.precision == replace(trains.recipe.precision, loss_scale="auto")


@pytest.mark.parametrize(
    ("overrides", "exports"),
    [
        ([], ["mindir", "onnx"]),
        (["framework=torch", "device=cpu", "precision=fp32"], ["onnx"]),
        (["device=cpu"], ["mindir", "onnx"]),
    ],
)
def test_each_framework_writes_the_formats_that_it_has(make_plan, overrides, exports):
    plan = make_plan("resnext152_ascend", *overrides)
    assert [entry.name for entry in plan.exporter_entries] == exports

"""The recipes of Cambricon vision_classification against what its scripts do.

Numbers are transcribed from its scripts, or computed from the formulas of its code.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest

from runner.data.transforms.options import CenterCrop, HorizontalFlip, RandomResizedCrop, Resize
from runner.framework.options import SgdOptions

TRAIN_IMAGES = 1_281_167


class Form(NamedTuple):
    """One row of the original's tables."""

    cards: int
    per_card: int
    peak: float
    decay: float
    epochs: int
    steps: int
    amp: bool
    parameters: int


FORMS = {
    "resnet50": Form(4, 64, 0.1, 1e-4, 100, 5005, True, 25_557_032),
    "resnet18": Form(4, 128, 0.2, 1e-4, 150, 2503, False, 11_689_512),
    "resnet101": Form(4, 64, 0.1, 4e-5, 100, 5005, False, 44_549_160),
    "vgg16": Form(4, 128, 0.02, 1e-4, 100, 2503, True, 138_357_544),
    "vgg16_bn": Form(4, 32, 0.01, 1e-4, 150, 10010, False, 138_365_992),
    "vgg19": Form(4, 64, 0.01, 1e-4, 100, 5005, False, 143_667_240),
    "mobilenet_v2": Form(4, 64, 0.05, 4e-5, 150, 5005, True, 3_504_872),
    "alexnet": Form(8, 128, 0.04, 1e-4, 150, 1252, False, 61_100_840),
    "googlenet": Form(4, 64, 0.1, 4e-5, 150, 5005, True, 13_004_888),
    "shufflenet_v2_x0_5": Form(4, 1024, 0.5, 4e-5, 300, 313, False, 1_366_792),
    "shufflenet_v2_x1_0": Form(4, 1024, 0.5, 4e-5, 300, 313, False, 2_278_604),
    "shufflenet_v2_x1_5": Form(4, 512, 0.25, 4e-5, 300, 626, False, 3_503_624),
}


@pytest.mark.parametrize("model", FORMS)
def test_a_training_form_is_that_of_its_script(make_plan, model):
    form, plan = FORMS[model], make_plan(f"{model}_mlu")
    assert (plan.framework_entry.name, plan.device_entry.name) == ("torch", "mlu")
    assert (plan.recipe.device.count, plan.train_batch.devices) == (form.cards, form.cards)
    assert (plan.train_batch.micro, plan.train_batch.accumulation) == (form.per_card, 1)
    assert plan.train.batch_size == form.cards * form.per_card
    assert plan.train.epochs == form.epochs
    assert plan.steps_per_epoch(TRAIN_IMAGES) == form.steps
    assert (plan.model_entry.name, plan.model_entry.parameters) == (model, form.parameters)
    optimizer = plan.recipe.optimizer
    assert (optimizer.learning_rate, optimizer.weight_decay) == (form.peak, form.decay)
    assert optimizer.no_weight_decay == []
    assert optimizer.options == SgdOptions(momentum=0.9, nesterov=False)
    assert plan.recipe.loss.label_smoothing == 0
    assert (plan.recipe.loader.workers, plan.recipe.seed) == (8, 42)


@pytest.mark.parametrize("model", FORMS)
def test_the_explanation_counts_cards_images_and_steps(explained, model):
    form, text = FORMS[model], explained(f"{model}_mlu")
    batch = f"{form.cards} mlu x {form.per_card:,} images per pass x 1 accumulation"
    assert f"global batch {form.cards * form.per_card:,} = {batch}" in text
    total = form.steps * form.epochs
    assert (
        f"{form.steps:,} steps per epoch x {form.epochs} epoch{'s' * (form.epochs > 1)} = {total:,}"
        in text
    )
    assert f"peak {form.peak:.6g}, end" in text or model == "mobilenet_v2"
    weights = f"about {4 * form.parameters / 1e6:.0f} MB for weights"
    assert weights in text


def test_the_explanation_tells_what_is_seen_twice(explained):
    text = explained("resnet50_mlu")
    assert "the last batch of each epoch has 144, 1 of them for the second time" in text


@pytest.mark.parametrize("model", FORMS)
def test_precision_is_that_of_the_documented_scripts(make_plan, model):
    amp = FORMS[model].amp
    precision = make_plan(f"{model}_mlu").recipe.precision
    assert (precision.compute, precision.level) == ("fp16" if amp else "fp32", "auto")
    assert precision.effective_loss_scale == ("dynamic" if amp else "none")
    assert make_plan(f"{model}_mlu", "precision=fp32").recipe.precision.compute == "fp32"


@pytest.mark.parametrize("model", FORMS)
def test_the_last_batch_is_filled_up_until_the_cards_share_it(make_plan, model):
    plan = make_plan(f"{model}_mlu")
    assert plan.train.last_batch == "fill"
    plan.check_shares(TRAIN_IMAGES)


STEPWISE = [(0, 1), (29, 1), (30, 0.1), (60, 0.01), (90, 0.001)]
GOLDEN = [
    *((model, epoch, 7, FORMS[model].peak * factor) for model in FORMS for epoch, factor in STEPWISE
      if model.startswith(("resnet", "vgg", "googlenet"))),
    ("alexnet", 0, 0, 0.04),
    ("alexnet", 1, 1251, 0.04),
    ("alexnet", 2, 0, 0.0376),
    ("alexnet", 3, 1251, 0.0376),
    ("alexnet", 50, 0, 0.0085164055),
    ("alexnet", 149, 0, 0.0004106966),
    ("mobilenet_v2", 0, 0, 0.0),
    ("mobilenet_v2", 0, 1, 3.330003330e-06),
    ("mobilenet_v2", 1, 0, 0.0166666667),
    ("mobilenet_v2", 2, 5004, 0.0499966670),
    ("mobilenet_v2", 3, 0, 0.05),
    ("mobilenet_v2", 75, 0, 0.0258012894),
    ("mobilenet_v2", 76, 2502, 0.0250000534),
    ("mobilenet_v2", 149, 5004, 2.279e-13),
    ("shufflenet_v2_x0_5", 0, 0, 0.05),
    ("shufflenet_v2_x0_5", 3, 312, 0.05),
    ("shufflenet_v2_x0_5", 4, 0, 0.5),
    ("shufflenet_v2_x1_0", 150, 0, 0.2566666667),
    ("shufflenet_v2_x1_0", 299, 312, 0.0066719915),
    ("shufflenet_v2_x1_5", 0, 625, 0.025),
    ("shufflenet_v2_x1_5", 150, 0, 0.2566666667 / 2),
]  # fmt: skip


@pytest.mark.parametrize(("model", "epoch", "iteration", "expected"), GOLDEN)
def test_learning_rates(make_plan, model, epoch, iteration, expected):
    plan = make_plan(f"{model}_mlu")
    steps = plan.steps_per_epoch(TRAIN_IMAGES)
    value = plan.learning_rate(epoch * steps + iteration, steps)
    assert value == pytest.approx(expected, rel=1e-6, abs=1e-16)


@pytest.mark.parametrize("model", FORMS)
def test_every_weight_of_the_real_network_is_decayed(make_plan, model):
    torch = pytest.importorskip("torch")
    pytest.importorskip("torchvision")
    from runner_torch.optimizers import parameter_groups

    plan = make_plan(f"{model}_mlu")
    with torch.device("meta"):
        network = plan.model_entry.build(plan.recipe.model.options, 1000)
    optimizer = plan.recipe.optimizer
    [group] = parameter_groups(network, optimizer.weight_decay, optimizer.no_weight_decay)
    assert group["weight_decay"] == FORMS[model].decay
    assert sum(p.numel() for p in group["params"]) == FORMS[model].parameters


def test_transforms_of_training(make_plan):
    transforms = make_plan("alexnet_mlu").recipe.transforms
    assert transforms.train == [
        RandomResizedCrop(name="random_resized_crop", size=224),
        HorizontalFlip(name="horizontal_flip"),
    ]
    assert transforms.eval == [
        Resize(name="resize", shorter_side=256),
        CenterCrop(name="center_crop", size=224),
    ]
    assert (transforms.mean, transforms.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize("model", FORMS)
def test_an_inference_form_is_that_of_its_script(make_plan, model):
    plan = make_plan(f"{model}_mlu_infer")
    assert (plan.device_entry.name, plan.recipe.device.count) == ("mlu", 1)
    assert plan.recipe.train is None
    assert plan.model_entry.name == model
    assert (plan.recipe.eval.batch_size, plan.recipe.loader.workers) == (64, 12)
    assert plan.recipe.precision.compute == "fp32"
    resize, crop, own = {
        "alexnet": (256, 227, False),
        "googlenet": (299, 299, True),
    }.get(model, (256, 224, False))
    transforms = plan.recipe.transforms
    assert transforms.eval == [
        Resize(name="resize", shorter_side=resize),
        CenterCrop(name="center_crop", size=crop),
    ]
    half = (0.5, 0.5, 0.5)
    stats = (half, half) if own else ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert (transforms.mean, transforms.std) == stats


@pytest.mark.parametrize("model", FORMS)
def test_figures_that_are_not_cambricon_s_say_so(make_plan, model):
    trains = make_plan(f"{model}_mlu").recipe.reference
    evaluates = make_plan(f"{model}_mlu_infer").recipe.reference
    assert [(r.metric, r.value) for r in trains] == [(r.metric, r.value) for r in evaluates]
    assert {r.note for r in trains} <= {"trained in another way; Cambricon publishes no accuracy"}
    assert bool(trains) == (model != "shufflenet_v2_x1_5")
    assert {r.source for r in trains + evaluates} <= {
        "torchvision, table of its pre-trained weights"
    }


def test_throughput_is_measured_as_there(make_plan):
    [section] = make_plan("resnet50_mlu").recipe.throughput
    assert (section.name, section.skip_steps, section.per) == ("metric_collector", 20, "run")

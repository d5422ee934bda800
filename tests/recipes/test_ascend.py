"""The recipes of two systems of Ascend ModelZoo-PyTorch against what their scripts do.

Numbers are transcribed from their scripts, or computed from the formulas of their code.
"""

from __future__ import annotations

import pytest

from runner.framework.loss import smoothing_over_all
from runner.framework.options import MobileNetOptions, ResNetOptions, SgdOptions

TRAIN_IMAGES = 1_281_167
ONE_CARD = ResNetOptions(zero_init_last_gamma=True, classifier_init="normal")
RESNET, MOBILENET = ResNetOptions(), MobileNetOptions()


@pytest.mark.parametrize(
    ("name", "cards", "per_card", "peak", "epochs", "steps", "scale", "model"),
    [
        ("resnet50_npu", 8, 512, 1.6, 90, 312, 1024, RESNET),
        ("resnet50_npu_perf", 8, 512, 1.6, 3, 312, 1024, RESNET),
        ("resnet50_npu_2nodes", 16, 512, 1.6, 3, 156, 1024, RESNET),
        ("resnet50_npu_1card", 1, 512, 0.2, 90, 2502, 1024, ONE_CARD),
        ("resnet50_npu_1card_perf", 1, 512, 0.2, 1, 1001, 1024, ONE_CARD),
        ("mobilenet_v2_npu", 8, 512, 0.4, 600, 312, 64, MOBILENET),
        ("mobilenet_v2_npu_perf", 8, 512, 0.4, 1, 200, 64, MOBILENET),
        ("mobilenet_v2_npu_2nodes", 16, 512, 0.4, 1, 156, 64, MOBILENET),
        ("mobilenet_v2_npu_1card", 1, 512, 0.05, 600, 2502, 64, MOBILENET),
        ("mobilenet_v2_npu_1card_perf", 1, 512, 0.05, 1, 200, 64, MOBILENET),
    ],
)
def test_a_training_form_is_that_of_its_script(
    make_plan, name, cards, per_card, peak, epochs, steps, scale, model
):
    plan = make_plan(name)
    assert (plan.framework_entry.name, plan.device_entry.name) == ("torch", "npu")
    assert (plan.train_batch.devices, plan.train_batch.micro) == (cards, per_card)
    assert (plan.train_batch.accumulation, plan.train.last_batch) == (1, "drop")
    assert plan.train.batch_size == cards * per_card
    assert (plan.train.epochs, plan.steps_per_epoch(TRAIN_IMAGES)) == (epochs, steps)
    precision = plan.recipe.precision
    assert (precision.compute, precision.level) == ("fp16", "O2")
    assert (precision.effective_loss_scale, precision.effective_batch_norm) == (scale, "fp32")
    optimizer = plan.recipe.optimizer
    assert (optimizer.learning_rate, optimizer.weight_decay) == (peak, 1e-4)
    assert optimizer.options == SgdOptions(momentum=0.9, nesterov=False)
    assert plan.recipe.model.options == model
    assert plan.recipe.seed == 49


@pytest.mark.parametrize(
    ("name", "overrides", "cards", "per_card", "steps"),
    [
        ("resnet50_npu", ["device.count=4", "train.batch_size=2048"], 4, 512, 625),
        ("resnet50_npu", ["device.count=16"], 16, 256, 312),
        ("resnet50_npu", ["device.count=32", "train.batch_size=16384"], 32, 512, 78),
        ("resnet50_npu_perf", ["device.count=32", "train.batch_size=8192"], 32, 256, 156),
        ("resnet50_npu_perf", ["device.count=64", "train.batch_size=16384"], 64, 256, 78),
    ],
)
def test_other_numbers_of_cards(make_plan, name, overrides, cards, per_card, steps):
    plan = make_plan(name, *overrides)
    assert (plan.train_batch.devices, plan.train_batch.micro) == (cards, per_card)
    assert plan.steps_per_epoch(TRAIN_IMAGES) == steps


@pytest.mark.parametrize(
    ("name", "batch", "steps"),
    [
        ("resnet50_npu", "4,096 = 8 npu x 512", "312 steps per epoch x 90 epochs = 28,080"),
        ("resnet50_npu_1card_perf", "512 = 1 npu x 512", "1,001 steps per epoch x 1 epoch = "),
        ("mobilenet_v2_npu", "4,096 = 8 npu x 512", "312 steps per epoch x 600 epochs = 187,200"),
        ("mobilenet_v2_npu_1card", "512 = 1 npu x 512", "2,502 steps per epoch x 600 epochs"),
        ("resnet50_npu_2nodes", "8,192 = 16 npu x 512", "156 steps per epoch x 3 epochs = 468"),
    ],
)
def test_the_explanation_counts_cards_images_and_steps(explained, name, batch, steps):
    text = explained(name)
    assert f"global batch {batch} images per pass x 1 accumulation" in text
    assert steps in text


LINEAR = "schedule={name: linear, update: epoch, warmup_epochs: 8, warmup_update: epoch}"
STEP = "schedule={name: multistep, update: epoch, milestones: [30, 60, 80], warmup_epochs: 8, \
warmup_update: epoch}"


@pytest.mark.parametrize(
    ("name", "overrides", "step", "expected"),
    [
        ("resnet50_npu_1card", [], 0, 0.04),
        ("resnet50_npu_1card", [], 4 * 2502 + 2501, 0.2),
        ("resnet50_npu_1card", [], 5 * 2502, 0.2),
        ("resnet50_npu_1card", [], 6 * 2502, 0.1999317060),
        ("resnet50_npu_1card", [], 47 * 2502 + 99, 0.1018477905),
        ("resnet50_npu_1card", [], 90 * 2502 - 1, 6.82939857e-05),
        ("resnet50_npu_1card_perf", [], 1000, 0.04),
        ("resnet50_npu", [], 311, 0.2),
        ("resnet50_npu", [], 7 * 312, 1.6),
        ("resnet50_npu", [], 8 * 312, 1.6),
        ("resnet50_npu", [], 9 * 312, 1.5994129448),
        ("resnet50_npu", [], 49 * 312 + 100, 0.8),
        ("resnet50_npu", [], 90 * 312 - 1, 0.000587055159),
        ("resnet50_npu_perf", [], 2 * 312, 0.6),
        ("resnet50_npu", [LINEAR], 0, 0.2),
        ("resnet50_npu", [LINEAR], 8 * 312, 1.6),
        ("resnet50_npu", [LINEAR], 49 * 312, 0.8),
        ("resnet50_npu", [LINEAR], 90 * 312 - 1, 0.0195121951),
        ("resnet50_npu", [STEP], 29 * 312, 1.6),
        ("resnet50_npu", [STEP], 60 * 312, 0.016),
        ("resnet50_npu", [STEP], 80 * 312, 0.0016),
        ("mobilenet_v2_npu", [], 0, 0.4),
        ("mobilenet_v2_npu", [], 779, 0.4),
        ("mobilenet_v2_npu", [], 780, 0.392),
        ("mobilenet_v2_npu", [], 7800, 0.3268291228),
        ("mobilenet_v2_npu", [], 600 * 312 - 1, 0.0031995734),
        ("mobilenet_v2_npu_1card", [], 6254, 0.05),
        ("mobilenet_v2_npu_1card", [], 6255, 0.049),
        ("mobilenet_v2_npu_1card", [], 600 * 2502 - 1, 0.000399946679),
        ("mobilenet_v2_npu_perf", [], 199, 0.4),
    ],
)
def test_learning_rates(make_plan, name, overrides, step, expected):
    plan = make_plan(name, *overrides)
    value = plan.learning_rate(step, plan.steps_per_epoch(TRAIN_IMAGES))
    assert value == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "decayed", "spared"),
    [
        # 53 convolutions, the classifier's two, and a gamma and a beta of four downsample.1
        ("resnet50_npu", 53 + 2 + 8, 2 * 49),
        # 53 convolutions, 53 gammas and the classifier's weight; 53 betas and the classifier's bias
        ("resnet50_npu_1card", 53 + 53 + 1, 53 + 1),
        ("mobilenet_v2_npu", 52 + 2 * 52 + 2, 0),
        ("mobilenet_v2_npu_1card", 52 + 2 * 52 + 2, 0),
    ],
)
def test_tensors_of_the_real_network_that_are_decayed(make_plan, name, decayed, spared):
    torch = pytest.importorskip("torch")
    pytest.importorskip("torchvision")
    from runner_torch.optimizers import parameter_groups

    plan = make_plan(name)
    with torch.device("meta"):
        network = plan.model_entry.build(plan.recipe.model.options, 1000)
    optimizer = plan.recipe.optimizer
    groups = parameter_groups(network, optimizer.weight_decay, optimizer.no_weight_decay)
    assert {g["weight_decay"]: len(g["params"]) for g in groups} == {
        1e-4: decayed,
        **({0.0: spared} if spared else {}),
    }


@pytest.mark.parametrize(
    ("name", "target", "other"),
    [
        ("resnet50_npu", 0.9, 0.0001001001001),
        ("resnet50_npu_1card", 0.9001, 0.0001),
        ("mobilenet_v2_npu", 1.0, 0.0),
    ],
)
def test_what_smoothing_leaves_to_the_true_class(make_plan, name, target, other):
    over_all = smoothing_over_all(make_plan(name).recipe.loss, 1000)
    assert over_all / 1000 == pytest.approx(other, rel=1e-9)
    assert 1 - over_all + over_all / 1000 == pytest.approx(target)


def test_the_evaluating_form_sees_what_training_evaluates(make_plan):
    trains, evaluates = make_plan("resnet50_npu"), make_plan("resnet50_npu_eval")
    assert evaluates.recipe.train is None
    assert evaluates.recipe.device.count == 1
    assert evaluates.recipe.transforms.eval == trains.recipe.transforms.eval
    assert evaluates.recipe.precision.level == "O2"


@pytest.mark.parametrize(
    ("name", "figures"),
    [
        ("resnet50_npu", {"val.top1": [0.76702], "throughput.fps_at_all": [11898.83]}),
        ("resnet50_npu_perf", {"throughput.fps_at_all": [11898.83, 14268]}),
        ("resnet50_npu_1card", {}),
        ("resnet50_npu_1card_perf", {"throughput.fps_at_all": [1259.591, 2065]}),
        ("resnet50_npu_eval", {"val.top1": [0.76702]}),
        ("mobilenet_v2_npu", {"val.top1": [0.713], "throughput.fps_at_all": [13477.3]}),
        ("mobilenet_v2_npu_perf", {"throughput.fps_at_all": [13477.3]}),
        ("mobilenet_v2_npu_1card_perf", {"throughput.fps_at_all": [2789.13]}),
    ],
)
def test_published_figures(make_plan, name, figures):
    found: dict[str, list[float]] = {}
    for item in make_plan(name).recipe.reference:
        found.setdefault(item.metric, []).append(item.value)
    assert found == figures


def test_throughput_is_measured_as_there(make_plan):
    [section] = make_plan("resnet50_npu").recipe.throughput
    assert (section.name, section.skip_steps, section.per) == ("fps_at_all", 10, "epoch")

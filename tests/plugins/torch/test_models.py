"""The models: sizes, options, and names of their weights."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torchvision

from runner.errors import UsageError
from runner.framework.options import MobileNetOptions, ResNetOptions
from runner_torch.autoload import torch
from runner_torch.options import GoogLeNetOptions
from runner_torch.plugin import runner_register_models

MODELS = {entry.name: entry for entry in runner_register_models()}


def build(name: str, options: object = None, num_classes: int = 1000) -> Any:
    with torch.device("meta"):
        return MODELS[name].build(options or MODELS[name].config(), num_classes)


def test_all_models_are_there() -> None:
    assert len(MODELS) == 17
    assert MODELS["resnext152_64x4d"].parameters == 114_971_944


@pytest.mark.parametrize("name", MODELS)
def test_parameters(name: str) -> None:
    count = sum(p.numel() for p in build(name).parameters() if p.requires_grad)
    assert count == MODELS[name].parameters


def test_googlenet_without_its_heads() -> None:
    model = build("googlenet", GoogLeNetOptions(aux_heads=False))
    assert sum(p.numel() for p in model.parameters()) == 6_624_904


@pytest.mark.parametrize("name", ["resnet50", "googlenet", "shufflenet_v2_x0_5"])
def test_names_are_torchvisions(name: str) -> None:
    with torch.device("meta"):
        keywords = {"init_weights": True} if name == "googlenet" else {}
        expected = torchvision.models.get_model(name, weights=None, **keywords)
    assert list(build(name).state_dict()) == list(expected.state_dict())


def test_number_of_classes() -> None:
    assert build("vgg16", num_classes=7).classifier[-1].out_features == 7


def test_zero_init_makes_blocks_the_identity() -> None:
    def gammas(options: ResNetOptions) -> tuple[float, float]:
        model = MODELS["resnet18"].build(options, 2)
        return model.layer1[0].bn2.weight.abs().sum().item(), model.bn1.weight.sum().item()

    assert gammas(ResNetOptions(zero_init_last_gamma=True)) == (0, 64)
    assert gammas(ResNetOptions()) == (64, 64)


def test_the_small_stem_keeps_small_images_large() -> None:
    model = build("resnet18", ResNetOptions(stem="small"))
    assert model.conv1.weight.shape == (64, 3, 3, 3)
    features = model.layer1(model.maxpool(model.conv1(torch.empty(1, 3, 32, 32, device="meta"))))
    assert features.shape == (1, 64, 32, 32)


@pytest.mark.parametrize("padding", ["symmetric", "end"])
@pytest.mark.parametrize("size", [(5, 6), (7, 7), (8, 8)])
def test_max_pooling_of_the_stem(padding: Any, size: tuple[int, int]) -> None:
    images = np.random.default_rng(0).standard_normal((1, 2, *size), np.float32)
    model = MODELS["resnet18"].build(ResNetOptions(max_pool_padding=padding), 2)
    frame = [(1 if padding == "symmetric" else pixels % 2, 1) for pixels in size]
    padded = np.pad(images, [(0, 0), (0, 0), *frame], constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (1, 1, 3, 3))[:, :, ::2, ::2]
    found = model.maxpool(torch.from_numpy(images)).numpy()
    assert np.array_equal(found, windows.max(axis=(4, 5, 6, 7)))


def test_the_small_stem_has_no_pooling_to_pad() -> None:
    with pytest.raises(ValueError, match="max_pool_padding end has no effect with stem small"):
        ResNetOptions(stem="small", max_pool_padding="end")


@pytest.mark.parametrize(
    ("options", "groups"),
    [(ResNetOptions(), 1), (ResNetOptions(conv_init="fan_out_per_group"), 32)],
)
def test_spread_of_fresh_weights(options: ResNetOptions, groups: int) -> None:
    model = MODELS["resnext50_32x4d"].build(options, 2)
    for stage, width in enumerate((128, 256, 512, 1024), start=1):
        block = getattr(model, f"layer{stage}")[0]
        expected = math.sqrt(2 / (width / groups * 9))
        assert block.conv2.weight.std().item() == pytest.approx(expected, rel=0.05)
        assert block.conv1.weight.std().item() == pytest.approx(math.sqrt(2 / width), rel=0.05)


@pytest.mark.parametrize(("init", "normal"), [("uniform", False), ("normal", True)])
def test_distribution_of_the_classifier(init: str, normal: bool) -> None:
    options = ResNetOptions(classifier_init=init)  # type: ignore[arg-type]
    weight = MODELS["resnet50"].build(options, 100).fc.weight
    assert weight.std().item() == pytest.approx(1 / math.sqrt(3 * 2048), rel=0.02)
    assert (weight.abs().max().item() > 1 / math.sqrt(2048)) == normal


def test_an_initialisation_per_group_needs_groups() -> None:
    with pytest.raises(UsageError, match="resnet50 has no grouped convolutions"):
        build("resnet50", ResNetOptions(conv_init="fan_out_per_group"))


def test_dropout_reaches_the_layer() -> None:
    assert build("mobilenet_v2", MobileNetOptions(dropout=0.35)).classifier[0].p == 0.35


def test_googlenet_returns_its_main_logits_first() -> None:
    model = build("googlenet", num_classes=5)
    main, *heads = model(torch.empty(2, 3, 64, 64, device="meta"))
    assert main.shape == (2, 5)
    assert len(heads) == 2

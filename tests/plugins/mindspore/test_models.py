"""The models: sizes, names, fresh weights, and logits beside torchvision's."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("mindspore")

from runner.errors import UsageError
from runner.framework.options import MobileNetOptions, ResNetOptions
from runner_mindspore.autoload import Tensor, ms, nn
from runner_mindspore.models import SeededDropout
from runner_mindspore.plugin import runner_register_models
from runner_mindspore.weights import BatchCounters, canonical_names, copy_weights, load_weights

if TYPE_CHECKING:
    from collections.abc import Iterator

MODELS = {entry.name: entry for entry in runner_register_models()}
MODES = {"graph": ms.GRAPH_MODE, "pynative": ms.PYNATIVE_MODE}


@pytest.fixture(params=MODES)
def in_mode(request: pytest.FixtureRequest) -> Iterator[None]:
    """Compute in one of MindSpore's modes."""
    before = ms.get_context("mode")
    ms.set_context(mode=MODES[request.param])
    yield
    ms.set_context(mode=before)


def build(name: str, options: object = None, num_classes: int = 10, seed: int = 1) -> nn.Cell:
    ms.set_seed(seed)
    return MODELS[name].build(options or MODELS[name].config(), num_classes)


def weights_of(net: nn.Cell) -> dict[str, Any]:
    return copy_weights(net, BatchCounters(net))


@pytest.fixture(scope="module", params=MODELS)
def full(request: pytest.FixtureRequest) -> tuple[str, nn.Cell]:
    """A model with 1,000 classes; tests that use it follow each other, as it takes seconds."""
    return request.param, build(request.param, num_classes=1000)


def test_all_models_are_there() -> None:
    assert len(MODELS) == 9
    assert MODELS["resnext152_64x4d"].parameters == 114_971_944


def test_parameters(full: tuple[str, nn.Cell]) -> None:
    name, net = full
    assert sum(parameter.size for parameter in net.trainable_params()) == MODELS[name].parameters


def test_names_and_shapes_are_torchvisions(full: tuple[str, nn.Cell]) -> None:
    torch = pytest.importorskip("torch")
    from runner_torch import plugin

    name, net = full
    [entry] = [item for item in plugin.runner_register_models() if item.name == name]
    with torch.device("meta"):
        expected = entry.build(entry.config(), 1000).state_dict()
    counters = set(BatchCounters(net).arrays())
    found = {name: tuple(tensor.shape) for name, tensor in canonical_names(net).items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in expected.items()}
    assert list(found.items()) == [item for item in shapes.items() if item[0] not in counters]
    assert counters <= set(shapes)


@pytest.mark.parametrize(
    ("in_mode", "name", "options", "size"),
    [
        ("pynative", "resnet18", ResNetOptions(), (64, 64)),
        ("graph", "resnet18", ResNetOptions(max_pool_padding="end"), (64, 66)),
        ("pynative", "resnet18", ResNetOptions(max_pool_padding="end"), (65, 62)),
        ("pynative", "resnet18", ResNetOptions(stem="small"), (32, 32)),
        ("graph", "resnext50_32x4d", ResNetOptions(), (48, 47)),
        ("pynative", "mobilenet_v2", MobileNetOptions(), (64, 64)),
    ],
    indirect=["in_mode"],
)
@pytest.mark.usefixtures("in_mode")
def test_logits_are_torchvisions(name: str, options: Any, size: tuple[int, int]) -> None:
    torch = pytest.importorskip("torch")
    from runner_torch import plugin

    [entry] = [item for item in plugin.runner_register_models() if item.name == name]
    torch.manual_seed(0)
    module = entry.build(options, 10)
    module(torch.randn(4, 3, *size))  # in training, for running statistics unlike fresh ones
    module.eval()
    net = build(name, options)
    weights = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    load_weights(net, weights, BatchCounters(net))
    net.set_train(False)
    images = np.random.default_rng(0).standard_normal((2, 3, *size), np.float32)
    expected = module(torch.from_numpy(images)).detach().numpy()
    assert np.abs(expected).max() > 1e-2
    assert np.abs(net(Tensor(images)).asnumpy() - expected).max() < 1e-5


@pytest.mark.parametrize("padding", ["symmetric", "end"])
@pytest.mark.parametrize("size", [(5, 6), (7, 7), (8, 8)])
def test_max_pooling_of_the_stem(padding: Any, size: tuple[int, int]) -> None:
    images = np.random.default_rng(0).random((1, 2, *size), np.float32)
    pool = build("resnet18", ResNetOptions(max_pool_padding=padding)).maxpool
    frame = [(1 if padding == "symmetric" else pixels % 2, 1) for pixels in size]
    padded = np.pad(images, [(0, 0), (0, 0), *frame])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (1, 1, 3, 3))[:, :, ::2, ::2]
    assert np.array_equal(pool(Tensor(images)).asnumpy(), windows.max(axis=(4, 5, 6, 7)))


def test_fresh_weights_repeat_with_the_seed() -> None:
    first, again, other = (weights_of(build("resnet18", seed=seed)) for seed in (1, 1, 2))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["conv1.weight"], other["conv1.weight"])
    assert not np.array_equal(first["layer1.0.conv1.weight"], first["layer1.0.conv2.weight"])


@pytest.mark.parametrize(
    ("options", "groups"),
    [(ResNetOptions(), 1), (ResNetOptions(conv_init="fan_out_per_group"), 32)],
)
def test_spread_of_fresh_weights(options: ResNetOptions, groups: int) -> None:
    weights = weights_of(build("resnext50_32x4d", options))
    for stage, width in enumerate((128, 256, 512, 1024), start=1):
        grouped = weights[f"layer{stage}.0.conv2.weight"]
        assert grouped.std() == pytest.approx(math.sqrt(2 / (width / groups * 9)), rel=0.05)
        single = weights[f"layer{stage}.0.conv1.weight"]
        assert single.std() == pytest.approx(math.sqrt(2 / width), rel=0.05)
    bound = 1 / math.sqrt(2048)
    for part in ("weight", "bias"):
        assert bound / 2 < np.abs(weights[f"fc.{part}"]).max() <= bound
    assert weights["bn1.weight"].min() == 1
    assert weights["bn1.bias"].max() == 0


def test_a_normal_classifier_has_the_spread_of_the_uniform_one() -> None:
    weight = weights_of(build("resnet50", ResNetOptions(classifier_init="normal")))["fc.weight"]
    assert weight.std() == pytest.approx(1 / math.sqrt(3 * 2048), rel=0.05)
    assert np.abs(weight).max() > 1 / math.sqrt(2048)


def test_fresh_weights_of_mobilenet() -> None:
    weights = weights_of(build("mobilenet_v2", num_classes=100))
    assert weights["classifier.1.weight"].std() == pytest.approx(0.01, rel=0.02)
    assert np.abs(weights["classifier.1.bias"]).max() == 0
    depthwise = weights["features.18.0.weight"]
    assert depthwise.std() == pytest.approx(math.sqrt(2 / 1280), rel=0.02)


@pytest.mark.parametrize(("name", "last", "inner"), [("resnet18", 2, 1), ("resnet50", 3, 2)])
def test_zero_init_makes_blocks_the_identity(name: str, last: int, inner: int) -> None:
    for zero in (False, True):
        weights = weights_of(build(name, ResNetOptions(zero_init_last_gamma=zero)))
        gammas = {key: weights[f"layer2.1.bn{key}.weight"].max() for key in (last, inner)}
        assert gammas == {last: 0 if zero else 1, inner: 1}
        assert weights["layer2.0.downsample.1.weight"].min() == 1


def test_an_initialisation_per_group_needs_groups() -> None:
    with pytest.raises(UsageError, match="resnet50 has no grouped convolutions"):
        build("resnet50", ResNetOptions(conv_init="fan_out_per_group"))


def test_the_small_stem_keeps_small_images_large() -> None:
    net = build("resnet18", ResNetOptions(stem="small"))
    images = Tensor(np.zeros((1, 3, 32, 32), np.float32))
    assert net.layer1(net.maxpool(net.conv1(images))).shape == (1, 64, 32, 32)


class TwoDropouts(nn.Cell):
    def __init__(self) -> None:
        super().__init__()
        self.first = SeededDropout(6, 0.5)
        self.second = SeededDropout(6, 0.25)

    def construct(self, inputs: Tensor) -> Tensor:
        return self.second(self.first(inputs))


@pytest.mark.usefixtures("in_mode")
def test_dropout_is_what_was_drawn() -> None:
    net = TwoDropouts()
    for step, images in enumerate((4, 4, 3, 4)):
        net.set_train(True)
        random = np.random.default_rng(step)
        net.first.draw(random, images)
        net.second.draw(random, images)
        random = np.random.default_rng(step)
        kept = [random.random((images, 6), np.float32) >= p for p in (0.5, 0.25)]
        inputs = np.full((images, 6), 3, np.float32)
        expected = 3 * kept[0] * 2 * kept[1] / 0.75
        assert np.allclose(net(Tensor(inputs)).asnumpy(), expected, rtol=1e-6)
        assert 0 < np.count_nonzero(expected) < expected.size
        net.set_train(False)
        assert np.array_equal(net(Tensor(inputs)).asnumpy(), inputs)
    assert not list(net.get_parameters())


def test_dropout_reaches_the_layer() -> None:
    net = build("mobilenet_v2", MobileNetOptions(dropout=0.35))
    assert net.classifier[0].probability == 0.35

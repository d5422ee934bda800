"""Weights of torch and of MindSpore programs, and files that are not what they seem."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import save_file

pytest.importorskip("mindspore")

from tests.plugins.damage import check_many

from runner.errors import CheckpointError
from runner.framework.options import ResNetOptions
from runner.plugins.loading import load
from runner.weights import given as any_weights
from runner_mindspore.autoload import Tensor, ms, nn
from runner_mindspore.models import build_resnet
from runner_mindspore.plugin import runner_register_frameworks, runner_register_models
from runner_mindspore.weights import (
    BatchCounters,
    copy_weights,
    evaluation_model,
    load_weights,
    read_weights,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

[FRAMEWORK] = runner_register_frameworks()
MODELS = {entry.name: entry for entry in runner_register_models()}


class TinyNet(nn.Cell):
    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, pad_mode="pad", padding=1, has_bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.fc = nn.Dense(8, num_classes)

    def construct(self, images: Tensor) -> Tensor:
        return self.fc(self.bn(self.conv(images)).mean((2, 3)))


def values(net: nn.Cell) -> dict[str, NDArray[Any]]:
    return copy_weights(net, BatchCounters(net))


def assert_equal(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        assert np.array_equal(found[name], array), name


def tensors_of(path: Path) -> Mapping[str, NDArray[Any]]:
    return read_weights(path).sets[""]


def without_counters(tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Leave out what MindSpore does not save."""
    return {name: array for name, array in tensors.items() if "num_batches" not in name}


def save(path: Path, tensors: Mapping[str, Any], **options: Any) -> Path:
    content = [
        {"name": name, "data": array if isinstance(array, Tensor) else Tensor(array)}
        for name, array in tensors.items()
    ]
    ms.save_checkpoint(content, str(path), **options)
    return path


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_torchs_weights_come_back_bit_for_bit(name: str) -> None:
    torch = pytest.importorskip("torch")
    from runner_torch import plugin

    [entry] = [item for item in plugin.runner_register_models() if item.name == name]
    module = entry.build(entry.config(), 10)
    module(torch.randn(2, 3, 64, 64))  # in training, for statistics and counters
    state = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    net = MODELS[name].build(MODELS[name].config(), 10)
    counters = BatchCounters(net)
    load_weights(net, state, counters)
    assert_equal(copy_weights(net, counters), state)
    assert counters.arrays()[next(n for n in state if n.endswith("tracked"))] == 1


def test_passes_are_counted_as_torch_does() -> None:
    counters = BatchCounters(TinyNet())
    counters.advance()
    counters.advance()
    [(name, count)] = counters.arrays().items()
    assert name == "bn.num_batches_tracked"
    assert count.dtype == np.int64
    assert count.shape == ()
    assert count == 2


@pytest.mark.parametrize("mode", [ms.GRAPH_MODE, ms.PYNATIVE_MODE])
def test_a_compiled_net_sees_what_is_loaded(mode: int) -> None:
    before = ms.get_context("mode")
    ms.set_context(mode=mode)
    net, images = TinyNet(), Tensor(np.ones((1, 3, 4, 4), np.float32))
    net(images)
    bias = np.arange(10, dtype=np.float64)  # of another type, and read-only
    bias.setflags(write=False)
    weights = values(net) | {"fc.weight": np.zeros((10, 8), np.float32), "fc.bias": bias}
    load_weights(net, weights, BatchCounters(net))
    assert np.array_equal(net(images).asnumpy(), [bias])
    ms.set_context(mode=before)


def test_every_difference_is_listed() -> None:
    net = TinyNet()
    weights = values(net)
    weights["fc.bias"] = np.zeros(3, np.float32)
    weights["head.weight"] = weights.pop("fc.weight")
    del weights["bn.num_batches_tracked"]
    with pytest.raises(CheckpointError) as caught:
        load_weights(net, weights, BatchCounters(net))
    assert str(caught.value).splitlines()[1:] == [
        "  missing: bn.num_batches_tracked",
        "  missing: fc.weight",
        "  unexpected: head.weight",
        "  shape: fc.bias is [3], the model has [10]",
    ]


def test_another_number_of_classes_is_recognised() -> None:
    net = TinyNet()
    with pytest.raises(CheckpointError, match="the weights have 7, the model has 10"):
        load_weights(net, values(TinyNet(7)), BatchCounters(net))


def test_the_evaluation_model_leaves_random_state_alone(make_spec: Any) -> None:
    spec = make_spec(model="resnet18")
    weights = values(build_resnet("resnet18", spec.model_options, spec.num_classes))
    np.random.seed(3)  # as ms.set_seed does
    expected = np.random.random()
    np.random.seed(3)
    net = evaluation_model(spec, weights)
    assert np.random.random() == expected
    assert not net.training
    assert_equal(values(net), weights)


def test_a_checkpoint_of_this_project(tmp_path: Path) -> None:
    net = TinyNet()
    momentum = nn.Momentum(net.trainable_params(), 0.1, 0.9)
    step = nn.TrainOneStepCell(nn.WithLossCell(net, nn.CrossEntropyLoss()), momentum)
    path = tmp_path / "Ausgänge der Läufe.ckpt"
    ms.save_checkpoint(step, str(path), append_dict={"epoch_num": 3, "note": "of words"})
    assert_equal(tensors_of(path), without_counters(values(net)))


def test_a_checkpoint_of_mindspore_models(tmp_path: Path) -> None:
    """Their ResNeXt on Ascend has a convolution for each group."""
    expected = values(build_resnet("resnext50_32x4d", ResNetOptions(), 10))
    leaves = {"running_mean": "moving_mean", "running_var": "moving_variance"}
    tensors: dict[str, Any] = {}
    for name, array in expected.items():
        owner, _, leaf = name.rpartition(".")
        if array.ndim == 1 and owner != "fc":
            leaf = {"weight": "gamma", "bias": "beta"}.get(leaf) or leaves[leaf]
        if owner.endswith("conv2"):
            pieces = np.split(array, 32)
            tensors |= {f"backbone.{owner}.convs.{i}.weight": p for i, p in enumerate(pieces)}
        elif leaf != "num_batches_tracked":
            head = {"conv1": "backbone.conv", "bn1": "backbone.bn", "fc": "head.fc"}.get(owner)
            inner = owner.replace("downsample.0", "down_sample.conv")
            inner = inner.replace("downsample.1", "down_sample.bn")
            tensors[f"{head or f'backbone.{inner}'}.{leaf}"] = array
    state = {f"moments.{name}": array for name, array in tensors.items()}
    path = save(tmp_path / "0-148_10009.ckpt", {**tensors, **state, "global_step": np.array([7])})
    assert_equal(tensors_of(path), without_counters(expected))
    assert read_weights(path).model_options == {"max_pool_padding": "end"}


def test_short_numbers_become_fp32(tmp_path: Path) -> None:
    numbers = Tensor([0.5, -3.0])
    tensors = {"a": numbers.astype(ms.float16), "b": numbers.astype(ms.bfloat16)}
    found = tensors_of(save(tmp_path / "short.ckpt", tensors))
    for array in found.values():
        assert array.dtype == np.float32
        assert array.tolist() == [0.5, -3.0]
    assert len(found) == 2


def damaged_checksum(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (damaged_checksum, "its content does not match its checksum"),
        (lambda content: content[: len(content) // 2], "it ends at byte 1"),
        (lambda content: b"", "it is empty"),
        (lambda content: b"PK\x03\x04" + content, "it is a PyTorch file, which must end in .pth"),
        (lambda content: b"\x80\x04K\x01.", "byte 0 begins no tensor"),
        (lambda content: b"<html></html>", "byte 0 begins no tensor"),
        (lambda content: b"\x0a\x10" + bytes(1 << 20), "byte 0 begins no tensor"),
        (lambda content: content[:-17] + b"\x0a\x02\x0a\x00" * 300_000, "it has more than 250000"),
    ],
)
def test_files_that_are_no_complete_checkpoint(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    change: Callable[[bytes], bytes],
    message: str,
) -> None:
    good = save(tmp_path / "good.ckpt", {"a": np.ones(50, np.float32)}, crc_check=True)
    assert tensors_of(good)["a"].sum() == 50
    bad = tmp_path / "bad.ckpt"
    bad.write_bytes(change(good.read_bytes()))
    with pytest.raises(CheckpointError, match=f"cannot be read as a MindSpore .*: {message}"):
        read_weights(bad)
    assert capfd.readouterr() == ("", "")


def test_a_file_with_missing_pieces_is_named(tmp_path: Path) -> None:
    path = save(tmp_path / "odd.ckpt", {"conv.convs.1.weight": np.ones((2, 2, 1, 1), np.float32)})
    with pytest.raises(CheckpointError, match=r"odd.ckpt: conv.weight is in pieces"):
        read_weights(path)


def test_each_framework_reads_for_the_other(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from runner_torch import plugin

    [other] = plugin.runner_register_frameworks()
    registry = load()
    before = dict(os.environ)
    net = TinyNet()
    expected = values(net)
    torch.save({name: torch.from_numpy(a) for name, a in expected.items()}, tmp_path / "a.pth")
    ms.save_checkpoint(net, str(tmp_path / "b.ckpt"))
    for file, framework in (("a.pth", FRAMEWORK), ("b.ckpt", other)):
        found = dict(any_weights.read(tmp_path / file, framework, registry).stored.sets[""])
        found.setdefault("bn.num_batches_tracked", expected["bn.num_batches_tracked"])
        assert_equal({name: found[name] for name in expected}, expected)
        assert len(found) == len(expected)
    assert dict(os.environ) == before


TENSORS = {
    "conv1.weight": np.arange(108, dtype=np.float32).reshape(4, 3, 3, 3),
    **{f"bn1.{leaf}": np.ones(4, np.float32) for leaf in ("moving_mean", "gamma", "beta")},
    "classifier.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "layer2.0.down_sample.0.weight": np.ones((4, 4, 1, 1), np.float32),
}
"""In the words of MindCV."""


@pytest.mark.parametrize(
    "seeds", [range(100), pytest.param(range(100, 600), marks=pytest.mark.slow)]
)
def test_damaged_files_are_refused_in_words(tmp_path: Path, seeds: range) -> None:
    def write(path: Path) -> None:
        save(path, TENSORS)

    check_many(write, tmp_path / "model.ckpt", FRAMEWORK, seeds)


def test_large_tensors_are_in_parts(tmp_path: Path) -> None:
    path = save(tmp_path / "parts.ckpt", {"a": np.arange(3.0)})
    rest = save(tmp_path / "rest.ckpt", {"a": np.arange(3.0, 6.0)})
    path.write_bytes(path.read_bytes() + rest.read_bytes())
    with pytest.raises(CheckpointError, match=r"a tensor of shape \[3\] has 6 numbers"):
        read_weights(path)
    content = path.read_bytes().replace(b"\x08\x03", b"\x08\x06")  # the only dimension of both
    path.write_bytes(content)
    assert tensors_of(path)["a"].tolist() == list(range(6))


def test_mindspores_words_are_understood_in_any_file(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "mindcv.safetensors")
    found = any_weights.read(tmp_path / "mindcv.safetensors", FRAMEWORK, load()).stored
    assert set(found.sets[""]) == {
        *("conv1.weight", "bn1.weight", "bn1.bias", "bn1.running_mean", "fc.weight"),
        "layer2.0.downsample.0.weight",
    }
    assert found.model_options == {"max_pool_padding": "end"}

"""Whole networks in a lower format, beside training loops that are written as Apex does it."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest

from runner import ModelEntry
from runner.errors import CheckpointError, DeviceError, UsageError
from runner.framework.options import ResNetOptions
from runner.recipe.schema import PrecisionSection
from runner_torch.autoload import torch
from runner_torch.options import TorchOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.plugins.torch.conftest import MakeBatches, MakeEngine, MakeEntry, MakeSpec

    from runner import Batch
    from runner_torch.device import TorchDevice

Format = Literal["bf16", "fp16"]
Level = Literal["O2", "O3"]
TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
RATES = (0.1, 0.2, 0.05)


def prepared(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.from_numpy(batch.images).permute(0, 3, 1, 2).float()
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1) * 255
    std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1) * 255
    return images.sub_(mean).div_(std), torch.from_numpy(batch.labels)


def train_as_apex(
    model: torch.nn.Module, batches: Sequence[Batch], compute: Format, level: Level, scale: float
) -> tuple[list[float], list[torch.nn.Parameter]]:
    """Train a lowered model with fp32 copies of its weights, which the optimizer updates."""
    masters = [torch.nn.Parameter(p.detach().clone()) for p in model.parameters()]
    model.to(TYPES[compute])
    if level == "O2":
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.float()
    optimizer = torch.optim.SGD(masters, lr=0.1, momentum=0.9, weight_decay=1e-4)
    losses = []
    for batch, rate in zip(batches, RATES, strict=True):
        images, labels = prepared(batch)
        optimizer.param_groups[0]["lr"] = rate
        model.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(images.to(TYPES[compute])).float(), labels)
        (loss * scale).backward()
        for master, parameter in zip(masters, model.parameters(), strict=True):
            assert parameter.grad is not None
            master.grad = parameter.grad.float() / scale
        optimizer.step()
        with torch.no_grad():
            for master, parameter in zip(masters, model.parameters(), strict=True):
                parameter.copy_(master)
        losses.append(loss.item())
    return losses, masters


@pytest.mark.parametrize("level", ["O2", pytest.param("O3", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("compute", "scale"),
    [("bf16", 1.0), pytest.param("fp16", 128.0, marks=pytest.mark.slow)],
)
def test_training_and_evaluation_equal_apex_bit_for_bit(
    make_engine: MakeEngine,
    make_spec: MakeSpec,
    make_batches: MakeBatches,
    compute: Format,
    scale: float,
    level: Level,
) -> None:
    options = ResNetOptions(stem="small")
    precision = PrecisionSection(compute=compute, level=level, loss_scale=scale)
    engine = make_engine(model="resnet18", model_options=options, precision=precision)
    batches = make_batches(3)
    results = [engine.train_step(b, lr).read() for b, lr in zip(batches, RATES, strict=True)]

    torch.manual_seed(1)
    model = make_spec(model="resnet18").model.build(options, 10)
    model = model.to(memory_format=torch.channels_last)
    losses, masters = train_as_apex(model, batches, compute, level, scale)

    assert [result.loss for result in results] == losses
    found = engine.weights()
    names = [name for name, _ in model.named_parameters()]
    for name, master in zip(names, masters, strict=True):
        np.testing.assert_array_equal(found[name], master.detach().numpy(), err_msg=name)
    for name, buffer in model.named_buffers():
        expected = buffer.float() if buffer.is_floating_point() else buffer
        np.testing.assert_array_equal(found[name], expected.numpy(), err_msg=name)
    assert found["bn1.num_batches_tracked"] == 3
    assert not np.array_equal(found["bn1.running_var"], np.ones(64))
    model.eval()
    with torch.inference_mode():
        logits = model(prepared(batches[0])[0].to(TYPES[compute])).float()
    np.testing.assert_array_equal(engine.predict(batches[0].images), logits.numpy())


class Witness(torch.nn.Module):
    """Notes the formats that its layers meet."""

    def __init__(self, num_classes: int, seen: list[torch.dtype]) -> None:
        super().__init__()
        self.bn = torch.nn.BatchNorm2d(3)
        self.fc = torch.nn.Linear(3, num_classes)
        self.offset: torch.Tensor
        self.register_buffer("offset", torch.zeros(3))
        self._seen = seen

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.bn(images)
        assert self.bn.running_mean is not None
        used = (images, self.fc.weight, self.bn.weight, self.bn.running_mean, self.offset, features)
        self._seen[:] = [tensor.dtype for tensor in used]
        logits: torch.Tensor = self.fc(features.mean(dim=(2, 3)) + self.offset)
        return logits


@pytest.mark.parametrize(
    ("level", "batch_norm", "norm_is_cast"),
    [
        ("O2", "level", False),
        ("O3", "level", True),
        ("O2", "compute", True),
        ("O3", "fp32", False),
    ],
)
def test_batch_normalisation_has_the_format_that_the_recipe_says(
    make_engine: MakeEngine,
    make_batches: MakeBatches,
    level: Level,
    batch_norm: Literal["level", "fp32", "compute"],
    norm_is_cast: bool,
) -> None:
    seen: list[torch.dtype] = []
    entry = ModelEntry(
        name="witness",
        summary="W",
        framework="torch",
        build=lambda _, classes: Witness(classes, seen),
    )
    precision = PrecisionSection(compute="bf16", level=level, batch_norm=batch_norm)
    engine = make_engine(model=entry, precision=precision)
    engine.train_step(make_batches(1)[0], 0.1)
    low, norm = torch.bfloat16, torch.bfloat16 if norm_is_cast else torch.float32
    assert seen == [low, low, norm, norm, low, low]
    seen.clear()
    engine.eval_step(make_batches(1)[0]).read()
    assert seen == [low, low, norm, norm, low, low]
    report = engine.report()
    assert (report["compute"], report["level"]) == ("bf16", level)
    assert report["batch_norm"] == ("compute" if norm_is_cast else "fp32")
    assert report["parameter_type"] == ["float32"]
    assert {str(array.dtype) for array in engine.weights().values()} == {"float32", "int64"}


def test_auxiliary_heads_passes_averages_and_a_dynamic_scale(
    make_engine: MakeEngine, make_batches: MakeBatches
) -> None:
    precision = PrecisionSection(compute="bf16", level="O2", loss_scale="dynamic")
    settings: dict[str, Any] = {"precision": precision, "ema_decay": 0.5, "clip_grad_norm": 1.0}
    engine = make_engine(model="googlenet", micro_batch_size=2, **settings)
    (batch,) = make_batches(1, size=64)
    before = engine.weights()
    result = engine.train_step(batch, 0.01).read()
    assert np.isfinite(result.loss)
    after, average = engine.weights(), engine.evaluation_weights()
    moved = [name for name in before if not np.array_equal(before[name], after[name])]
    assert set(moved) == set(before)  # the auxiliary heads and all statistics too
    np.testing.assert_allclose(
        average["fc.weight"], (before["fc.weight"] + after["fc.weight"]) / 2, rtol=1e-5
    )
    assert after["conv1.bn.num_batches_tracked"] == 2


def test_an_overflow_is_skipped_and_halves_a_dynamic_scale(
    make_engine: MakeEngine, make_batches: MakeBatches
) -> None:
    engine = make_engine(precision=PrecisionSection(compute="fp16", level="O2"))
    engine.load_weights({n: np.full_like(v, 6e4) for n, v in engine.weights().items()})
    before = engine.weights()
    assert engine.train_step(make_batches(1)[0], 0.1).read().skipped
    assert np.array_equal(before["fc.weight"], engine.weights()["fc.weight"])
    assert engine.report()["loss_scale"]["scale"] == 2**15


@pytest.mark.parametrize("level", ["O2", pytest.param("O3", marks=pytest.mark.slow)])
def test_a_run_continues_bit_for_bit(
    make_engine: MakeEngine, make_batches: MakeBatches, make_tiny: MakeEntry, level: Level
) -> None:
    settings: dict[str, Any] = {
        "model": make_tiny(dropout=0.5),
        "precision": PrecisionSection(compute="fp16", level=level),
        "ema_decay": 0.9,
    }
    engine, other = make_engine(**settings), make_engine(**settings)
    first, second = make_batches(2)
    engine.train_step(first, 0.1)
    state, weights = engine.state(), engine.weights()
    expected = engine.train_step(second, 0.1).read()
    other.load_weights(weights)
    other.load_state(state)
    assert other.train_step(second, 0.1).read() == expected
    found = other.weights()
    assert all(np.array_equal(array, found[name]) for name, array in engine.weights().items())
    if level == "O3":
        levels = make_engine(
            **{**settings, "precision": PrecisionSection(compute="fp16", level="O2")}
        )
        with pytest.raises(CheckpointError, match="level 'O3', this run has 'O2'"):
            levels.load_state(state)


def test_a_device_without_the_kernels_is_refused(
    device: TorchDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("mixed formats are not implemented")

    device.check_precision(PrecisionSection(level="O3"))  # without effect in fp32
    precision = PrecisionSection(compute="fp16", level="O2")
    device.check_precision(precision)
    monkeypatch.setattr(torch.nn.functional, "batch_norm", refuse)
    with pytest.raises(
        DeviceError, match=r"fp16 at level O2: .*mixed formats.*precision\.level to auto"
    ):
        device.check_precision(precision)


def test_compiled_kernels_do_not_round_batch_normalisation(make_engine: MakeEngine) -> None:
    precision = PrecisionSection(compute="bf16", level="O3")
    with pytest.raises(UsageError, match=r"compute in fp32, .* set precision\.level to O2"):
        make_engine(framework_options=TorchOptions(compile=True), precision=precision)


@pytest.mark.parametrize("level", ["auto", "O2"])
def test_a_compiled_network_computes_the_same_to_rounding(
    make_engine: MakeEngine,
    make_batches: MakeBatches,
    monkeypatch: pytest.MonkeyPatch,
    level: Literal["auto", "O2"],
) -> None:
    # the back-end that needs no C++ compiler; inductor takes a minute
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    settings: dict[str, Any] = {
        "precision": PrecisionSection(compute="bf16", level=level),
        "ema_decay": 0.9,
        "micro_batch_size": 2,
    }
    plain = make_engine(**settings)
    compiled = make_engine(framework_options=TorchOptions(compile=True), **settings)
    for batch in make_batches(3):
        expected = plain.train_step(batch, 0.1).read().loss
        assert compiled.train_step(batch, 0.1).read().loss == pytest.approx(expected, rel=1e-3)
    weights = compiled.weights()
    assert weights["bn.num_batches_tracked"] == 6
    for name, array in plain.weights().items():
        np.testing.assert_allclose(weights[name], array, atol=1e-3, err_msg=name)

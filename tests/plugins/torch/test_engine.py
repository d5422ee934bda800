"""Steps, accumulation, precision, EMA: what the engine computes."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from runner import Batch, ModelEntry
from runner.errors import DeviceError, PluginError, UsageError
from runner.framework.options import ResNetOptions, SgdOptions
from runner.recipe.schema import LossSection, PrecisionSection
from runner.session.metrics import count_correct
from runner_torch.autoload import torch
from runner_torch.engine import TorchEngine
from runner_torch.options import TorchOptions

if TYPE_CHECKING:
    from tests.plugins.torch.conftest import MakeBatches, MakeEngine, MakeEntry, MakeSpec, TinyNet

    from runner_torch.device import TorchDevice

MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)
RATES = (0.1, 0.2, 0.05)


def same(a: Any, b: Any) -> bool:
    return set(a) == set(b) and all(np.array_equal(a[name], b[name]) for name in a)


def prepared(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalise as a plain training script does, channels last."""
    images = torch.from_numpy(batch.images).permute(0, 3, 1, 2).float()
    mean, std = (torch.from_numpy(v).view(1, 3, 1, 1) * 255 for v in (MEAN, STD))
    return images.sub_(mean).div_(std), torch.from_numpy(batch.labels)


@pytest.mark.parametrize("precision", [PrecisionSection(), PrecisionSection(compute="bf16")])
def test_steps_equal_a_plain_loop_bit_for_bit(
    make_engine: MakeEngine,
    make_spec: MakeSpec,
    make_batches: MakeBatches,
    precision: PrecisionSection,
) -> None:
    changes: dict[str, Any] = {
        "model_options": ResNetOptions(stem="small"),
        "no_weight_decay": ("bias", "norm"),
    }
    engine = make_engine(model="resnet18", precision=precision, **changes)
    batches = make_batches(3)
    results = [engine.train_step(b, lr).read() for b, lr in zip(batches, RATES, strict=True)]

    spec = make_spec(model="resnet18", **changes)
    torch.manual_seed(1)
    model = spec.model.build(spec.model_options, 10).to(memory_format=torch.channels_last)
    decayed = [p for p in model.parameters() if p.dim() > 1]
    kept = [p for p in model.parameters() if p.dim() == 1]
    groups: list[dict[str, Any]] = [{"params": decayed, "weight_decay": 1e-4}, {"params": kept}]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    losses = []
    for batch, lr in zip(batches, RATES, strict=True):
        images, labels = prepared(batch)
        optimizer.param_groups[0]["lr"] = optimizer.param_groups[1]["lr"] = lr
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision.compute == "bf16"):
            logits = model(images)
        loss = torch.nn.functional.cross_entropy(logits.float(), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    assert [r.loss for r in results] == losses
    assert not any(r.skipped for r in results)
    assert same(engine.weights(), {k: v.numpy() for k, v in model.state_dict().items()})


def test_accumulated_gradients_equal_those_of_the_whole_batch(
    make_engine: MakeEngine, make_batches: MakeBatches, make_tiny: MakeEntry
) -> None:
    model = make_tiny(norm=False)
    (batch,) = make_batches(1, images=7)
    whole = make_engine(model=model)
    split = make_engine(model=model, micro_batch_size=3)
    loss = whole.train_step(batch, 0.5).read().loss
    assert split.train_step(batch, 0.5).read().loss == pytest.approx(loss, abs=1e-6)
    for name, value in whole.weights().items():
        np.testing.assert_allclose(split.weights()[name], value, atol=1e-6, err_msg=name)


def test_the_learning_rate_is_that_of_the_call(
    make_engine: MakeEngine, make_batches: MakeBatches
) -> None:
    engine = make_engine(model_options=None)
    fresh = engine.weights()
    (batch,) = make_batches(1)
    engine.train_step(batch, 0.0)
    assert np.array_equal(engine.weights()["fc.weight"], fresh["fc.weight"])
    engine.train_step(batch, 0.1)
    assert not np.array_equal(engine.weights()["fc.weight"], fresh["fc.weight"])


def test_gradients_are_clipped_to_their_norm(
    make_engine: MakeEngine, make_batches: MakeBatches, make_tiny: MakeEntry
) -> None:
    options = SgdOptions(momentum=0.0)
    engine = make_engine(
        model=make_tiny(norm=False),
        optimizer_options=options,
        weight_decay=0.0,
        clip_grad_norm=1e-3,
        precision=PrecisionSection(loss_scale=1024.0),
    )
    before = engine.weights()
    engine.train_step(make_batches(1)[0], 1.0)
    change = [(engine.weights()[name] - before[name]).ravel() for name in before]
    assert np.linalg.norm(np.concatenate(change)) == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("skip_overflow", [True, False])
def test_a_static_loss_scale_changes_nothing_in_fp32(
    make_engine: MakeEngine, make_batches: MakeBatches, skip_overflow: bool
) -> None:
    plain = make_engine()
    precision = PrecisionSection(loss_scale=1024.0, skip_overflow=skip_overflow)
    scaled = make_engine(precision=precision)
    for batch in make_batches(2):
        assert plain.train_step(batch, 0.1).read() == scaled.train_step(batch, 0.1).read()
    assert same(plain.weights(), scaled.weights())
    assert scaled.report()["loss_scale"] == {"kind": "static", "factor": 1024.0}


def overflow(engine: TorchEngine, batch: Batch) -> bool:
    """Take a step in which fp16 overflows, and say whether it was skipped."""
    engine.load_weights({n: np.full_like(v, 6e4) for n, v in engine.weights().items()})
    return engine.train_step(batch, 0.1).read().skipped


def test_an_overflow_under_a_static_scale_skips_the_step_and_leaves_the_factor(
    make_engine: MakeEngine, make_batches: MakeBatches
) -> None:
    precision = PrecisionSection(compute="fp16", loss_scale=1000.0)
    plain, engine = make_engine(precision=precision), make_engine(precision=precision)
    first, bad, second = make_batches(3)
    assert plain.train_step(first, 0.1).read() == engine.train_step(first, 0.1).read()
    weights = engine.weights()
    assert overflow(engine, bad)
    assert np.all(engine.weights()["fc.weight"] == np.float32(6e4))
    assert engine.report()["loss_scale"] == {"kind": "static", "factor": 1000.0}
    engine.load_weights(weights)
    assert plain.train_step(second, 0.1).read() == engine.train_step(second, 0.1).read()
    assert same(plain.weights(), engine.weights())


def test_an_overflow_that_is_not_to_be_skipped_reaches_the_weights(
    make_engine: MakeEngine, make_batches: MakeBatches
) -> None:
    precision = PrecisionSection(compute="fp16", loss_scale=1024.0, skip_overflow=False)
    engine = make_engine(precision=precision)
    assert not overflow(engine, make_batches(1)[0])
    assert not np.isfinite(engine.weights()["fc.weight"]).all()


def test_an_overflow_skips_the_step_and_halves_the_scale(
    make_engine: MakeEngine, make_batches: MakeBatches
) -> None:
    precision = PrecisionSection(compute="fp16", loss_scale="dynamic")
    engine = make_engine(precision=precision)
    good, bad = make_batches(2)
    assert not engine.train_step(good, 0.1).read().skipped
    assert overflow(engine, bad)
    assert np.all(engine.weights()["fc.weight"] == np.float32(6e4))
    assert engine.report()["loss_scale"]["scale"] == 65536 / 2


def test_the_average_follows_the_weights_and_copies_buffers(
    make_engine: MakeEngine, make_batches: MakeBatches
) -> None:
    engine = make_engine(ema_decay=0.9)
    expected = {k: v.astype(np.float64) for k, v in engine.weights().items()}
    for batch in make_batches(3):
        engine.train_step(batch, 0.1)
        for name, value in engine.weights().items():
            expected[name] = 0.9 * expected[name] + 0.1 * value
    average, weights = engine.evaluation_weights(), engine.weights()
    np.testing.assert_allclose(average["conv.weight"], expected["conv.weight"], rtol=1e-5)
    assert not np.array_equal(average["conv.weight"], weights["conv.weight"])
    assert np.array_equal(average["bn.running_var"], weights["bn.running_var"])
    assert average["bn.num_batches_tracked"] == 3


def test_evaluation_uses_the_average(make_engine: MakeEngine, make_batches: MakeBatches) -> None:
    (batch,) = make_batches(1)
    engine = make_engine(ema_decay=0.5)
    engine.train_step(batch, 0.5)
    other = make_engine(optimizer=None, seed=2)
    other.load_weights(engine.evaluation_weights())
    assert np.array_equal(engine.predict(batch.images), other.predict(batch.images))
    assert engine.eval_step(batch).read() == other.eval_step(batch).read()
    other.load_weights(engine.weights())
    assert not np.array_equal(engine.predict(batch.images), other.predict(batch.images))


def test_loaded_weights_start_the_average_anew(make_engine: MakeEngine) -> None:
    engine, donor = make_engine(ema_decay=0.5), make_engine(seed=2)
    engine.load_weights(donor.weights())
    assert same(engine.evaluation_weights(), donor.weights())


@pytest.mark.parametrize("classes", [3, 10])
def test_counts_and_loss_of_an_evaluation_batch(
    make_engine: MakeEngine, make_batches: MakeBatches, classes: int
) -> None:
    smoothed = LossSection(label_smoothing=0.1)
    engine = make_engine(optimizer=None, num_classes=classes, loss=smoothed)
    (batch,) = make_batches(1, images=9, classes=classes)
    logits = engine.predict(batch.images).astype(np.float64)
    ranks = (logits > logits[np.arange(9), batch.labels][:, None]).sum(axis=1)
    log_sum = np.log(np.exp(logits).sum(axis=1))
    counts = engine.eval_step(batch).read()
    assert counts.count == 9
    assert counts.top1 == (ranks < 1).sum()
    assert counts.top5 == (ranks < 5).sum()
    expected = (log_sum - logits[np.arange(9), batch.labels]).sum()
    assert counts.loss_sum == pytest.approx(expected, rel=1e-5)


def test_prediction_normalises_pixels(
    make_engine: MakeEngine, make_batches: MakeBatches, make_spec: MakeSpec
) -> None:
    (batch,) = make_batches(1)
    engine = make_engine(optimizer=None)
    model = make_spec().model.build(None, 10).eval()
    model.load_state_dict({k: torch.from_numpy(v) for k, v in engine.weights().items()})
    with torch.no_grad():
        expected = model(prepared(batch)[0]).numpy()
    assert np.array_equal(engine.predict(batch.images), expected)


def test_evaluating_between_steps_does_not_disturb_training(
    make_engine: MakeEngine, make_batches: MakeBatches, make_tiny: MakeEntry
) -> None:
    first, second = make_batches(2)
    model = make_tiny(dropout=0.5)
    straight, evaluated = make_engine(model=model), None
    for batch in (first, second):
        straight.train_step(batch, 0.1)
    evaluated = make_engine(model=model)
    evaluated.train_step(first, 0.1)
    evaluated.eval_step(second)
    evaluated.train_step(second, 0.1)
    assert same(straight.weights(), evaluated.weights())


def test_read_only_and_strided_images_are_accepted(
    make_engine: MakeEngine, make_batches: MakeBatches
) -> None:
    (batch,) = make_batches(1)
    engine = make_engine(optimizer=None)
    expected = engine.predict(batch.images)
    frozen = batch.images.copy()
    frozen.setflags(write=False)
    assert np.array_equal(engine.predict(frozen), expected)
    strided = np.repeat(batch.images, 2, axis=2)[:, :, ::2]
    assert np.array_equal(engine.predict(strided), expected)


def test_fresh_weights_are_a_function_of_the_seed(make_engine: MakeEngine) -> None:
    torch.rand(7)
    first = make_engine(seed=5).weights()
    torch.rand(3)
    assert same(first, make_engine(seed=5).weights())
    assert not same(first, make_engine(seed=6).weights())


def test_weights_are_contiguous_copies_in_fp32(
    make_engine: MakeEngine, make_batches: MakeBatches
) -> None:
    engine = make_engine(model="resnet18", precision=PrecisionSection(compute="bf16"))
    weights = engine.weights()
    engine.train_step(make_batches(1)[0], 0.1)
    assert all(value.flags.c_contiguous for value in weights.values())
    assert weights["conv1.weight"].dtype == np.float32
    assert weights["bn1.num_batches_tracked"].dtype == np.int64
    assert weights["bn1.num_batches_tracked"] == 0
    assert len(weights) == 122


def convolution_of(engine: TorchEngine) -> torch.Tensor:
    return engine._model.get_parameter("conv.weight")


def test_memory_format_survives_loading(make_engine: MakeEngine) -> None:
    engine = make_engine(framework_options=TorchOptions(memory_format="channels_last"))
    engine.load_weights(engine.weights())
    assert convolution_of(engine).is_contiguous(memory_format=torch.channels_last)
    engine = make_engine(framework_options=TorchOptions(memory_format="contiguous"))
    assert convolution_of(engine).is_contiguous()
    assert engine.report()["memory_format"] == "contiguous_format"


def test_channels_last_is_refused_where_a_device_has_none(
    make_spec: MakeSpec, device: TorchDevice
) -> None:
    plain = replace(device, traits=replace(device.traits, channels_last=False))
    engine = TorchEngine(make_spec(), plain)
    assert engine.report()["memory_format"] == "contiguous_format"
    asked = make_spec(framework_options=TorchOptions(memory_format="channels_last"))
    with pytest.raises(DeviceError, match="memory_format to auto"):
        TorchEngine(asked, plain)


def test_compiling_keeps_names_and_results(
    make_engine: MakeEngine, make_batches: MakeBatches, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the back-end that needs no C++ compiler; inductor takes a quarter of a minute
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    eager = make_engine(ema_decay=0.5)
    compiled = make_engine(ema_decay=0.5, framework_options=TorchOptions(compile=True))
    for batch in make_batches(2):
        loss = eager.train_step(batch, 0.1).read().loss
        assert compiled.train_step(batch, 0.1).read().loss == pytest.approx(loss, rel=1e-5)
    assert set(compiled.weights()) == set(eager.weights())
    np.testing.assert_allclose(
        compiled.predict(batch.images), eager.predict(batch.images), rtol=1e-4, atol=1e-5
    )
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert compiled.report()["compile"] is True


def test_deterministic_kernels_on_request(make_engine: MakeEngine) -> None:
    assert make_engine(framework_options=TorchOptions(deterministic=True)).report()["deterministic"]
    assert not torch.backends.cudnn.benchmark
    assert not make_engine().report()["deterministic"]


def test_the_report_says_what_is_in_effect(make_engine: MakeEngine) -> None:
    engine = make_engine(model="resnet18", num_classes=1000, no_weight_decay=("bias", "norm"))
    report = engine.report()
    assert report["parameters"] == 11_689_512
    assert report["compute"] == "fp32"
    assert report["parameter_type"] == ["float32"]
    assert report["memory_format"] == "channels_last"
    assert report["threads"] == 1
    assert report["optimizer"] == {
        "class": "SGD",
        "groups": [
            {"weight_decay": 1e-4, "tensors": 21, "values": 11_678_912},
            {"weight_decay": 0.0, "tensors": 41, "values": 10_600},
        ],
    }


def test_a_model_entry_must_build_a_module(make_engine: MakeEngine) -> None:
    entry = ModelEntry(
        name="odd", summary="Nothing", framework="torch", build=lambda options, classes: [1]
    )
    with pytest.raises(PluginError, match="odd was built as list"):
        make_engine(model=entry)


def test_an_engine_without_optimizer_does_not_train(
    make_engine: MakeEngine, make_batches: MakeBatches
) -> None:
    with pytest.raises(ValueError, match="only evaluates"):
        make_engine(optimizer=None).train_step(make_batches(1)[0], 0.1)


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_equal_logits_and_nan_are_counted_as_core_counts_them(
    make_engine: MakeEngine, make_batches: MakeBatches, value: float
) -> None:
    engine = make_engine(optimizer=None)
    weights = engine.weights()
    weights["fc.weight"] = np.zeros_like(weights["fc.weight"])
    weights["fc.bias"] = np.array([1, 1, 1, 0, 0, 0, 0, 0, value, 0], np.float32)
    engine.load_weights(weights)
    (batch,) = make_batches(1, images=10)
    batch = replace(batch, labels=np.arange(10))
    counts = engine.eval_step(batch).read()
    expected = (0, 0, 10) if np.isnan(value) else (1, 5, 10)
    assert (counts.top1, counts.top5, counts.count) == expected
    own = count_correct(engine.predict(batch.images), batch.labels)
    assert (own.top1, own.top5, own.count) == expected


def test_out_of_memory_names_the_key_to_lower(
    make_engine: MakeEngine, make_batches: MakeBatches, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward(self: Any, images: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("tried to allocate 9 GiB")

    engine = make_engine(micro_batch_size=3)
    monkeypatch.setattr(type(engine._model), "forward", forward)
    (batch,) = make_batches(1)
    with pytest.raises(DeviceError, match=r"cpu .* 3 images .*9 GiB.*train\.micro_batch_size=1"):
        engine.train_step(batch, 0.1)
    for evaluate in (lambda: engine.eval_step(batch), lambda: engine.predict(batch.images)):
        with pytest.raises(DeviceError, match=r"cpu .* 4 images .*--set eval\.batch_size=2"):
            evaluate()


def test_other_errors_pass_unchanged(
    make_engine: MakeEngine, make_batches: MakeBatches, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward(self: Any, images: torch.Tensor) -> torch.Tensor:
        raise ValueError("of the model's own")

    engine = make_engine()
    monkeypatch.setattr(type(engine._model), "forward", forward)
    with pytest.raises(ValueError, match=r"^of the model's own$"):
        engine.train_step(make_batches(1)[0], 0.1)


@pytest.mark.parametrize(
    ("images", "per_pass", "advice"),
    [
        (1, 64, "last_batch=drop.*micro_batch_size"),
        (5, 4, "last_batch=drop.*micro_batch_size"),
        (2, 1, "2 or more images in a pass, with train.batch_size"),
    ],
)
def test_one_value_per_channel_says_what_to_set(
    make_engine: MakeEngine, make_batches: MakeBatches, images: int, per_pass: int, advice: str
) -> None:
    engine = make_engine(micro_batch_size=per_pass)
    (batch,) = make_batches(1, images=images, size=1)
    with pytest.raises(UsageError, match=rf"pass has 1 image .*{advice}"):
        engine.train_step(batch, 0.1)


def test_a_last_pass_of_one_image_is_refused_when_the_engine_is_opened(
    make_engine: MakeEngine,
) -> None:
    with pytest.raises(UsageError, match=r"1 image .*the last batch of an epoch.*last_batch=drop"):
        make_engine(smallest_pass=(1, 1, 1))


def test_trying_a_pass_of_one_image_leaves_nothing_behind(
    make_engine: MakeEngine, make_batches: MakeBatches
) -> None:
    batches = make_batches(2)
    tried, other = make_engine(smallest_pass=(1, 8, 8)), make_engine(smallest_pass=(2, 1, 1))
    for batch in batches:
        assert tried.train_step(batch, 0.1).read() == other.train_step(batch, 0.1).read()
    for name, array in other.weights().items():
        assert np.array_equal(tried.weights()[name], array)


def test_a_model_that_cannot_be_built_is_named(make_engine: MakeEngine) -> None:
    def build(options: object, classes: int) -> torch.nn.Module:
        raise ValueError("no such depth")

    entry = ModelEntry(name="odd", summary="Raises", framework="torch", build=build)
    with pytest.raises(PluginError, match=r"model odd .*: ValueError: no such depth") as caught:
        make_engine(model=entry)
    assert isinstance(caught.value.__cause__, ValueError)


def test_a_model_with_another_number_of_outputs_is_refused(
    make_engine: MakeEngine, make_batches: MakeBatches, tiny: type[TinyNet]
) -> None:
    entry = ModelEntry(
        name="odd",
        summary="Has 1000 outputs, whatever is asked for",
        framework="torch",
        build=lambda options, classes: tiny(1000, norm=True, dropout=0),
    )
    (batch,) = make_batches(1)
    message = r"odd returned shape \[4, 1000\] for 4 images, expected .* \[4, 10\]"
    for step in (lambda e: e.train_step(batch, 0.1), lambda e: e.eval_step(batch)):
        with pytest.raises(PluginError, match=message):
            step(make_engine(model=entry))


def test_one_process_continues_what_several_began(
    make_engine: MakeEngine, make_batches: MakeBatches, make_tiny: MakeEntry
) -> None:
    """A checkpoint of several holds a row of random states for each, rank 0 first."""
    model = make_tiny(dropout=0.5)
    engine, other = make_engine(model=model), make_engine(model=model)
    first, second = make_batches(2)
    engine.train_step(first, 0.1)
    state, weights = engine.state(), engine.weights()
    own = state.tensors["random/cpu"]
    rows = np.stack([own, np.roll(own, 1)])
    expected = engine.train_step(second, 0.1).read()
    other.load_weights(weights)
    other.load_state(replace(state, tensors={**state.tensors, "random/cpu": rows}))
    assert other.train_step(second, 0.1).read() == expected

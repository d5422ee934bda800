"""Steps, accumulation, precision, EMA: what the engine computes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("mindspore")

from runner import Batch, ModelEntry
from runner.data.normalize import normalize
from runner.errors import DataError, DeviceError, PluginError, UsageError
from runner.framework.options import SgdOptions
from runner.recipe.schema import LossSection, PrecisionSection
from runner.session.metrics import count_correct
from runner_mindspore.autoload import Tensor, ms, nn
from runner_mindspore.engine import MindSporeEngine
from runner_mindspore.options import MindSporeOptions
from runner_mindspore.pixels import DevicePixels, HostPixels

if TYPE_CHECKING:
    from tests.plugins.mindspore.conftest import MakeBatches, MakeEngine, MakeEntry, MakeSpec, Mode

    from runner_mindspore.device import MindSporeDevice

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RATES = (0.1, 0.2, 0.05)


def same(a: Any, b: Any) -> bool:
    return set(a) == set(b) and all(np.array_equal(a[name], b[name]) for name in a)


def torch_net(classes: int, *, norm: bool) -> Any:
    """Build the tiny network with torch."""
    from collections import OrderedDict

    import torch

    return torch.nn.Sequential(
        OrderedDict(
            conv=torch.nn.Conv2d(3, 8, kernel_size=3, padding=1, stride=2),
            bn=torch.nn.BatchNorm2d(8) if norm else torch.nn.Identity(),
            relu=torch.nn.ReLU(),
            pool=torch.nn.AdaptiveAvgPool2d(1),
            flatten=torch.nn.Flatten(),
            fc=torch.nn.Linear(8, classes),
        )
    )


@pytest.mark.parametrize(
    ("optimizer", "norm", "changes"),
    [
        ("sgd", True, {"no_weight_decay": ("bias", "norm")}),
        ("sgd", True, {"optimizer_options": SgdOptions(nesterov=True), "clip_grad_norm": 0.3}),
        # a bias before batch norm has no gradient but rounding, which Adam blows up
        ("adamw", False, {"weight_decay": 0.1, "loss": LossSection(label_smoothing=0.1)}),
        ("sgd", True, {"micro_batch_size": 3, "ema_decay": 0.7}),
    ],
    ids=["sgd", "nesterov, clipped", "adamw, smoothed", "accumulated, averaged"],
)
def test_steps_equal_those_of_torch(
    make_engine: MakeEngine,
    make_batches: MakeBatches,
    make_spec: MakeSpec,
    make_tiny: MakeEntry,
    mode: Mode,
    optimizer: str,
    norm: bool,
    changes: dict[str, Any],
) -> None:
    torch = pytest.importorskip("torch")
    from runner_torch.device import configure_cpu, open_device
    from runner_torch.engine import TorchEngine
    from runner_torch.options import CpuOptions, TorchOptions
    from runner_torch.plugin import runner_register_optimizers
    from runner_torch.traits import CPU

    engine = make_engine(model=make_tiny(norm=norm), optimizer=optimizer, mode=mode, **changes)
    spec = replace(
        make_spec(optimizer=optimizer, **changes),
        model=ModelEntry(
            name="tiny",
            summary="The tiny network",
            framework="torch",
            build=lambda options, classes: torch_net(classes, norm=norm),
        ),
        optimizer=next(e for e in runner_register_optimizers() if e.name == optimizer),
        framework_options=TorchOptions(),
    )
    other = TorchEngine(
        spec,
        open_device(
            CPU, configure=lambda: configure_cpu(CpuOptions(threads=torch.get_num_threads()))
        ),
    )
    other.load_weights(engine.weights())
    for batch, lr in zip(make_batches(3, images=8), RATES, strict=True):
        loss = engine.train_step(batch, lr / 10).read().loss
        assert loss == pytest.approx(other.train_step(batch, lr / 10).read().loss, rel=1e-4)
    for found, expected in (
        (engine.weights(), other.weights()),
        (engine.evaluation_weights(), other.evaluation_weights()),
    ):
        assert list(found) == list(expected)
        for name, array in expected.items():
            tolerance = 1e-3 if "running" in name else 1e-5
            np.testing.assert_allclose(found[name], array, rtol=tolerance, atol=1e-5, err_msg=name)
    (batch,) = make_batches(1, images=8, seed=5)
    np.testing.assert_allclose(
        engine.predict(batch.images), other.predict(batch.images), rtol=1e-4, atol=1e-5
    )


def test_both_modes_compute_the_same(make_engine: MakeEngine, make_batches: MakeBatches) -> None:
    engines = [make_engine(mode=mode) for mode in ("graph", "pynative")]
    for batch in make_batches(3):
        loss, other = (engine.train_step(batch, 0.1).read().loss for engine in engines)
        assert loss == pytest.approx(other, rel=1e-5)
    first, second = (engine.weights() for engine in engines)
    for name, array in first.items():
        np.testing.assert_allclose(array, second[name], rtol=1e-4, atol=1e-6, err_msg=name)


def test_accumulated_gradients_equal_those_of_the_whole_batch(
    make_engine: MakeEngine, make_batches: MakeBatches, make_tiny: MakeEntry, mode: Mode
) -> None:
    model = make_tiny(norm=False)
    whole = make_engine(model=model, mode=mode)
    split = make_engine(model=model, mode=mode, micro_batch_size=3)
    for batch in make_batches(2, images=7):
        loss = whole.train_step(batch, 0.5).read().loss
        assert split.train_step(batch, 0.5).read().loss == pytest.approx(loss, abs=1e-6)
    for name, value in whole.weights().items():
        np.testing.assert_allclose(split.weights()[name], value, atol=1e-6, err_msg=name)


def test_the_learning_rate_is_that_of_the_call(
    make_engine: MakeEngine, make_batches: MakeBatches, mode: Mode
) -> None:
    engine = make_engine(mode=mode)
    fresh = engine.weights()
    (batch,) = make_batches(1)
    engine.train_step(batch, 0.0)
    assert np.array_equal(engine.weights()["fc.weight"], fresh["fc.weight"])
    engine.train_step(batch, 0.1)
    assert not np.array_equal(engine.weights()["fc.weight"], fresh["fc.weight"])


def test_gradients_are_clipped_to_their_norm(
    make_engine: MakeEngine, make_batches: MakeBatches, make_tiny: MakeEntry
) -> None:
    engine = make_engine(
        model=make_tiny(norm=False),
        optimizer_options=SgdOptions(momentum=0.0),
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


def overflow(engine: MindSporeEngine, batch: Batch) -> bool:
    """Take a step in which fp16 overflows, and say whether it was skipped."""
    engine.load_weights({n: np.full_like(v, 6e4) for n, v in engine.weights().items()})
    return engine.train_step(batch, 0.1).read().skipped


def test_an_overflow_under_a_static_scale_skips_the_step_and_leaves_the_factor(
    make_engine: MakeEngine, make_batches: MakeBatches, mode: Mode
) -> None:
    precision = PrecisionSection(compute="fp16", loss_scale=1000.0)
    plain, engine = (make_engine(precision=precision, mode=mode) for _ in range(2))
    first, bad, second = make_batches(3)
    assert plain.train_step(first, 0.1).read() == engine.train_step(first, 0.1).read()
    weights, state = engine.weights(), engine.state()
    assert overflow(engine, bad)
    assert np.all(engine.weights()["fc.weight"] == np.float32(6e4))
    assert engine.report()["loss_scale"] == {"kind": "static", "factor": 1000.0}
    assert same(engine.state().tensors, state.tensors)
    engine.load_weights(weights)
    assert plain.train_step(second, 0.1).read() == engine.train_step(second, 0.1).read()
    assert same(plain.weights(), engine.weights())


def test_an_overflow_that_is_not_to_be_skipped_reaches_the_weights(
    make_engine: MakeEngine, make_batches: MakeBatches
) -> None:
    precision = PrecisionSection(compute="fp16", loss_scale=1024.0, skip_overflow=False)
    engine = make_engine(precision=precision)
    assert not overflow(engine, make_batches(1)[0])
    assert not np.isfinite(engine.weights()["conv.weight"]).all()


@pytest.mark.parametrize("micro_batch_size", [64, 2])
def test_a_nan_shows_in_the_loss(
    make_engine: MakeEngine, make_batches: MakeBatches, mode: Mode, micro_batch_size: int
) -> None:
    engine = make_engine(mode=mode, micro_batch_size=micro_batch_size)
    first, second = make_batches(2)
    assert np.isfinite(engine.train_step(first, 0.1).read().loss)
    weights = engine.weights()
    weights["conv.weight"][0, 0, 0, 0] = np.nan  # MindSpore's ReLU makes 0 of it on the CPU
    engine.load_weights(weights)
    assert np.isnan(engine.train_step(second, 0.1).read().loss)


def test_an_overflow_skips_the_step_and_halves_the_scale(
    make_engine: MakeEngine, make_batches: MakeBatches, mode: Mode
) -> None:
    precision = PrecisionSection(compute="fp16", loss_scale="dynamic")
    engine = make_engine(precision=precision, mode=mode)
    good, bad = make_batches(2)
    assert not engine.train_step(good, 0.1).read().skipped
    assert engine.report()["loss_scale"] == {"kind": "dynamic", "factor": 65536, "steps": 1}
    assert overflow(engine, bad)
    assert np.all(engine.weights()["fc.weight"] == np.float32(6e4))
    assert engine.report()["loss_scale"] == {"kind": "dynamic", "factor": 65536 / 2, "steps": 0}


def test_the_dynamic_scale_grows_after_enough_steps(
    make_engine: MakeEngine, make_batches: MakeBatches
) -> None:
    engine = make_engine(precision=PrecisionSection(loss_scale="dynamic"))
    state = engine.state()
    scale = {"kind": "dynamic", "factor": 4.0, "steps": 1998}
    engine.load_state(replace(state, values={**state.values, "loss_scale": scale}))
    found = []
    for batch in make_batches(3):
        assert not engine.train_step(batch, 0.1).read().skipped
        found.append(
            (engine.report()["loss_scale"]["factor"], engine.report()["loss_scale"]["steps"])
        )
    assert found == [(4, 1999), (8, 0), (8, 1)]


@pytest.mark.parametrize(
    ("level", "batch_norm", "conv", "norm"),
    [
        ("auto", "fp32", "Float32", "Float32"),  # the convolution's bias is added in fp32
        ("O2", "fp32", "Float16", "Float32"),
        ("O2", "compute", "Float16", "Float16"),
        ("O3", "compute", "Float16", "Float16"),
        ("O3", "fp32", "Float16", "Float32"),
    ],
)
def test_layers_compute_in_the_formats_asked_for(
    make_engine: MakeEngine,
    make_batches: MakeBatches,
    level: Any,
    batch_norm: Any,
    conv: str,
    norm: str,
) -> None:
    section = PrecisionSection(compute="fp16", level=level, batch_norm=batch_norm)
    engine = make_engine(precision=section)
    seen: dict[str, str] = {}
    for name in ("conv", "bn"):
        cell = getattr(engine._model, name)
        cell.register_forward_hook(
            lambda _cell, _inputs, output, name=name: seen.update({name: str(output.dtype)})
        )
    (batch,) = make_batches(1)
    logits, exact = engine.predict(batch.images), make_engine().predict(batch.images)
    assert logits.dtype == np.float32
    assert 0 < np.abs(logits - exact).max() < 1e-2
    assert seen == {"conv": conv, "bn": norm}
    loss = engine.train_step(batch, 0.1).read().loss
    assert loss == pytest.approx(make_engine().train_step(batch, 0.1).read().loss, rel=5e-3)
    assert {str(array.dtype) for array in engine.weights().values()} == {"float32", "int64"}
    assert engine.report()["level"] == level


def test_formats_are_those_of_the_device(make_engine: MakeEngine) -> None:
    with pytest.raises(DeviceError, match=r"cpu cannot compute in bf16: MindSpore has no bf16"):
        make_engine(precision=PrecisionSection(compute="bf16"))


def test_the_average_follows_the_weights_and_copies_buffers(
    make_engine: MakeEngine, make_batches: MakeBatches, mode: Mode
) -> None:
    engine = make_engine(ema_decay=0.9, mode=mode)
    expected = {k: v.astype(np.float64) for k, v in engine.weights().items()}
    for batch in make_batches(3):
        engine.train_step(batch, 0.1)
        for name, value in engine.weights().items():
            expected[name] = 0.9 * expected[name] + 0.1 * value
    average, weights = engine.evaluation_weights(), engine.weights()
    for name in ("conv.weight", "bn.bias", "fc.bias"):
        np.testing.assert_allclose(average[name], expected[name], rtol=1e-5, atol=1e-7)
    assert not np.array_equal(average["conv.weight"], weights["conv.weight"])
    assert np.array_equal(average["bn.running_var"], weights["bn.running_var"])
    assert average["bn.num_batches_tracked"] == 3


def test_a_model_without_buffers_can_be_averaged(
    make_engine: MakeEngine, make_batches: MakeBatches, make_tiny: MakeEntry, mode: Mode
) -> None:
    engine = make_engine(model=make_tiny(norm=False), ema_decay=0.5, mode=mode)
    before = engine.weights()["fc.weight"]
    engine.train_step(make_batches(1)[0], 0.1)
    mean = (before + engine.weights()["fc.weight"]) / 2
    np.testing.assert_allclose(engine.evaluation_weights()["fc.weight"], mean, rtol=1e-6)


def test_evaluation_uses_the_average(
    make_engine: MakeEngine, make_batches: MakeBatches, mode: Mode
) -> None:
    (batch,) = make_batches(1)
    engine = make_engine(ema_decay=0.5, mode=mode)
    engine.train_step(batch, 0.5)
    other = make_engine(optimizer=None, seed=2, mode=mode)
    other.load_weights(engine.evaluation_weights())
    assert np.array_equal(engine.predict(batch.images), other.predict(batch.images))
    counts, expected = engine.eval_step(batch).read(), other.eval_step(batch).read()
    # threads add in varying order
    assert counts.loss_sum == pytest.approx(expected.loss_sum, rel=1e-6)
    assert replace(counts, loss_sum=0.0) == replace(expected, loss_sum=0.0)
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


def test_a_smaller_batch_counts_without_what_fills_it(
    make_engine: MakeEngine, make_batches: MakeBatches, mode: Mode
) -> None:
    engine, fresh = (make_engine(optimizer=None, mode=mode) for _ in range(2))
    (batch,) = make_batches(1, images=8)
    small = Batch(images=batch.images[:3], labels=batch.labels[:3], indices=batch.indices[:3])
    expected = fresh.eval_step(small).read()
    engine.eval_step(batch)
    found = engine.eval_step(small).read()
    assert (found.top1, found.top5, found.count) == (expected.top1, expected.top5, 3)
    assert found.loss_sum == pytest.approx(expected.loss_sum, rel=1e-5)
    np.testing.assert_allclose(
        engine.predict(small.images), fresh.predict(small.images), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_equal_logits_and_nan_are_counted_as_core_counts_them(
    make_engine: MakeEngine, make_batches: MakeBatches, mode: Mode, value: float
) -> None:
    engine = make_engine(optimizer=None, mode=mode)
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


def test_pixels_are_normalised_to_the_same_numbers_everywhere(make_batches: MakeBatches) -> None:
    (batch,) = make_batches(1)
    host, device = HostPixels(MEAN, STD), DevicePixels(MEAN, STD)
    found = host.cell(host.tensor(batch.images)).asnumpy()
    assert np.array_equal(found, device.cell(device.tensor(batch.images)).asnumpy())
    np.testing.assert_allclose(found, normalize(batch.images, MEAN, STD), rtol=1e-5, atol=1e-6)


def test_other_devices_normalise_for_themselves(
    make_spec: MakeSpec, device: MindSporeDevice, make_engine: MakeEngine, make_batches: MakeBatches
) -> None:
    card = replace(device, traits=replace(device.traits, is_host=False))
    engine = MindSporeEngine(make_spec(), card)
    (batch,) = make_batches(1)
    assert np.array_equal(engine.predict(batch.images), make_engine().predict(batch.images))
    loss = engine.train_step(batch, 0.1).read().loss
    assert loss == make_engine().train_step(batch, 0.1).read().loss


def test_evaluating_between_steps_does_not_disturb_training(
    make_engine: MakeEngine, make_batches: MakeBatches, make_tiny: MakeEntry, mode: Mode
) -> None:
    first, second = make_batches(2)
    model = make_tiny(dropout=0.5)
    straight, evaluated = (make_engine(model=model, mode=mode) for _ in range(2))
    for batch in (first, second):
        straight.train_step(batch, 0.1)
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
    np.random.seed(3)
    first, number = make_engine(seed=5).weights(), np.random.rand()
    assert same(first, make_engine(seed=5).weights())
    assert not same(first, make_engine(seed=6).weights())
    assert not same(first, make_engine(seed=5 + 2**32).weights())
    np.random.seed(3)
    assert number == np.random.rand()


def test_weights_are_contiguous_copies_in_fp32(
    make_engine: MakeEngine, make_batches: MakeBatches
) -> None:
    engine = make_engine(model="resnet18", precision=PrecisionSection(compute="fp16", level="O2"))
    weights = engine.weights()
    before = {name: array.copy() for name, array in weights.items()}
    for batch in make_batches(3):  # the first steps may overflow
        engine.train_step(batch, 0.1)
    assert same(weights, before)
    assert all(value.flags.c_contiguous for value in weights.values())
    assert weights["conv1.weight"].dtype == np.float32
    assert weights["bn1.num_batches_tracked"].dtype == np.int64
    assert weights["bn1.num_batches_tracked"] == 0
    assert engine.weights()["bn1.num_batches_tracked"] == 3
    assert len(weights) == 122


def test_deferred_results_stay_what_they_were(
    make_engine: MakeEngine, make_batches: MakeBatches, mode: Mode
) -> None:
    now, later = (make_engine(mode=mode) for _ in range(2))
    batches = make_batches(4)
    losses = [now.train_step(batch, 0.1).read() for batch in batches]
    pending = [later.train_step(batch, 0.1) for batch in batches]
    assert [step.read() for step in pending] == losses


def test_labels_outside_the_classes_are_an_error(
    make_engine: MakeEngine, make_batches: MakeBatches
) -> None:
    engine = make_engine()
    (batch,) = make_batches(1)
    for label in (-1, 10):
        wrong = replace(batch, labels=np.array([0, label, 1, 2]))
        for step in (lambda b: engine.train_step(b, 0.1), engine.eval_step):
            with pytest.raises(DataError, match=rf"found label {label} .* expected 0 to 9"):
                step(wrong)


def test_deterministic_kernels_on_request(make_engine: MakeEngine) -> None:
    engine = make_engine(framework_options=MindSporeOptions(mode="pynative", deterministic=True))
    assert engine.report()["deterministic"]
    assert make_engine().report()["deterministic"]  # MindSpore cannot go back in a process


def test_the_report_says_what_is_in_effect(make_engine: MakeEngine) -> None:
    engine = make_engine(model="resnet18", num_classes=1000, no_weight_decay=("bias", "norm"))
    report = engine.report()
    assert report["parameters"] == 11_689_512
    assert report["compute"] == "fp32"
    assert report["parameter_type"] == ["float32"]
    assert report["mode"] == "pynative"
    assert report["versions"]["mindspore"] == ms.__version__
    assert report["optimizer"] == {
        "class": "Momentum",
        "groups": [
            {"weight_decay": 1e-4, "tensors": 21, "values": 11_678_912},
            {"weight_decay": 0.0, "tensors": 41, "values": 10_600},
        ],
    }


def test_a_model_entry_must_build_a_cell(make_engine: MakeEngine) -> None:
    entry = ModelEntry(
        name="odd", summary="Nothing", framework="mindspore", build=lambda options, classes: [1]
    )
    with pytest.raises(PluginError, match=r"odd was built as list.* mindspore Cell"):
        make_engine(model=entry)


def test_an_engine_without_optimizer_does_not_train(
    make_engine: MakeEngine, make_batches: MakeBatches
) -> None:
    with pytest.raises(ValueError, match="only evaluates"):
        make_engine(optimizer=None).train_step(make_batches(1)[0], 0.1)


def test_dropout_that_cannot_be_resumed_is_refused(make_engine: MakeEngine, tiny: Any) -> None:
    def build(options: object, classes: int) -> nn.Cell:
        net = tiny(classes, norm=True, dropout=0.0)
        net.drop = nn.Dropout(p=0.5)
        return net

    entry = ModelEntry(name="odd", summary="Drops", framework="mindspore", build=build)
    with pytest.raises(PluginError, match=r"odd has dropout .* use .*SeededDropout"):
        make_engine(model=entry)
    make_engine(model=entry, optimizer=None)


def failing(engine: MindSporeEngine, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Make the net raise; graph mode would compile the statement."""

    def construct(self: Any, images: Tensor) -> Tensor:
        raise error

    monkeypatch.setattr(type(engine._model), "construct", construct)


def test_out_of_memory_names_the_key_to_lower(
    make_engine: MakeEngine, make_batches: MakeBatches, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(micro_batch_size=3)
    failing(engine, monkeypatch, RuntimeError("Out of Memory!!! Request size 9 GiB\n- C++ stack"))
    (batch,) = make_batches(1)
    with pytest.raises(DeviceError, match=r"cpu .* 3 images .*9 GiB\).*train\.micro_batch_size=1"):
        engine.train_step(batch, 0.1)
    for evaluate in (lambda: engine.eval_step(batch), lambda: engine.predict(batch.images)):
        with pytest.raises(DeviceError, match=r"cpu .* 4 images .*--set eval\.batch_size=2"):
            evaluate()


def test_other_errors_pass_unchanged(
    make_engine: MakeEngine, make_batches: MakeBatches, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine()
    failing(engine, monkeypatch, RuntimeError("of the model's own"))
    with pytest.raises(RuntimeError, match=r"^of the model's own$"):
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
    (batch,) = make_batches(1)
    tried, other = make_engine(smallest_pass=(1, 8, 8)), make_engine()
    for name, array in other.weights().items():
        assert np.array_equal(tried.weights()[name], array), "running statistics, too"
    losses = [engine.train_step(batch, 0.1).read().loss for engine in (tried, other)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5), "sums of threads differ in any case"


def test_one_image_is_enough_where_it_has_several_values(
    make_engine: MakeEngine, make_batches: MakeBatches
) -> None:
    (batch,) = make_batches(1, images=1)
    assert np.isfinite(make_engine().train_step(batch, 0.1).read().loss)


def test_a_model_with_another_number_of_outputs_is_refused(
    make_engine: MakeEngine, make_batches: MakeBatches, tiny: Any, mode: Mode
) -> None:
    entry = ModelEntry(
        name="odd",
        summary="Has 1000 outputs, whatever is asked for",
        framework="mindspore",
        build=lambda options, classes: tiny(1000, norm=True, dropout=0),
    )
    (batch,) = make_batches(1)
    message = r"odd returned shape \[4, 1000\] for 4 images, expected .* \[4, 10\]"
    for step in (lambda e: e.train_step(batch, 0.1), lambda e: e.eval_step(batch)):
        with pytest.raises(PluginError, match=message):
            step(make_engine(model=entry, mode=mode))


def test_a_model_whose_output_has_another_rank_is_refused(
    make_engine: MakeEngine, make_batches: MakeBatches, tiny: Any, mode: Mode
) -> None:
    class Odd(tiny):
        def construct(self, images: Tensor) -> Tensor:
            return self.bn(self.conv(images))

    entry = ModelEntry(
        name="odd",
        summary="Returns features",
        framework="mindspore",
        build=lambda options, classes: Odd(classes, norm=True, dropout=0),
    )
    (batch,) = make_batches(1)
    message = r"odd returned shape \[4, 8, 16, 16\] for 4 images"
    for step in (lambda e: e.train_step(batch, 0.1), lambda e: e.eval_step(batch)):
        with pytest.raises(PluginError, match=message):
            step(make_engine(model=entry, mode=mode))

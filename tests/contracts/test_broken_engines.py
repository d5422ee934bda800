"""The kit notices engines that break a promise, and says what is wrong with them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.contracts import networks

from runner import EngineState, ModelEntry, StepResult
from runner.contracts import Engine
from runner.recipe.schema import PrecisionSection
from runner.testing import check_framework, check_group, check_step
from runner.testing.fake_engine import FakeEngine, Ready
from runner.testing.reference import FAULTS, Reference, Rules, small_network
from runner.testing.step_checks import SHAPES, draw_batch, make_trial, part

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from runner.contracts import Batch, Device
    from runner.entries import EngineSpec

Flaw = Callable[[FakeEngine], "dict[str, Any]"]


def opened_with(flaw: Flaw | None, **changes: Any) -> Callable[[EngineSpec, Device], Any]:
    """Return an ``open`` of engines that do some things otherwise, or ignore what is asked for."""

    def open_flawed(spec: EngineSpec, device: Device) -> Any:
        given = {k: change(spec) if callable(change) else change for k, change in changes.items()}
        engine = FakeEngine(replace(spec, **given), device)
        names = [name for name in vars(Engine) if not name.startswith("_")]
        methods = {name: getattr(engine, name) for name in names}
        return SimpleNamespace(**methods | (flaw(engine) if flaw else {}))

    return open_flawed


def fake_with(flaw: Flaw | None, **changes: Any) -> dict[str, Any]:
    arguments = networks.in_fake()
    framework = replace(arguments["framework"], open=opened_with(flaw, **changes))
    return {**arguments, "framework": framework}


# Engines whose steps are not those of the recipe


def sgd_without(spec: EngineSpec, **changes: Any) -> Any:
    return spec.optimizer_options and replace(spec.optimizer_options, **changes)  # type: ignore[type-var]


IGNORED: dict[str, tuple[dict[str, Any], str]] = {
    "weight decay": ({"weight_decay": 0.0}, r"0\.25 at rate 0\.5 took 0 off head\.weight.* expect"),
    "what is not decayed": (
        {"no_weight_decay": ()},
        r"took -?0\.0\d+ off head\.bias.* expected 0, .*no_weight_decay",
    ),
    "clipping": ({"clip_grad_norm": None}, "a gradient of length .* expected 0.99"),
    "momentum": (
        {"optimizer_options": lambda spec: sgd_without(spec, momentum=0.0)},
        "expected .* as in an engine that ignores momentum",
    ),
    "Nesterov": (
        {"optimizer_options": lambda spec: sgd_without(spec, nesterov=False)},
        "as in an engine that ignores momentum, or ignores nesterov",
    ),
    "smoothing": (
        {"loss": lambda spec: replace(spec.loss, label_smoothing=0.0)},
        "as in an engine that ignores label_smoothing",
    ),
    "over what is smoothed": (
        {"loss": lambda spec: replace(spec.loss, smooth_over="all")},
        "as in an engine that smooths over all classes",
    ),
    "the average": (
        {"ema_decay": None},
        r"evaluation_weights\(\) has .* an engine that gives the weights in place of their average",
    ),
    "passes": ({"micro_batch_size": 8}, "weights.., buffers .* takes its passes as one"),
    "the mean of the pixels": (
        {"mean": (0.0, 0.0, 0.0)},
        r"predict\(\) is up to .* off the network's logits",
    ),
    "overflows": (
        {"precision": PrecisionSection()},
        "gradients overflow was not skipped under a loss scale",
    ),
}


@pytest.mark.parametrize("what", IGNORED)
def test_what_an_engine_ignores_is_named(what: str) -> None:
    changes, message = IGNORED[what]
    with pytest.raises(AssertionError, match=message):
        check_step(**fake_with(None, **changes))


def first_pass_only(engine: FakeEngine) -> dict[str, Any]:
    size = engine._spec.micro_batch_size
    return {"train_step": lambda batch, rate: engine.train_step(part(batch, slice(size)), rate)}


def last_pass_only(engine: FakeEngine) -> dict[str, Any]:
    def step(batch: Batch, rate: float) -> Any:
        size = engine._spec.micro_batch_size
        return engine.train_step(
            part(batch, slice((len(batch.labels) - 1) // size * size, None)), rate
        )

    return {"train_step": step}


def one_rate(engine: FakeEngine) -> dict[str, Any]:
    return {"train_step": lambda batch, rate: engine.train_step(batch, 0.5)}


def squared_rate(engine: FakeEngine) -> dict[str, Any]:
    return {"train_step": lambda batch, rate: engine.train_step(batch, rate**2 / 0.5)}


def clips_without_epsilon(engine: FakeEngine) -> dict[str, Any]:
    def clipped(gradients: dict[str, Any]) -> dict[str, Any]:
        limit = engine._spec.clip_grad_norm
        norm = float(np.sqrt(sum((g**2).sum() for g in gradients.values())))
        factor = 1.0 if limit is None else min(1.0, limit / norm)
        return {name: factor * g for name, g in gradients.items()}

    engine._clipped = clipped  # type: ignore[method-assign]
    return {}


def clips_each(engine: FakeEngine) -> dict[str, Any]:
    clip = engine._clipped

    def clipped(gradients: dict[str, Any]) -> dict[str, Any]:
        return {name: clip({name: g})[name] for name, g in gradients.items()}

    engine._clipped = clipped  # type: ignore[method-assign]
    return {}


def blue_first(engine: FakeEngine) -> dict[str, Any]:
    features = engine._features
    engine._features = lambda images: features(images[..., ::-1])  # type: ignore[method-assign]
    return {}


def uphill_for_images(engine: FakeEngine) -> dict[str, Any]:
    """Add the losses of the images of a step up in place of their mean."""
    clip = engine._clipped
    engine._clipped = lambda gradients: clip(  # type: ignore[method-assign]
        {name: 8 * g for name, g in gradients.items()}
    )
    return {}


def averages_buffers(engine: FakeEngine) -> dict[str, Any]:
    if engine._average is not None:
        update, average = engine._average.update, engine._average.model

        def average_all() -> None:
            decay, old = engine._spec.ema_decay or 0.0, average["colour_mean"]
            update()
            mean = decay * old + (1 - decay) * engine._model["colour_mean"]
            average["colour_mean"] = mean.astype(np.float32)

        engine._average.update = average_all  # type: ignore[method-assign]
    return {}


def reports_the_sum(engine: FakeEngine) -> dict[str, Any]:
    def step(batch: Batch, rate: float) -> Ready:
        loss = engine.train_step(batch, rate).read().loss
        return Ready(StepResult(loss=8 * loss))

    return {"train_step": step}


def evaluates_with_smoothing(engine: FakeEngine) -> dict[str, Any]:
    def evaluate(batch: Batch) -> Ready:
        counts = engine.eval_step(batch).read()
        factor = 1 + engine._spec.loss.label_smoothing
        return Ready(replace(counts, loss_sum=factor * counts.loss_sum))

    return {"eval_step": evaluate}


@pytest.mark.parametrize(
    ("flaw", "message"),
    [
        (None, None),
        (first_pass_only, "has .* expected .* an engine that counts the first pass only"),
        (last_pass_only, "an engine that counts the last pass only"),
        (one_rate, r"a step at rate 0 moved head\.weight, head\.bias"),
        (squared_rate, r"moves by [\d.]+ at rate 0\.5 and by [\d.]+ at rate 1\.0; expected twice"),
        (clips_without_epsilon, r"moved the weights by 1\.000000 times .* expected 0\.999"),
        (clips_each, "a gradient of length .* moved the weights by 1.4"),
        (blue_first, r"predict\(\) is up to"),
        (uphill_for_images, "an engine that adds the losses of the images up"),
        (averages_buffers, r"evaluation_weights\(\) has .* that averages buffers as well"),
        (reports_the_sum, "step 1 of SGD .* reports the loss .* expected .* the mean"),
        (evaluates_with_smoothing, "eval_step summed the loss to .* without label smoothing"),
    ],
)
def test_steps_that_are_not_those_of_the_recipe_are_named(
    flaw: Flaw | None, message: str | None
) -> None:
    arguments = fake_with(flaw)
    if message is None:
        check_step(**arguments)
        return
    with pytest.raises(AssertionError, match=message):
        check_step(**arguments)


def test_every_fault_that_the_kit_names_changes_something() -> None:
    draw = np.random.default_rng(0).uniform
    weights = {name: draw(0.5, 1.5, shape) for name, shape in SHAPES.items()}
    weights["bn.num_batches_tracked"] = np.array(0)
    common: dict[str, Any] = {
        "network": small_network,
        "mean": np.array([0.4, 0.5, 0.6]),
        "std": np.array([0.2, 0.25, 0.3]),
        "pass_size": 3,
        "momentum": 0.9,
        "nesterov": True,
        "weight_decay": 0.1,
        "spared": frozenset({"fc.bias"}),
        "clip": 0.1,
        "smoothing": 0.2,
        "ema_decay": 0.7,
        "loss_scale": 8.0,
    }
    known: dict[Any, Any] = {}

    def outcome(rules: Rules) -> Any:
        reference = Reference(rules, weights, known=known)
        for number, rate in ((0, 0.5), (1, 0.25)):
            reference.step([draw_batch(number)], rate)
        arrays = {**reference.average(), **reference.parameters}
        return np.concatenate(
            [arrays[name].ravel() for name in sorted(arrays)]
            + [reference.average()[name].ravel() for name in sorted(arrays)]
        )

    without: set[str] = set(FAULTS)
    for changes in ({}, {"smooth_over": "others", "clip": None}):
        rules = Rules(**{**common, **changes})
        right = outcome(rules)
        without = {f for f in without if np.allclose(outcome(FAULTS[f](rules)), right, rtol=1e-6)}
    assert not without


# Batch normalisation and loss scales, which the fake framework does not have


def broken_norm(kind: str) -> Any:
    """Make batch normalisation of PyTorch that goes wrong."""
    from runner_torch.autoload import torch

    class Norm(torch.nn.BatchNorm2d):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            assert self.running_var is not None
            if kind == "biased" and self.training:
                assert self.num_batches_tracked is not None
                self.num_batches_tracked += 1
                self.running_var *= 0.9
                self.running_var += 0.1 * images.detach().var(dim=(0, 2, 3), correction=0)
                return self.by_batch(images, self.running_mean)
            if kind == "batch statistics in evaluation":
                return self.by_batch(images, None)
            return super().forward(images)

        def by_batch(self, images: torch.Tensor, mean: torch.Tensor | None) -> torch.Tensor:
            variance = None if mean is None else torch.ones_like(mean)
            arguments = (mean, variance, self.weight, self.bias, True, 0.1)
            return torch.nn.functional.batch_norm(images, *arguments)

    return Norm(2, momentum=0.9 if kind == "momentum" else 0.0 if kind == "frozen" else 0.1)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("biased", r"buffers has bn\.running_var.* expected .* that keeps the biased variance"),
        ("momentum", "an engine that gives new statistics the share 0.9"),
        ("frozen", "an engine that leaves the running statistics alone"),
        ("batch statistics in evaluation", r"predict\(\) is up to .* and running statistics"),
    ],
)
def test_batch_statistics_that_are_wrong_are_named(kind: str, message: str) -> None:
    pytest.importorskip("torch")
    arguments = networks.in_torch()
    network: ModelEntry = arguments["network"]

    def build(options: object, classes: int) -> Any:
        module = network.build(options, classes)
        module.bn = broken_norm(kind)
        return module

    with pytest.raises(AssertionError, match=message):
        check_step(**{**arguments, "network": replace(network, build=build)})


def test_a_loss_scale_that_stays_in_the_gradient_is_named() -> None:
    pytest.importorskip("torch")
    arguments = networks.in_torch()
    framework = arguments["framework"]

    def open_flawed(spec: EngineSpec, device: Device) -> Any:
        engine = framework.open(spec, device)
        scale = engine._loss_scale.scale
        engine._loss_scale.scale = lambda loss: 1024 * scale(loss)
        return engine

    arguments = {**arguments, "framework": replace(framework, open=open_flawed)}
    opened = arguments["device"].open(arguments["device"].config())
    trial = make_trial(device=opened, **{k: v for k, v in arguments.items() if k != "device"})
    run = trial.run(loss_scale=1024.0)
    with pytest.raises(AssertionError, match="does not divide the gradient by the loss scale"):
        run.step(draw_batch(0), 0.5)


# Engines that break other promises


def no_update(engine: FakeEngine) -> dict[str, Any]:
    return {"train_step": lambda *_: Ready(StepResult(loss=1.0))}


def slow_to_learn(engine: FakeEngine) -> dict[str, Any]:
    return {"train_step": lambda batch, rate: engine.train_step(batch, rate / 1000)}


def weights_are_a_view(engine: FakeEngine) -> dict[str, Any]:
    return {"weights": lambda: vars(engine)["_model"]}


def any_names_are_accepted(engine: FakeEngine) -> dict[str, Any]:
    def load(weights: Mapping[str, Any]) -> None:
        if set(weights) == set(engine.weights()):
            engine.load_weights(weights)

    return {"load_weights": load}


def the_buffer_is_forgotten(engine: FakeEngine) -> dict[str, Any]:
    def load(weights: Mapping[str, Any]) -> None:
        engine.load_weights({n: 0 * a if n == "batches_seen" else a for n, a in weights.items()})

    return {"load_weights": load}


def any_state_is_accepted(engine: FakeEngine) -> dict[str, Any]:
    return {"load_state": lambda state: engine.load_state(state) if state.values else None}


def momentum_is_forgotten(engine: FakeEngine) -> dict[str, Any]:
    def load(state: EngineState) -> None:
        kept = {name: a for name, a in state.tensors.items() if not name.startswith("optimizer/")}
        engine.load_state(EngineState(tensors=kept, values=state.values))

    return {"load_state": load}


def evaluation_counts_twice(engine: FakeEngine) -> dict[str, Any]:
    def eval_step(batch: Batch) -> Ready:
        counts = engine.eval_step(batch).read()
        return Ready(replace(counts, count=2 * counts.count))

    return {"eval_step": eval_step}


def the_average_has_another_name(engine: FakeEngine) -> dict[str, Any]:
    def state() -> EngineState:
        found = engine.state()
        renamed = {name.replace("ema/", "ema."): a for name, a in found.tensors.items()}
        return EngineState(tensors=renamed, values=found.values)

    return {"state": state}


def nan_counts_as_the_first_class(engine: FakeEngine) -> dict[str, Any]:
    def eval_step(batch: Batch) -> Ready:
        counts = engine.eval_step(batch).read()
        if np.isfinite(counts.loss_sum):
            return Ready(counts)
        return Ready(replace(counts, top1=1, top5=1))

    return {"eval_step": eval_step}


def predictions_in_double(engine: FakeEngine) -> dict[str, Any]:
    return {"predict": lambda images: engine.predict(images).astype("float64")}


def report_holds_an_object(engine: FakeEngine) -> dict[str, Any]:
    return {"report": lambda: {"device": object()}}


def views_that_are_transposed(engine: FakeEngine) -> dict[str, Any]:
    return {"weights": lambda: {n: np.asfortranarray(a) for n, a in engine.weights().items()}}


def logits_that_are_transposed(engine: FakeEngine) -> dict[str, Any]:
    return {"predict": lambda images: np.asfortranarray(engine.predict(images))}


def state_in_another_byte_order(engine: FakeEngine) -> dict[str, Any]:
    def state() -> EngineState:
        found = engine.state()
        swapped = {name: a.astype(a.dtype.newbyteorder()) for name, a in found.tensors.items()}
        return EngineState(tensors=swapped, values=found.values)

    return {"state": state}


def a_loss_of_numpy(engine: FakeEngine) -> dict[str, Any]:
    def step(batch: Batch, rate: float) -> Ready:
        loss: Any = np.float32(engine.train_step(batch, rate).read().loss)
        return Ready(StepResult(loss=loss))

    return {"train_step": step}


def counts_of_numpy(engine: FakeEngine) -> dict[str, Any]:
    def evaluate(batch: Batch) -> Ready:
        counts = engine.eval_step(batch).read()
        top1: Any = np.int64(counts.top1)
        return Ready(replace(counts, top1=top1))

    return {"eval_step": evaluate}


def report_takes_a_key(engine: FakeEngine) -> dict[str, Any]:
    return {"report": lambda: {**engine.report(), "model": "linear"}}


def agree_is_missing(engine: FakeEngine) -> dict[str, Any]:
    return {"agree": None}


def agree_forgets(engine: FakeEngine) -> dict[str, Any]:
    def agree() -> None:
        engine._model["colour_mean"][:] = 0

    return {"agree": agree}


def the_rate_is_ignored(engine: FakeEngine) -> dict[str, Any]:
    return {"train_step": lambda batch, rate: engine.train_step(batch, 0.02)}


def the_rate_is_squared(engine: FakeEngine) -> dict[str, Any]:
    return {"train_step": lambda batch, rate: engine.train_step(batch, 50 * rate**2)}


def results_are_shared(engine: FakeEngine) -> dict[str, Any]:
    results: list[StepResult] = []

    def step(batch: Batch, rate: float) -> Any:
        results[:] = [engine.train_step(batch, rate).read()]
        return SimpleNamespace(read=lambda: results[0])

    return {"train_step": step}


def images_are_changed(engine: FakeEngine) -> dict[str, Any]:
    def step(batch: Batch, rate: float) -> Any:
        result = engine.train_step(batch, rate)
        batch.images[:] = 0
        return result

    return {"train_step": step}


class Queue:
    """What a device does in the background, one thing after the other."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._worker = ThreadPoolExecutor(1)
        self._last: Any = None

    def later(self, work: Callable[[], Any]) -> Any:
        def carry_out() -> Any:
            time.sleep(self.seconds)
            return work().read()

        self._last = pending = self._worker.submit(carry_out)
        return SimpleNamespace(read=pending.result)

    def wait(self) -> None:
        if self._last is not None:
            self._last.result()


def queued(engine: FakeEngine, *waits_for: str) -> dict[str, Any]:
    """Let steps and evaluations take their time, of which some are waited for."""
    queues = {"steps": Queue(), "evaluations": Queue()}

    def after_all(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            for queue in queues.values():
                queue.wait()
            return method(*arguments)

        return call

    def synchronize() -> None:
        for name in waits_for:
            queues[name].wait()

    def report() -> Mapping[str, Any]:
        for queue in queues.values():
            queue.seconds = 0.02  # what follows is asked for all at once
        return engine.report()

    others = ("predict", "weights", "load_weights", "evaluation_weights", "state", "load_state")
    return {
        **{name: after_all(getattr(engine, name)) for name in others},
        "train_step": lambda *given: queues["steps"].later(lambda: engine.train_step(*given)),
        "eval_step": lambda batch: queues["evaluations"].later(lambda: engine.eval_step(batch)),
        "synchronize": synchronize,
        "report": report,
    }


def waits_for_everything(engine: FakeEngine) -> dict[str, Any]:
    return queued(engine, "steps", "evaluations")


def never_waits(engine: FakeEngine) -> dict[str, Any]:
    return queued(engine)


def waits_for_steps(engine: FakeEngine) -> dict[str, Any]:
    return queued(engine, "steps")


@pytest.mark.parametrize(
    ("flaw", "message"),
    [
        (None, None),
        (waits_for_everything, None),
        (no_update, "a step changed no weight"),
        (slow_to_learn, r"moved the loss from 2\.\d+ to 2\.\d+ only"),
        (weights_are_a_view, r"weights\(\) returned a view"),
        (any_names_are_accepted, "load_weights accepted missing"),
        (the_buffer_is_forgotten, "weights differ after a resume: batches_seen"),
        (any_state_is_accepted, "accepted an empty state"),
        (momentum_is_forgotten, "differ"),
        (evaluation_counts_twice, "eval_step counted . of 16, predictions say . of 8"),
        (the_average_has_another_name, "the tensors ema/<name> of state"),
        (nan_counts_as_the_first_class, r"with weights of nan eval_step counted .* = \(1, 1, 8\)"),
        (predictions_in_double, r"predict\(\) returned float64"),
        (report_holds_an_object, "which JSON cannot hold"),
        (views_that_are_transposed, r"weights\(\)\['head.weight'\].* is a view with the strides"),
        (logits_that_are_transposed, r"predict\(\), \[8, 10\], is a view with the strides"),
        (state_in_another_byte_order, "in another order of bytes"),
        (a_loss_of_numpy, r"a step's loss is numpy\.float32 .* expected a float of Python"),
        (counts_of_numpy, r"an evaluation's top1 is numpy\.int64 .* expected a int of Python"),
        (report_takes_a_key, r"report\(\) returned the key 'model'"),
        (agree_is_missing, r"has no method agree\(\)"),
        (agree_forgets, r"agree\(\) changed the weights of a process that is alone: colour_mean"),
        (the_rate_is_ignored, "the learning rate has no effect"),
        (
            the_rate_is_squared,
            "moves .* at rate 0.02, and by .* at rate 0.04; expected twice",
        ),
        (first_pass_only, "a step of two passes moves head.weight otherwise than one of one pass"),
        (results_are_shared, "steps that are read late report the losses"),
        (images_are_changed, "a step changed its images"),
        (never_waits, "before the device was done: reading 4 steps after it took"),
        (waits_for_steps, "before the device was done: reading 4 evaluations after it took"),
    ],
)
def test_broken_promises_are_named(flaw: Flaw | None, message: str | None) -> None:
    given = fake_with(flaw)
    entries = (given[name] for name in ("framework", "device", "network", "optimizer"))
    if message is None:
        check_framework(*entries)
        return
    with pytest.raises(AssertionError, match=message):
        check_framework(*entries)


# Several processes


class ThreadGroup:
    """Processes that are threads."""

    def __init__(self, rank: int, world_size: int, barrier: threading.Barrier, box: Any) -> None:
        self.rank = rank
        self.world_size = world_size
        self.barrier = barrier
        self._box = box

    def sum(self, values: Sequence[float]) -> list[float]:
        self._box[self.rank] = list(values)
        self.barrier.wait()
        total = [sum(row) for row in zip(*self._box.values(), strict=True)]
        self.barrier.wait()
        return total

    def close(self) -> None:
        self.barrier.wait()


def check_in_threads(arguments: Mapping[str, Any], count: int) -> None:
    """Call ``check_group`` in threads; raise what the first of them does."""
    barrier, box = threading.Barrier(count, timeout=20), dict[int, list[float]]()
    found = {k: v for k, v in arguments.items() if k != "device"}
    device = arguments["device"].open(arguments["device"].config())

    def check(rank: int) -> None:
        group = ThreadGroup(rank, count, barrier, box)
        try:
            check_group(device=device, group=group, **found)
        except AssertionError:
            barrier.abort()
            raise

    with ThreadPoolExecutor(count) as pool:
        errors = [pending.exception() for pending in [pool.submit(check, r) for r in range(count)]]
    for error in errors:
        if error is not None and not isinstance(error, threading.BrokenBarrierError):
            raise error


def gradients_of_its_own(engine: FakeEngine) -> dict[str, Any]:
    engine._mean_over_ranks = lambda array: array  # type: ignore[method-assign]
    return {}


def agree_does_nothing(engine: FakeEngine) -> dict[str, Any]:
    return {"agree": lambda: None}


def goes_on_with_the_mean(engine: FakeEngine) -> dict[str, Any]:
    def agree() -> None:
        engine.agree()
        if engine._statistics is not None:
            engine._statistics.forget()

    return {"agree": agree}


def loses_what_others_had(engine: FakeEngine) -> dict[str, Any]:
    def state() -> EngineState:
        found = engine.state()
        kept = {name: a for name, a in found.tensors.items() if not name.startswith("own/")}
        return EngineState(tensors=kept, values=found.values)

    return {"state": state}


@pytest.mark.parametrize(
    ("flaw", "message"),
    [
        (None, None),
        (gradients_of_its_own, r"weights\(\) has head.* after step 1 of SGD .*2 processes"),
        (agree_does_nothing, r"has colour_mean.* after agree\(\), expected .* the mean over 2"),
        (goes_on_with_the_mean, "colour_mean.* after step 3 of SGD"),
        (loses_what_others_had, "other weights after it has continued from the state of process 0"),
    ],
)
def test_groups_that_are_broken_are_named(flaw: Flaw | None, message: str | None) -> None:
    arguments = fake_with(flaw)
    if message is None:
        for count in (2, 4):
            check_in_threads(arguments, count)
        return
    with pytest.raises(AssertionError, match=message):
        check_in_threads(arguments, 2)

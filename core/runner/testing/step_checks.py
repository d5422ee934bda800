"""Checks of the numbers that training steps give, against NumPy."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, NamedTuple, final

import numpy as np

from runner.contracts import Batch
from runner.errors import RunnerError
from runner.recipe.schema import LossSection, PrecisionSection
from runner.testing import returned
from runner.testing.reference import (
    CLIP_EPS,
    FAULTS,
    Reference,
    Rules,
    cross_entropy,
    small_network,
)
from runner.testing.subject import BATCH, Subject, make_subject, open_device

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from runner.contracts import Device, Engine, Group, StepResult
    from runner.entries import DeviceEntry, FrameworkEntry, ModelEntry, OptimizerEntry
    from runner.testing.reference import Arrays, Network

CLASSES = 4
HEIGHT, WIDTH = 8, 12
RATE = 0.5
ROUNDING = 1e-6
"""Of fp32 over a few steps, relative to a weight."""
SECTION = 'see "What a step means" in docs/plugins.md'


def check_step(
    framework: FrameworkEntry,
    device: DeviceEntry,
    network: ModelEntry,
    optimizer: OptimizerEntry,
    *,
    function: Network = small_network,
    tolerance: float = 1e-3,
    framework_options: object | None = None,
    device_options: object | None = None,
    model_options: object | None = None,
) -> None:
    """Take steps, and compare weights, buffers, averages and losses with those of NumPy.

    Gradient, momentum, Nesterov's momentum, weight decay and what it spares, clipping with its
    denominator, label smoothing over all and over the other classes, passes of unequal sizes, the
    average of the weights, running statistics, loss scales, skipped steps; and without NumPy, that
    a rate of 0 moves nothing, twice the rate twice as far, and decay by its product. Where
    something differs, the message names the usual faults that explain it.

    Args:
        framework: The framework.
        device: One of its devices, which must be there.
        network: A model of the framework that computes ``function`` in fp32, without random
            numbers, under the same names of weights and buffers.
        optimizer: Gradient descent, whose options have the keys ``momentum`` and, if it can do
            that, ``nesterov``, as ``runner.framework.options.SgdOptions`` has them.
        function: What the network computes.
        tolerance: Largest difference of what a weight, buffer or average has moved by, relative to
            the largest movement in its tensor; of losses and logits, relative to the largest.
        framework_options: Options of each entry; the defaults when left out.
        device_options: See above.
        model_options: See above.

    Raises:
        AssertionError: A number differs.
    """
    trial = make_trial(
        framework,
        open_device(device, device_options),
        network,
        optimizer,
        function=function,
        tolerance=tolerance,
        framework_options=framework_options,
        model_options=model_options,
    )
    once = _check_plain_steps(trial)
    _check_decay(trial, once)
    _check_clipping(trial)
    _check_everything(trial)
    _check_nesterov_and_overflow(trial)


@final
@dataclass(frozen=True, slots=True)
class Trial:
    """What the checks share."""

    subject: Subject
    rules: Rules
    """Those of plain gradient descent."""
    weights: Arrays
    """From which every check begins."""
    tolerance: float

    def run(self, **changes: Any) -> Run:
        """Open an engine for rules that differ in some fields."""
        return Run(self, replace(self.rules, **changes))


def make_trial(
    framework: FrameworkEntry,
    device: Device,
    network: ModelEntry,
    optimizer: OptimizerEntry,
    *,
    function: Network = small_network,
    tolerance: float = 1e-3,
    framework_options: object | None = None,
    model_options: object | None = None,
    group: Group | None = None,
) -> Trial:
    """Draw weights, and put together what the checks share; see ``check_step``.

    Raises:
        AssertionError: The network has other weights than ``function`` takes.
    """
    subject = make_subject(
        framework,
        device,
        network,
        optimizer,
        num_classes=CLASSES,
        image_size=(HEIGHT, WIDTH),
        framework_options=framework_options,
        model_options=model_options,
        optimizer_options=None,
        group=group,
    )
    rules = Rules(
        network=function,
        mean=np.array(subject.spec.mean),
        std=np.array(subject.spec.std),
        pass_size=BATCH // (group.world_size if group else 1),
    )
    weights = _draw(returned.arrays(subject.engine().weights(), "weights()"))
    if function is small_network:
        shapes = {name: list(array.shape) for name, array in weights.items()}
        assert shapes == SHAPES, f"the network has the weights {shapes}, expected {SHAPES}"
    parameters = Reference(rules, weights).parameters
    norms = {name for name in parameters if f"{name.rpartition('.')[0]}.running_var" in weights}
    biases = {name for name in parameters if name.endswith("bias")}
    spec = replace(subject.spec, no_weight_decay=("bias", "norm") if norms else ("bias",))
    return Trial(
        replace(subject, spec=spec),
        replace(rules, spared=frozenset(norms | biases)),
        weights,
        tolerance,
    )


SHAPES = {
    "conv.weight": [2, 3, 3, 3],
    **{f"bn.{name}": [2] for name in ("weight", "bias", "running_mean", "running_var")},
    "bn.num_batches_tracked": [],
    "fc.weight": [CLASSES, 2],
    "fc.bias": [CLASSES],
}
"""Of ``small_network``."""


class Place(NamedTuple):
    """Of a value in arrays."""

    name: str
    at: tuple[int, ...]

    def of(self, arrays: Arrays) -> float:
        """Return the value."""
        return float(arrays[self.name][self.at])

    def __str__(self) -> str:
        return f"{self.name}{list(self.at) or ''}"


@final
class Run:
    """An engine and the reference, side by side."""

    def __init__(self, trial: Trial, rules: Rules) -> None:
        self.trial = trial
        self.rules = rules
        self.engine = _open(trial.subject, rules)
        group = trial.subject.spec.group
        self._rank, self._processes = (group.rank, group.world_size) if group else (0, 1)
        self._known: dict[Any, Any] = {}
        self._history: list[tuple[Batch, float, Mapping[str, Arrays]]] = []
        self._start = trial.weights
        self.begin()

    def begin(self) -> None:
        """Go back to the weights of the trial, which leaves the momentum as it is."""
        self.engine.load_weights(self._start)
        self._history.clear()
        self.reference = Reference(self.rules, self._start, self._processes, self._known)

    def take(self, batch: Batch, rate: float) -> StepResult:
        """Take a step with the engine alone."""
        own = self._shares(batch)[self._rank]
        return returned.step_result(self.engine.train_step(own, rate).read())

    def step(self, batch: Batch, rate: float) -> None:
        """Take a step and compare everything with the reference.

        Raises:
            AssertionError: Something differs.
        """
        result = self.take(batch, rate)
        self._history.append((batch, rate, self.found()))
        assert not result.skipped, f"{self._place} was skipped"
        losses = self.reference.step(self._shares(batch), rate)
        for kind in self._history[-1][2]:
            self._compare(kind)
        expected = losses[self._rank]
        assert abs(result.loss - expected) <= self.trial.tolerance * abs(expected), (
            f"{self._place} reports the loss {result.loss:.6g}, expected {expected:.6g}: the mean "
            f"over its images before the update, without the loss scale; {SECTION}"
        )

    def compare_shared(self) -> None:
        """Compare the buffers with the mean over the processes, which ``agree`` gives all.

        Raises:
            AssertionError: One differs.
        """
        found, expected = self.found(), self.reference.mean_buffers()
        for kind in ("weights(), buffers", "evaluation_weights()"):
            buffers = {n: a for n, a in found[kind].items() if n in expected}
            place = self._worst(buffers, expected)
            assert place is None, (
                f"{kind} has {place} = {place.of(buffers):.6g} after agree(), expected "
                f"{place.of(expected):.6g}, the mean over {self._processes} processes; {SECTION}"
            )

    def weights(self) -> Arrays:
        """Return the engine's weights, without buffers."""
        return self.found()["weights()"]

    def found(self) -> Mapping[str, Arrays]:
        """Return what the engine has, by kind."""
        weights = returned.arrays(self.engine.weights(), "weights()")
        average = returned.arrays(self.engine.evaluation_weights(), "evaluation_weights()")
        return self._by_kind(weights, average)

    def _expected(self, reference: Reference) -> Mapping[str, Arrays]:
        weights = {**reference.parameters, **reference.buffers[self._rank]}
        return self._by_kind(weights, reference.average(self._rank))

    def _by_kind(self, weights: Arrays, average: Arrays) -> Mapping[str, Arrays]:
        parameters = self.reference.parameters
        return {
            "weights()": {n: a for n, a in weights.items() if n in parameters},
            "weights(), buffers": {n: a for n, a in weights.items() if n not in parameters},
            "evaluation_weights()": average,
        }

    @property
    def _place(self) -> str:
        """The step in words."""
        rules, images = self.rules, BATCH // self._processes
        spared, smooth_over = ", ".join(sorted(rules.spared)), rules.smooth_over
        words = {
            f"momentum {rules.momentum:g}": rules.momentum,
            "nesterov": rules.nesterov,
            f"weight decay {rules.weight_decay:g} but of {spared}": rules.weight_decay,
            f"clip_grad_norm {rules.clip}": rules.clip,
            f"label smoothing {rules.smoothing:g} over {smooth_over}": rules.smoothing,
            f"ema_decay {rules.ema_decay}": rules.ema_decay,
            f"loss scale {rules.loss_scale}": rules.loss_scale != "none",
            f"{images} images in passes of {rules.pass_size}": rules.pass_size < images,
            f"{self._processes} processes": self._processes > 1,
        }
        asked = ", ".join(text for text, is_asked in words.items() if is_asked)
        rates = ", ".join(f"{rate:g}" for _, rate, _ in self._history)
        return (
            f"step {len(self._history)} of SGD (rates so far: {rates}; asked for: "
            f"{asked or 'nothing else'})"
        )

    def _compare(self, kind: str) -> None:
        found, expected = self._history[-1][2][kind], self._expected(self.reference)[kind]
        assert set(found) == set(expected), (
            f"{kind} has {sorted(found)}, expected {sorted(expected)}"
        )
        place = self._worst(found, expected)
        if place is None:
            return
        explained = [fault for fault in FAULTS if self._explains(fault, kind)]
        reason = f"as in an engine that {', or '.join(explained)}" if explained else "unexplained"
        raise AssertionError(
            f"{kind} has {place} = {place.of(found):.6g} after {self._place}, expected "
            f"{place.of(expected):.6g}, from {place.of(self._start):.6g} at the start: {reason}; "
            f"{SECTION}"
        )

    def _explains(self, fault: str, kind: str) -> bool:
        """Return whether an engine with a usual fault would have come along here."""
        rules = FAULTS[fault](self.rules)
        reference = Reference(rules, self._start, self._processes, self._known)
        with np.errstate(all="ignore"):
            for batch, rate, found in self._history:
                reference.step(self._shares(batch), rate)
                if self._worst(found[kind], self._expected(reference)[kind]) is not None:
                    return False
        return True

    def _worst(self, found: Arrays, expected: Arrays) -> Place | None:
        """Return where the value is that is furthest off; ``None`` if all are right."""
        worst, place = 1.0, None
        for name, array in found.items():
            wanted, start = expected[name], self._start[name].astype(np.float64)
            gaps = np.abs(array.astype(np.float64) - wanted)
            moved = np.abs(wanted - start).max()
            limit = self.trial.tolerance * moved + ROUNDING * np.abs(start).max()
            index = np.unravel_index(np.nan_to_num(gaps, nan=np.inf).argmax(), gaps.shape)
            ratio = gaps[index] / (limit if array.dtype.kind == "f" else 0.5)
            if not ratio <= worst:
                worst, place = ratio, Place(name, tuple(int(i) for i in index))
        return place

    def _shares(self, batch: Batch) -> Sequence[Batch]:
        """Return the images of each process."""
        size = BATCH // self._processes
        return [part(batch, slice(size * i, size * (i + 1))) for i in range(self._processes)]


def draw_batch(number: int) -> Batch:
    """Draw images, as many of each class."""
    random = np.random.default_rng(number)
    return Batch(
        images=random.integers(0, 256, (BATCH, HEIGHT, WIDTH, 3), dtype=np.uint8),
        labels=random.permutation(np.arange(BATCH, dtype=np.int64) % CLASSES),
        indices=np.arange(BATCH, dtype=np.int64),
    )


def part(batch: Batch, which: slice) -> Batch:
    """Return some images of a batch."""
    return Batch(
        images=batch.images[which], labels=batch.labels[which], indices=batch.indices[which]
    )


def _check_plain_steps(trial: Trial) -> Arrays:
    """Check prediction and plain gradient descent, and return the weights after one step."""
    run, batch = trial.run(), draw_batch(0)
    found = returned.logits(run.engine.predict(batch.images), BATCH, CLASSES)
    expected = run.reference.logits(batch, trial.weights)
    gap, largest = np.abs(found - expected).max(), np.abs(expected).max()
    assert gap <= trial.tolerance * largest, (
        f"predict() is up to {gap:.3g} off the network's logits, of which the largest is "
        f"{largest:.3g}, with images (pixel / 255 - mean) / std and running statistics; {SECTION}"
    )
    run.take(batch, 0.0)
    moved = [n for n, a in run.weights().items() if not np.array_equal(a, trial.weights[n])]
    assert not moved, f"a step at rate 0 moved {', '.join(moved)}; expected no weight to move"
    run.begin()
    run.step(batch, RATE)
    once = run.weights()
    run.begin()
    run.take(batch, 2 * RATE)
    for name, array in run.weights().items():
        start = trial.weights[name].astype(np.float64)
        one, two = np.abs(once[name] - start).max(), np.abs(array - start).max()
        limit = trial.tolerance * one + ROUNDING * np.abs(start).max()
        assert abs(two - 2 * one) <= limit, (
            f"{name} moves by {one:.6g} at rate {RATE} and by {two:.6g} at rate {2 * RATE}; "
            "expected twice as far"
        )
    return once


def _check_decay(trial: Trial, once: Arrays) -> None:
    """Check that decay alone takes rate times decay times weight off; no reference is needed."""
    decay = 0.25
    run = trial.run(weight_decay=decay)
    run.take(draw_batch(0), RATE)
    for name, array in run.weights().items():
        start = trial.weights[name].astype(np.float64)
        taken = once[name].astype(np.float64) - array
        expected = np.zeros_like(start) if name in run.rules.spared else RATE * decay * start
        gaps = np.abs(taken - expected)
        place = Place(name, tuple(int(i) for i in np.unravel_index(gaps.argmax(), gaps.shape)))
        limit = trial.tolerance * np.abs(expected).max() + ROUNDING * np.abs(start).max()
        assert gaps.max() <= limit, (
            f"weight decay {decay} at rate {RATE} took {place.of({name: taken}):.6g} off {place} = "
            f"{place.of(trial.weights):.6g}, expected {place.of({name: expected}):.6g}, rate times "
            f"decay times weight, or 0 for what no_weight_decay names; {SECTION}"
        )


def _check_clipping(trial: Trial) -> None:
    """Check how far a clipped step goes: c n / (n + 1e-6), for a gradient of length n.

    Images and weights are small, so that n is and the 1e-6 shows.
    """
    parameters = Reference(trial.rules, trial.weights).parameters
    weights = {n: (a / 100 if n in parameters else a) for n, a in trial.weights.items()}
    rules = replace(trial.rules, std=100 * trial.rules.std)
    norm = Reference(rules, weights).gradient_norm(draw_batch(0))
    limit = norm / 4
    run = replace(trial, rules=rules, weights=weights).run(clip=limit)
    run.take(draw_batch(0), 1 / limit)
    moved = [(a.astype(np.float64) - weights[n]).ravel() for n, a in run.weights().items()]
    found, expected = float(np.linalg.norm(np.concatenate(moved))), norm / (norm + CLIP_EPS)
    assert abs(found - expected) <= (1 - expected) / 4 + ROUNDING, (
        f"a gradient of length {norm:.6g} moved the weights by {found:.6f} times rate times "
        f"clip_grad_norm {limit:.6g}, expected {expected:.6f}: the factor is "
        f"min(1, clip_grad_norm / (length + 1e-6)); {SECTION}"
    )


def _check_everything(trial: Trial) -> None:
    """Check steps that use what a recipe can ask for, in passes of which the last is short."""
    run = _scaled(
        trial,
        loss_scale=1024.0,
        momentum=0.9,
        weight_decay=0.1,
        clip=0.1,
        smoothing=0.2,
        ema_decay=0.7,
        pass_size=3,
    )
    for number, rate in enumerate((RATE, RATE / 2, 2 * RATE)):
        run.step(draw_batch(number), rate)
    batch = draw_batch(3)
    found = returned.eval_counts(run.engine.eval_step(batch).read()).loss_sum
    logits = run.reference.logits(batch, run.reference.average())
    expected = float(cross_entropy(logits, batch.labels, trial.rules).sum())
    assert abs(found - expected) <= trial.tolerance * expected, (
        f"eval_step summed the loss to {found:.6g}, expected {expected:.6g}: that of the averaged "
        f"weights, without label smoothing; {SECTION}"
    )


def _check_nesterov_and_overflow(trial: Trial) -> None:
    """Check Nesterov's momentum, smoothing over the other classes, and a step that is skipped."""
    run = _scaled(
        trial,
        loss_scale="dynamic",
        momentum=0.8,
        nesterov="nesterov" in _keys(trial.subject.spec.optimizer),
        weight_decay=0.05,
        clip=100.0,
        smoothing=0.3,
        smooth_over="others",
    )
    for number, rate in enumerate((RATE, 2 * RATE)):
        run.step(draw_batch(number), rate)
    if run.rules.loss_scale == "none":
        return
    kept, parameters = run.engine.weights(), run.reference.parameters
    huge = {n: np.full_like(a, 3e38) if n in parameters else a for n, a in kept.items()}
    run.engine.load_weights(huge)
    with np.errstate(all="ignore"):  # of an engine in NumPy
        result = run.take(draw_batch(2), RATE)
    moved = [n for n, a in run.weights().items() if not np.array_equal(a, huge[n])]
    assert result.skipped, (
        f"a step whose gradients overflow was not skipped under a loss scale; {SECTION}"
    )
    assert not moved, f"a step that was skipped moved {', '.join(moved)}; {SECTION}"
    run.engine.load_weights(kept)
    run.step(draw_batch(3), RATE)


def _scaled(trial: Trial, *, loss_scale: float | str, **changes: Any) -> Run:
    """Open an engine with a loss scale, or without one if the framework refuses it."""
    try:
        return trial.run(loss_scale=loss_scale, **changes)
    except RunnerError:
        return trial.run(**changes)


def _open(subject: Subject, rules: Rules) -> Engine:
    """Open an engine that is asked for some rules."""
    optimizer, keys = subject.spec.optimizer, _keys(subject.spec.optimizer)
    assert optimizer is not None
    assert "momentum" in keys, (
        f"optimizer {optimizer.name} has no option momentum; this is a check of gradient descent"
    )
    asked = {"momentum": rules.momentum, "nesterov": rules.nesterov}
    return subject.engine(
        mean=tuple(rules.mean.tolist()),
        std=tuple(rules.std.tolist()),
        precision=PrecisionSection(loss_scale=rules.loss_scale),
        loss=LossSection(label_smoothing=rules.smoothing, smooth_over=rules.smooth_over),
        optimizer_options=optimizer.config(**{k: v for k, v in asked.items() if k in keys}),
        weight_decay=rules.weight_decay,
        micro_batch_size=rules.pass_size,
        clip_grad_norm=rules.clip,
        ema_decay=rules.ema_decay,
    )


def _keys(optimizer: OptimizerEntry | None) -> set[str]:
    return set() if optimizer is None else {item.name for item in fields(optimizer.config)}


def _draw(fresh: Arrays) -> Arrays:
    """Draw weights in place of fresh ones; whole numbers stay as they are."""
    random, drawn = np.random.default_rng(5), {}
    for name, array in fresh.items():
        values = random.normal(0, 0.5, array.shape)
        if name.endswith("running_var"):
            values = random.uniform(0.5, 1.5, array.shape)
        drawn[name] = values.astype(array.dtype) if array.dtype.kind == "f" else array
    return drawn

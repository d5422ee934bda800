"""Checks of a framework's engine: what the training loop, checkpoints and exports rely on."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, final

import numpy as np

from runner.contracts import Batch, EngineState
from runner.errors import CheckpointError
from runner.session.metrics import count_correct
from runner.testing import returned
from runner.testing.subject import BATCH, Subject, make_subject, open_device

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from runner.contracts import Deferred, Engine
    from runner.entries import DeviceEntry, FrameworkEntry, ModelEntry, OptimizerEntry

    Arrays = Mapping[str, NDArray[Any]]

CLASSES = 10
TOLERANCE, ROUNDING = 1e-3, 1e-6
"""Relative to how far a tensor moves, and to its values."""
QUEUED = 4
"""Steps, or evaluations, that an engine has to wait for."""
NOTICED_S = 0.02
"""Time that is too long for reading what the device has done already."""


def check_framework(
    framework: FrameworkEntry,
    device: DeviceEntry,
    model: ModelEntry,
    optimizer: OptimizerEntry,
    *,
    image_size: int = 32,
    learning_rate: float = 0.02,
    framework_options: object | None = None,
    device_options: object | None = None,
    model_options: object | None = None,
    optimizer_options: object | None = None,
) -> None:
    """Open engines on a few random images and check what core relies on.

    Everything that is returned has the type of the contract, and arrays are in C order. A rate of 0
    moves no weight, and the first step at twice the rate moves them twice as far; two passes equal
    one where there is no batch normalisation and no randomness; training lowers the loss of a fixed
    batch. Weights and state continue a run bit for bit and are copies; weights that do not fit are
    refused with every name; the state holds the averaged weights under ``ema/``. Evaluation counts
    agree with predictions, also with equal logits and NaN, and add up. Deferred values can be read
    late and twice, and once ``synchronize`` has returned without waiting; ``agree`` changes nothing
    where a process is alone.

    Four engines compute, five where passes are compared, each with training batches of one shape.

    Args:
        framework: The framework.
        device: One of its devices, which must be there.
        model: One of its models; a small one keeps the check fast.
        optimizer: One of its optimizers.
        image_size: Height and width of the images, in pixels. An engine that does not wait is
            noticed where four steps, or evaluations, take the device longer than 20 ms.
        learning_rate: A rate at which this model learns.
        framework_options: Options of each entry; the defaults when left out.
        device_options: See above.
        model_options: See above.
        optimizer_options: See above.

    Raises:
        AssertionError: A promise is broken.
    """
    subject = make_subject(
        framework,
        open_device(device, device_options),
        model,
        optimizer,
        num_classes=CLASSES,
        image_size=(image_size, image_size),
        framework_options=framework_options,
        model_options=model_options,
        optimizer_options=optimizer_options,
        weight_decay=1e-4,
        no_weight_decay=("bias",),
    )
    trained = _Trained(subject, subject.engine(), learning_rate)
    _check_weights(trained)
    _check_refusals(trained)
    parameters = _check_rates(trained)
    _check_passes(trained, parameters)
    _check_learning(trained)
    _check_late_reading(trained)
    _check_agreement(trained)
    _check_evaluation(trained)
    _check_evaluation_only(trained)
    _check_continuation(subject, learning_rate)


@final
class _Trained:
    """An engine that can go back to where it began, and batches for it."""

    def __init__(self, subject: Subject, engine: Engine, learning_rate: float) -> None:
        self.subject = subject
        self.engine = engine
        self.learning_rate = learning_rate
        self.start = returned.arrays(engine.weights(), "weights()")
        self._state = returned.state(engine.state())

    def begin(self) -> None:
        """Go back."""
        returned.nothing("load_weights()", self.engine.load_weights, self.start)
        returned.nothing("load_state()", self.engine.load_state, self._state)

    def batch(self, number: int) -> Batch:
        """Draw images of random colours."""
        random = np.random.default_rng(number)
        height, width = self.subject.spec.image_size
        colours = random.integers(0, 256, (BATCH, 1, 1, 3))
        noise = random.integers(-20, 20, (BATCH, height, width, 3))
        return Batch(
            images=np.clip(colours + noise, 0, 255).astype(np.uint8),
            labels=np.arange(BATCH, dtype=np.int64) % CLASSES,
            indices=np.arange(BATCH, dtype=np.int64) + number * BATCH,
        )

    def train(self, numbers: Sequence[int], rate: float | None = None) -> list[float]:
        """Take steps on some batches and return the losses."""
        return [returned.step_result(self.queue(n, rate).read()).loss for n in numbers]

    def queue(self, number: int, rate: float | None = None) -> Deferred[Any]:
        """Take a step, and do not wait for it."""
        rate = self.learning_rate if rate is None else rate
        return self.engine.train_step(self.batch(number), rate)


def _check_weights(trained: _Trained) -> None:
    engine, weights, subject = trained.engine, trained.start, trained.subject
    other = subject.engine(seed=2)
    assert difference(weights, subject.engine().weights()) == "", "one seed gave two fresh models"
    assert difference(weights, other.weights()) != "", "two seeds gave the same fresh model"
    other.load_weights(weights)
    found = difference(weights, other.weights())
    assert not found, f"weights changed on their way through load_weights: {found}"
    before = {name: array.copy() for name, array in weights.items()}
    trained.train([0])
    found = difference(before, weights)
    assert not found, f"weights() returned a view that training changed: {found}"
    assert difference(weights, engine.weights()) != "", "a step changed no weight"
    averages = returned.arrays(engine.evaluation_weights(), "evaluation_weights()")
    found = difference(engine.weights(), averages)
    assert not found, f"without an average, evaluation_weights() differ from weights(): {found}"


def _check_refusals(trained: _Trained) -> None:
    engine = trained.engine
    weights = dict(trained.start)
    missing = next(iter(weights))
    reshaped = next(name for name in reversed(weights) if weights[name].ndim > 0)
    array = weights.pop(missing)
    weights["an.unexpected.name"] = array
    weights[reshaped] = np.zeros((7, *weights[reshaped].shape), weights[reshaped].dtype)
    message = _refusal(lambda: engine.load_weights(weights))
    assert message, "load_weights accepted missing, unexpected and reshaped weights"
    for name in (missing, "an.unexpected.name", reshaped):
        assert name in message, f"load_weights does not name {name}: {message}"
    assert _refusal(lambda: engine.load_state(EngineState())), (
        "load_state accepted an empty state although there is an optimizer"
    )


def _check_rates(trained: _Trained) -> Sequence[str]:
    """Compare the first step at three rates, and return the names of the weights that it moves."""
    start, rate, after = trained.start, trained.learning_rate, []
    for factor in (0, 1, 2):
        trained.begin()
        trained.train([0], factor * rate)
        after.append(trained.engine.weights())
    zero, one, two = after
    still = [name for name in start if np.array_equal(zero[name], start[name])]
    moved = [name for name in still if not np.array_equal(one[name], start[name])]
    assert moved, (
        f"a step at rate {rate:g} moves {len(start) - len(still)} tensors as one at rate 0 does, "
        "and no other: the learning rate has no effect"
    )
    for name in set(start) - set(still):
        gap = _gap(zero[name], one[name], start[name], 1.0)
        assert gap <= 1, (
            f"a step at rate 0 moved {name}, and one at rate {rate:g} moved it otherwise; expected "
            "no weight to move, and statistics that do not depend on the rate"
        )
    for name in moved:
        first, second = (np.abs(found[name] - start[name]).max() for found in (one, two))
        assert _gap(one[name], two[name], start[name], 2.0) <= 1, (
            f"the first step moves {name} by up to {first:.6g} at rate {rate:g}, and by "
            f"{second:.6g} at rate {2 * rate:g}; expected twice as far"
        )
    return moved


def _check_passes(trained: _Trained, parameters: Sequence[str]) -> None:
    """Check that two passes equal one, where each image is treated without the others."""
    trained.begin()
    first, second = trained.train([0, 0], 0.0)
    if first != second or any(name.endswith("running_mean") for name in trained.start):
        return
    trained.begin()
    [loss] = trained.train([0])
    subject = trained.subject
    halves = _Trained(subject, subject.engine(micro_batch_size=BATCH // 2), trained.learning_rate)
    halves.engine.load_weights(trained.start)
    [found] = halves.train([0])
    weights, expected = halves.engine.weights(), trained.engine.weights()
    for name in parameters:
        assert _gap(expected[name], weights[name], trained.start[name], 1.0) <= 1, (
            f"a step of two passes moves {name} otherwise than one of one pass; the gradient is "
            "that of the mean loss of all images"
        )
    assert np.isclose(found, loss, rtol=TOLERANCE), (
        f"a step of two passes reports the loss {found}, one of one pass {loss}"
    )


def _check_learning(trained: _Trained) -> None:
    trained.begin()
    batch = trained.batch(0)
    pending = trained.engine.train_step(batch, trained.learning_rate)
    first, again = pending.read(), pending.read()
    assert first == again, f"reading a step twice gave {first} and {again}"
    assert np.array_equal(batch.images, trained.batch(0).images), "a step changed its images"
    losses = [first.loss, *trained.train([0] * 24)]
    assert min(losses[-3:]) < 0.8 * losses[0], (
        f"25 steps on one batch moved the loss from {losses[0]:.4f} to {losses[-1]:.4f} only"
    )
    returned.as_report(trained.engine.report())


def _check_late_reading(trained: _Trained) -> None:
    """Queue steps and evaluations, wait for them, and read them all."""
    engine, numbers = trained.engine, range(QUEUED)
    trained.begin()
    expected = trained.train(numbers)
    batches = [trained.batch(n) for n in numbers]

    def queue_steps() -> Sequence[Deferred[Any]]:
        return [engine.train_step(batch, trained.learning_rate) for batch in batches]

    def queue_evaluations() -> Sequence[Deferred[Any]]:
        return [engine.eval_step(batch) for batch in batches]

    trained.begin()
    losses = [pending.read().loss for pending in queue_steps()]
    assert np.allclose(losses, expected, rtol=TOLERANCE), (
        f"steps that are read late report the losses {losses}, read at once {expected}"
    )
    for what, queue in (("steps", queue_steps), ("evaluations", queue_evaluations)):
        for _ in range(3):  # another process may have kept this one from reading
            rest, total = _reading_time(engine, queue)
            if rest < max(NOTICED_S, total / 2):
                break
        else:
            raise AssertionError(
                f"synchronize() returned before the device was done: reading {QUEUED} {what} after "
                f"it took {rest:.3f} s of {total:.3f} s in all; expected it to wait for everything "
                "that was asked for, read or not"
            )


def _reading_time(
    engine: Engine, queue: Callable[[], Sequence[Deferred[Any]]]
) -> tuple[float, float]:
    """Return the seconds that reading takes after ``synchronize``, and those of everything."""
    begun = time.perf_counter()
    pending = queue()
    returned.nothing("synchronize()", engine.synchronize)
    waited = time.perf_counter()
    for deferred in pending:
        deferred.read()
    done = time.perf_counter()
    return done - waited, done - begun


def _check_agreement(trained: _Trained) -> None:
    """Check that ``agree`` changes nothing in a process that is alone."""
    engine = trained.engine
    weights, state = engine.weights(), returned.state(engine.state())
    returned.nothing("agree()", engine.agree)
    for name, before, after in (
        ("weights", weights, engine.weights()),
        ("state", state.tensors, engine.state().tensors),
    ):
        found = difference(before, after)
        assert not found, f"agree() changed the {name} of a process that is alone: {found}"


def _check_continuation(subject: Subject, learning_rate: float) -> None:
    changes: dict[str, Any] = {
        "micro_batch_size": BATCH // 2,
        "clip_grad_norm": 1.0,
        "ema_decay": 0.5,
    }
    straight = _Trained(subject, subject.engine(**changes), learning_rate)
    straight.train([1, 2, 3])
    weights, state = straight.engine.weights(), returned.state(straight.engine.state())
    values = json.loads(json.dumps(state.values))
    evaluated = straight.engine.evaluation_weights()
    found = difference(_by_name(evaluated), _by_name(_averages(state)))
    assert not found, (
        "with ema_decay, the tensors ema/<name> of state() must be evaluation_weights(), from "
        f"which a checkpoint is evaluated and exported: {found}"
    )
    tensors = {name: array.copy() for name, array in state.tensors.items()}
    losses = straight.train([4, 5, 6])
    found = difference(tensors, state.tensors)
    assert not found, f"state() returned a view that training changed: {found}"

    resumed = _Trained(subject, subject.engine(**changes), learning_rate)
    resumed.train([7])
    resumed.engine.load_weights(weights)
    resumed.engine.load_state(EngineState(tensors=tensors, values=values))
    again = resumed.train([4, 5, 6])
    assert np.allclose(losses, again, rtol=ROUNDING), (
        f"losses differ after a resume: {losses} and {again}"
    )
    one, other = straight.engine, resumed.engine
    for name, first, second in (
        ("weights", one.weights(), other.weights()),
        ("evaluation weights", one.evaluation_weights(), other.evaluation_weights()),
        ("state", one.state().tensors, other.state().tensors),
    ):
        found = difference(first, second)
        assert not found, f"{name} differ after a resume: {found}"
    found = difference(one.weights(), one.evaluation_weights())
    assert found, "with ema_decay, evaluation_weights() must be the average"


def _check_evaluation(trained: _Trained) -> None:
    engine = trained.engine
    trained.begin()
    trained.train([0, 1])
    before = engine.weights()
    batch = trained.batch(0)
    logits = returned.logits(engine.predict(batch.images), BATCH, CLASSES)
    pending = engine.eval_step(batch)
    whole, again = returned.eval_counts(pending.read()), pending.read()
    assert whole == again, f"reading an evaluation twice gave {whole} and {again}"
    exact = logits.astype(np.float64)
    own = exact[np.arange(BATCH), batch.labels]
    loss = float((np.log(np.exp(exact - own[:, None]).sum(axis=1))).sum())
    top1 = int((logits.argmax(axis=1) == batch.labels).sum())
    assert (whole.count, whole.top1) == (BATCH, top1), (
        f"eval_step counted {whole.top1} of {whole.count}, predictions say {top1} of {BATCH}"
    )
    assert np.isclose(whole.loss_sum, loss, rtol=1e-3, atol=1e-3), (
        f"eval_step summed the loss to {whole.loss_sum}, predictions to {loss}"
    )
    parts = [engine.eval_step(_part(batch, p)).read() for p in (slice(0, 3), slice(3, BATCH))]
    assert sum(part.top1 for part in parts) == whole.top1, f"top1 depends on the batch: {parts}"
    assert sum(part.top5 for part in parts) == whole.top5, f"top5 depends on the batch: {parts}"
    assert np.isclose(sum(part.loss_sum for part in parts), whole.loss_sum, rtol=1e-3)
    found = difference(before, engine.weights())
    assert not found, f"evaluation changed the weights: {found}"
    _check_degenerate_logits(engine, batch)


def _check_degenerate_logits(engine: Engine, batch: Batch) -> None:
    """Check that equal logits and such that are not finite count as ``count_correct`` says."""
    weights = engine.weights()
    for value in (0.0, np.nan):
        engine.load_weights(
            {
                name: np.full_like(array, value) if array.dtype.kind == "f" else array
                for name, array in weights.items()
            }
        )
        expected = count_correct(engine.predict(batch.images), batch.labels)
        counts = engine.eval_step(batch).read()
        found = counts.top1, counts.top5, counts.count
        assert found == (expected.top1, expected.top5, expected.count), (
            f"with weights of {value} eval_step counted (top1, top5, count) = {found}, "
            "runner.session.metrics.count_correct says "
            f"{(expected.top1, expected.top5, expected.count)}: "
            "among equal logits the lower class leads, and an image with a logit that is not "
            "finite counts as wrong"
        )


def _check_evaluation_only(trained: _Trained) -> None:
    engine = trained.subject.engine(optimizer=None, optimizer_options=None)
    trained.begin()
    trained.train([0])
    engine.load_weights(trained.engine.weights())
    images = trained.batch(1).images
    assert np.array_equal(engine.predict(images), trained.engine.predict(images)), (
        "an engine without an optimizer predicts otherwise than one with the same weights"
    )


def _refusal(action: Callable[[], None]) -> str:
    """Return the message of the CheckpointError that an action raises; empty if it raises none."""
    try:
        action()
    except CheckpointError as error:
        return str(error)
    return ""


def _part(batch: Batch, part: slice) -> Batch:
    return Batch(images=batch.images[part], labels=batch.labels[part], indices=batch.indices[part])


def _averages(state: EngineState) -> dict[str, NDArray[Any]]:
    return {
        name.removeprefix("ema/"): array
        for name, array in state.tensors.items()
        if name.startswith("ema/")
    }


def _by_name(arrays: Arrays) -> Arrays:
    return dict(sorted(arrays.items()))


def difference(first: Arrays, second: Arrays) -> str:
    """Describe the first difference of two sets of arrays, bit for bit; empty if there is none."""
    if list(first) != list(second):
        return f"names {sorted(set(first) ^ set(second)) or 'are in another order'}"
    for name, array in first.items():
        other = second[name]
        if array.dtype != other.dtype or array.shape != other.shape:
            return f"{name}: {array.dtype}{array.shape} and {other.dtype}{other.shape}"
        if array.tobytes() != other.tobytes():
            gap = np.abs(array.astype(np.float64) - other.astype(np.float64)).max()
            return f"{name}: largest difference {gap:.3g}"
    return ""


def _gap(first: NDArray[Any], second: NDArray[Any], start: NDArray[Any], factor: float) -> float:
    """Return how far a second movement is from a multiple of a first, as a share of what may be."""
    one, two = first.astype(np.float64) - start, second.astype(np.float64) - start
    limit = TOLERANCE * np.abs(factor * one).max() + ROUNDING * np.abs(start).max()
    gap = np.abs(two - factor * one).max()
    return float(gap / limit) if gap else 0.0

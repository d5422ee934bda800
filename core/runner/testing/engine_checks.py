"""Checks of a framework's engine: what the training loop, checkpoints and exports rely on."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, final

from runner.contracts import Batch, EngineSpec, EngineState
from runner.errors import CheckpointError
from runner.session.metrics import count_correct

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from runner.contracts import Device, Engine
    from runner.entries import DeviceEntry, FrameworkEntry, ModelEntry, OptimizerEntry

    Arrays = Mapping[str, NDArray[Any]]

CLASSES = 10
BATCH = 8


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

    Training lowers the loss of a fixed batch; accumulation does not change what a step means;
    weights and state continue a run bit for bit and are copies; weights that do not fit are
    refused with every name; the state holds the averaged weights under ``ema/``; evaluation counts
    agree with predictions, also with equal logits and NaN, and add up; deferred values can be read
    twice.

    Args:
        framework: The framework.
        device: One of its devices, which must be there.
        model: One of its models; a small one keeps the check fast.
        optimizer: One of its optimizers.
        image_size: Height and width of the images, in pixels.
        learning_rate: A rate at which this model learns.
        framework_options: Options of each entry; the defaults when left out.
        device_options: See above.
        model_options: See above.
        optimizer_options: See above.

    Raises:
        AssertionError: A promise is broken.
    """
    from runner.recipe.schema import LossSection, PrecisionSection

    spec = EngineSpec(
        model=model,
        model_options=_options(model.config, model_options),
        num_classes=CLASSES,
        image_size=(image_size, image_size),
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        precision=PrecisionSection(),
        framework_options=_options(framework.config, framework_options),
        seed=1,
        loss=LossSection(),
        optimizer=optimizer,
        optimizer_options=_options(optimizer.config, optimizer_options),
        weight_decay=1e-4,
        no_weight_decay=("bias",),
        micro_batch_size=BATCH,
        clip_grad_norm=None,
        ema_decay=None,
    )
    opened = device.open(_options(device.config, device_options))
    assert opened.name == device.name, (
        f"device {device.name} calls itself {opened.name} when opened"
    )
    _as_json(f"device {device.name}: describe()", opened.describe())
    kit = _Kit(framework, opened, spec, learning_rate)
    _check_learning(kit)
    _check_weights(kit)
    _check_refusals(kit)
    _check_continuation(kit)
    _check_evaluation(kit)
    _check_evaluation_only(kit)


@final
@dataclass(frozen=True, slots=True)
class _Kit:
    """What the checks share."""

    framework: FrameworkEntry
    device: Device
    spec: EngineSpec
    learning_rate: float

    def engine(self, **changes: Any) -> Engine:
        """Open an engine."""
        return self.framework.open(replace(self.spec, **changes), self.device)

    def batch(self, number: int) -> Batch:
        """Draw images of random colours."""
        import numpy as np

        random = np.random.default_rng(number)
        height, width = self.spec.image_size
        colours = random.integers(0, 256, (BATCH, 1, 1, 3))
        noise = random.integers(-20, 20, (BATCH, height, width, 3))
        return Batch(
            images=np.clip(colours + noise, 0, 255).astype(np.uint8),
            labels=np.arange(BATCH, dtype=np.int64) % CLASSES,
            indices=np.arange(BATCH, dtype=np.int64) + number * BATCH,
        )

    def train(self, engine: Engine, numbers: Sequence[int]) -> list[float]:
        """Take steps on some batches and return the losses."""
        results = [engine.train_step(self.batch(n), self.learning_rate) for n in numbers]
        return [result.read().loss for result in results]


def _check_learning(kit: _Kit) -> None:
    engine = kit.engine()
    pending = engine.train_step(kit.batch(0), kit.learning_rate)
    first, again = pending.read(), pending.read()
    assert first == again, f"reading a step twice gave {first} and {again}"
    losses = [first.loss, *kit.train(engine, [0] * 24)]
    assert all(isinstance(loss, float) for loss in losses), f"losses must be floats: {losses[:3]}"
    assert min(losses[-3:]) < 0.8 * losses[0], (
        f"25 steps on one batch moved the loss from {losses[0]:.4f} to {losses[-1]:.4f} only"
    )
    engine.synchronize()
    _as_json("report()", engine.report())


def _check_weights(kit: _Kit) -> None:
    first, second = kit.engine(), kit.engine(seed=2)
    weights = first.weights()
    assert _difference(weights, kit.engine().weights()) == "", "one seed gave two fresh models"
    assert _difference(weights, second.weights()) != "", "two seeds gave the same fresh model"
    second.load_weights(weights)
    found = _difference(weights, second.weights())
    assert not found, f"weights changed on their way through load_weights: {found}"
    before = {name: array.copy() for name, array in weights.items()}
    kit.train(first, [0])
    found = _difference(before, weights)
    assert not found, f"weights() returned a view that training changed: {found}"
    assert _difference(weights, first.weights()) != "", "a step changed no weight"
    found = _difference(first.weights(), first.evaluation_weights())
    assert not found, f"without an average, evaluation_weights() differ from weights(): {found}"


def _check_refusals(kit: _Kit) -> None:
    import numpy as np

    engine = kit.engine()
    weights = dict(engine.weights())
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


def _check_continuation(kit: _Kit) -> None:
    changes: dict[str, Any] = {"micro_batch_size": 3, "clip_grad_norm": 1.0, "ema_decay": 0.5}
    straight = kit.engine(**changes)
    kit.train(straight, [1, 2, 3])
    weights, state = straight.weights(), straight.state()
    values = json.loads(_as_json("state().values", state.values))
    found = _difference(_by_name(straight.evaluation_weights()), _by_name(_averages(state)))
    assert not found, (
        "with ema_decay, the tensors ema/<name> of state() must be evaluation_weights(), from "
        f"which a checkpoint is evaluated and exported: {found}"
    )
    tensors = {name: array.copy() for name, array in state.tensors.items()}
    losses = kit.train(straight, [4, 5, 6])
    found = _difference(tensors, state.tensors)
    assert not found, f"state() returned a view that training changed: {found}"

    resumed = kit.engine(**changes)
    kit.train(resumed, [7])
    resumed.load_weights(weights)
    resumed.load_state(EngineState(tensors=tensors, values=values))
    again = kit.train(resumed, [4, 5, 6])
    assert losses == again, f"losses differ after a resume: {losses} and {again}"
    for name, one, other in (
        ("weights", straight.weights(), resumed.weights()),
        ("evaluation weights", straight.evaluation_weights(), resumed.evaluation_weights()),
        ("state", straight.state().tensors, resumed.state().tensors),
    ):
        found = _difference(one, other)
        assert not found, f"{name} differ after a resume: {found}"
    found = _difference(straight.weights(), straight.evaluation_weights())
    assert found, "with ema_decay, evaluation_weights() must be the average"


def _check_evaluation(kit: _Kit) -> None:
    import numpy as np

    engine = kit.engine()
    kit.train(engine, [0, 1])
    before = engine.weights()
    batch = kit.batch(0)
    logits = engine.predict(batch.images)
    assert logits.dtype == np.float32, f"predict returned {logits.dtype}, not float32"
    assert logits.shape == (BATCH, CLASSES), (
        f"predict returned the shape {logits.shape}, not {(BATCH, CLASSES)}"
    )
    pending = engine.eval_step(batch)
    whole, again = pending.read(), pending.read()
    assert whole == again, f"reading an evaluation twice gave {whole} and {again}"
    exact = logits.astype(np.float64)
    own = exact[np.arange(BATCH), batch.labels]
    loss = float((np.log(np.exp(exact - own[:, None]).sum(axis=1))).sum())
    top1 = int((logits.argmax(axis=1) == batch.labels).sum())
    assert (whole.count, whole.top1) == (BATCH, top1), (
        f"eval_step counted {whole.top1} of {whole.count}, predictions say {top1} of {BATCH}"
    )
    assert whole.top1 <= whole.top5 <= whole.count, f"counts do not nest: {whole}"
    assert np.isclose(whole.loss_sum, loss, rtol=1e-3, atol=1e-3), (
        f"eval_step summed the loss to {whole.loss_sum}, predictions to {loss}"
    )
    parts = [engine.eval_step(_part(batch, p)).read() for p in (slice(0, 3), slice(3, BATCH))]
    assert sum(part.top1 for part in parts) == whole.top1, f"top1 depends on the batch: {parts}"
    assert sum(part.top5 for part in parts) == whole.top5, f"top5 depends on the batch: {parts}"
    assert np.isclose(sum(part.loss_sum for part in parts), whole.loss_sum, rtol=1e-3)
    found = _difference(before, engine.weights())
    assert not found, f"evaluation changed the weights: {found}"
    _check_degenerate_logits(engine, batch)


def _check_degenerate_logits(engine: Engine, batch: Batch) -> None:
    """Check that equal logits and such that are not finite count as ``count_correct`` says."""
    import numpy as np

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


def _check_evaluation_only(kit: _Kit) -> None:
    import numpy as np

    trained = kit.engine()
    kit.train(trained, [0])
    engine = kit.engine(optimizer=None, optimizer_options=None)
    engine.load_weights(trained.weights())
    images = kit.batch(1).images
    assert np.array_equal(engine.predict(images), trained.predict(images)), (
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


def _difference(first: Arrays, second: Arrays) -> str:
    """Describe the first difference of two sets of arrays, bit for bit; empty if there is none."""
    import numpy as np

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


def _options(config: type, given: object | None) -> object:
    return config() if given is None else given


def _as_json(place: str, value: object) -> str:
    try:
        return json.dumps(value)
    except TypeError as error:
        raise AssertionError(f"{place} must be JSON: {error}") from error

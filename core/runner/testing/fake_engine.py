"""The engine of the fake framework: B images, K classes, F = 3 grid^2 features; float64 inside."""

from __future__ import annotations

import copy
import ctypes
import os
import re
import signal
import sys
import time
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, final

import numpy as np

from runner.contracts import StepResult
from runner.errors import DeviceError
from runner.framework.engine import OPTIMIZER, EngineBase, build_model
from runner.framework.failures import Wording
from runner.framework.loss_scale import ScaleState
from runner.framework.own_statistics import OwnStatistics
from runner.framework.weights import check_fit
from runner.session.metrics import count_correct
from runner.testing.fake_device import FakeDevice
from runner.testing.fake_options import FakeOptions

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from runner.contracts import Batch, Deferred, Device, EvalCounts, Group
    from runner.entries import EngineSpec
    from runner.framework.engine import Pass

    Array = NDArray[Any]

PARAMETERS = ("head.weight", "head.bias")
BUFFER = "batches_seen"
RUNNING_MEAN = "colour_mean"
"""Running mean of the normalised pixels of each channel, which differs between ranks."""


@final
@dataclass(frozen=True, slots=True)
class Linear:
    """A linear classifier on average-pooled pixels."""

    num_classes: int
    grid: int
    noise: float

    def fresh_weights(self, seed: int) -> dict[str, Array]:
        """Draw weights ``[K, F]``; biases ``[K]`` and the buffers are zero."""
        features = 3 * self.grid**2
        weight = np.random.default_rng(seed).normal(0, 0.1, (self.num_classes, features))
        return {
            "head.weight": weight.astype(np.float32),
            "head.bias": np.zeros(self.num_classes, np.float32),
            BUFFER: np.zeros((), np.int64),
            RUNNING_MEAN: np.zeros(3, np.float32),
        }

    def pool(self, pixels: Array) -> NDArray[np.float64]:
        """Average pixels ``[B, H, W, C]`` over the cells of the grid: features ``[B, F]``."""
        cells = [
            cell.mean(axis=(1, 2), dtype=np.float64)
            for row in np.array_split(pixels, self.grid, axis=1)
            for cell in np.array_split(row, self.grid, axis=2)
        ]
        return np.concatenate(cells, axis=1)

    def logits(self, weights: Mapping[str, Array], features: Array) -> NDArray[np.float32]:
        """Return logits ``[B, K]``."""
        # einsum, unlike matmul, never calls a threaded library whose sums depend on the threads.
        products = np.einsum("bf,kf->bk", features, weights["head.weight"].astype(np.float64))
        logits: NDArray[np.float32] = (products + weights["head.bias"]).astype(np.float32)
        return logits


@final
@dataclass(slots=True)
class Sgd:
    """Gradient descent with momentum and L2 decay, as ``torch.optim.SGD`` defines it."""

    groups: Sequence[Mapping[str, Any]]
    """Groups of parameter ``names`` that share a ``weight_decay``."""
    momentum: float
    nesterov: bool = False
    velocity: dict[str, Array] = field(default_factory=dict)

    def step(self, weights: dict[str, Array], gradients: Mapping[str, Array], rate: float) -> None:
        """Update the weights in place."""
        for group in self.groups:
            for name in group["names"]:
                gradient = gradients[name] + group["weight_decay"] * weights[name]
                previous = self.velocity.get(name, np.zeros_like(gradient))
                velocity = self.velocity[name] = self.momentum * previous + gradient
                step = gradient + self.momentum * velocity if self.nesterov else velocity
                weights[name] = (weights[name] - rate * step).astype(np.float32)


@final
@dataclass(frozen=True, slots=True)
class Ready:
    """A deferred value that is already there."""

    value: Any

    def read(self) -> Any:
        """Return the value."""
        return self.value


@final
class Average:
    """The moving average of a model's weights."""

    def __init__(self, weights: dict[str, Array], decay: float) -> None:
        self.model = copy.deepcopy(weights)
        self._weights = weights
        self._decay = decay

    def update(self) -> None:
        """Move the average towards the weights."""
        for name in PARAMETERS:
            mean = self._decay * self.model[name] + (1 - self._decay) * self._weights[name]
            self.model[name] = mean.astype(np.float32)
        for name in (BUFFER, RUNNING_MEAN):
            self.model[name] = self._weights[name]


@final
class FakeStatistics(OwnStatistics):
    """The running mean of the pixels."""

    def __init__(self, models: Sequence[dict[str, Array]], group: Group) -> None:
        super().__init__(group)
        self._models = models

    def _read(self) -> dict[str, Array]:
        return {RUNNING_MEAN: self._models[0][RUNNING_MEAN].copy()}

    def _write(self, arrays: Mapping[str, Array]) -> None:
        self._models[0].update(arrays)

    def _gather(self, flat: NDArray[np.uint8]) -> NDArray[np.uint8]:
        rows = np.zeros((self._group.world_size, len(flat)))
        rows[self._group.rank] = flat
        return np.reshape(self._group.sum(rows.ravel().tolist()), rows.shape).astype(np.uint8)

    def _average(self) -> None:
        total = self._group.sum(self._models[0][RUNNING_MEAN].tolist())
        for weights in self._models:
            weights[RUNNING_MEAN] = (np.array(total) / self._group.world_size).astype(np.float32)


@final
class FakeEngine(EngineBase["dict[str, Array]", FakeDevice, FakeOptions]):
    """Trains and evaluates the linear classifier."""

    framework = "fake"
    wording = Wording(
        framework="NumPy",
        memory=re.compile("Unable to allocate"),
        kernel=re.compile("not supported for the input types"),
        shape=re.compile("operands|dimension"),
        reason=repr,
    )
    tensor_type = np.ndarray
    device_type = FakeDevice
    options_type = FakeOptions

    _average: Average | None
    _optimizer: Sgd | None

    def __init__(self, spec: EngineSpec, device: Device) -> None:
        super().__init__(spec, device)
        precision = spec.precision
        if precision.compute != "fp32":
            raise DeviceError(f"{device.name} computes in fp32 only, not {precision.compute}")
        self._linear = build_model(spec, Linear)
        self._model = self._linear.fresh_weights(spec.seed)
        self._average = None if spec.ema_decay is None else Average(self._model, spec.ema_decay)
        self._rank = spec.group.rank if spec.group else 0
        if spec.group is not None:
            self._statistics = FakeStatistics(self._models(), spec.group)
        self._optimizer = None
        if spec.optimizer is not None:
            self._optimizer = spec.optimizer.build(self._groups(), spec.optimizer_options, 0.0)
        self._loss_scale = ScaleState()
        scaled = precision.effective_loss_scale != "none"  # a factor is not needed in float64
        self._skips_overflow = scaled and precision.skip_overflow
        self._takes_signals = os.environ.get("RUNNER_FAKE_SIGNALS") == "1"
        self._is_sound = os.environ.get("RUNNER_FAKE_SOUND") == "1"
        self._steps = 0
        self._steps_here = 0

    def _train_step(self, batch: Batch, learning_rate: float) -> Deferred[StepResult]:
        """Take one step; fail, overflow or break down where the options say so."""
        misbehaves = self._options.on_rank in (None, self._rank) and not self._is_sound
        if misbehaves and self._steps == self._options.hang_at_step:
            sys.stderr.write("the fake framework hangs\n")
            sys.stderr.flush()
            for _ in range(36000):  # one long sleep may miss a signal that comes as it begins
                time.sleep(0.1)
        time.sleep(self._options.seconds_per_step)
        if self._takes_signals:
            _take_signals()
        if misbehaves and self._steps_here == self._options.fail_after_steps:
            raise RuntimeError(f"the fake framework fails after {self._steps_here} steps, as asked")
        # Drawn anew for each step and rank, so that the state of one rank continues all.
        random = np.random.default_rng((self._spec.seed, 1, self._steps, self._rank))
        passes = list(self._passes(batch))
        losses, gradients = zip(*(self._gradients(part, random) for part in passes), strict=True)
        count = len(batch.labels)
        loss = sum(losses) / count
        mean = {name: sum(part[name] for part in gradients) / count for name in PARAMETERS}
        for part in passes:
            self._update_buffers(part.images)
        step, self._steps, self._steps_here = self._steps, self._steps + 1, self._steps_here + 1
        if misbehaves and step == self._options.non_finite_at_step:
            loss, mean = float("nan"), {name: part * np.nan for name, part in mean.items()}
        mean = {name: self._mean_over_ranks(part) for name, part in mean.items()}
        overflows = self._skips_overflow and not all(np.isfinite(g).all() for g in mean.values())
        skipped = overflows or step == self._options.overflow_at_step
        if not skipped and self._optimizer is not None:
            self._optimizer.step(self._model, self._clipped(mean), learning_rate)
        if self._average is not None:
            self._average.update()
        return Ready(StepResult(loss=loss, skipped=skipped))

    def eval_step(self, batch: Batch) -> Deferred[EvalCounts]:
        """Count the images whose label is the first, or among the first five, of the logits."""
        return Ready(count_correct(self.predict(batch.images), batch.labels))

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return logits ``[B, K]``."""
        return self._linear.logits(self._evaluated, self._features(images))

    def _copy_weights(self, model: dict[str, Array]) -> dict[str, Array]:
        return copy.deepcopy(model)

    def _load_weights(self, model: dict[str, Array], weights: Mapping[str, Array]) -> None:
        check_fit({name: array.shape for name, array in model.items()}, weights)
        model.update({name: np.array(weights[name], own.dtype) for name, own in model.items()})

    def _own_state(self) -> tuple[dict[str, Mapping[str, Array]], dict[str, Any]]:
        velocity = self._optimizer.velocity if self._optimizer else {}
        return {OPTIMIZER: copy.deepcopy(velocity)}, {"steps": self._steps}

    def _load_own_state(
        self, parts: Mapping[str, Mapping[str, Array]], values: Mapping[str, Any]
    ) -> None:
        if self._optimizer:
            self._optimizer.velocity = copy.deepcopy(dict(parts.get(OPTIMIZER, {})))
        self._steps = values["steps"]

    def _identity(self) -> dict[str, Any]:
        identity = super()._identity()
        del identity["device"]  # a run continues on any of them, to the bit
        return identity

    def _versions(self) -> dict[str, str]:
        return {"numpy": np.__version__}

    def _trained(self) -> Iterator[tuple[int, str]]:
        for name in PARAMETERS:
            yield self._model[name].size, str(self._model[name].dtype)

    def _describe_optimizer(self) -> Mapping[str, Any] | None:
        return None if self._optimizer is None else {"groups": self._optimizer.groups}

    def _settings(self) -> dict[str, Any]:
        return {}

    def _groups(self) -> list[Mapping[str, Any]]:
        rules = self._spec.no_weight_decay
        groups: list[Mapping[str, Any]] = []
        for name in PARAMETERS:
            kind = name.rpartition(".")[2]
            spared = any(rule == kind or fnmatchcase(name, rule) for rule in rules)
            groups.append(
                {"names": [name], "weight_decay": 0.0 if spared else self._spec.weight_decay}
            )
        return groups

    def _features(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        mean, std = np.array(self._spec.mean), np.array(self._spec.std)
        return self._linear.pool((images / 255 - mean) / std)

    def _update_buffers(self, images: NDArray[np.uint8]) -> None:
        own = (images / 255 - self._spec.mean) / self._spec.std
        mean = 0.9 * self._model[RUNNING_MEAN] + 0.1 * own.mean(axis=(0, 1, 2))
        self._model[RUNNING_MEAN] = mean.astype(np.float32)
        self._model[BUFFER] = np.array(self._model[BUFFER] + 1)

    def _mean_over_ranks(self, array: Array) -> Array:
        group = self._spec.group
        if group is None:
            return array
        return np.reshape(group.sum(array.ravel().tolist()), array.shape) / group.world_size

    def _gradients(self, part: Pass, random: np.random.Generator) -> tuple[float, dict[str, Array]]:
        """Return the sum of the losses of some images, and its gradients."""
        features = self._features(part.images)
        if self._linear.noise:
            features = features + random.normal(0, self._linear.noise, features.shape)
        logits = self._linear.logits(self._model, features).astype(np.float64)
        log_probabilities = logits - _log_sum_exp(logits)
        targets = self._targets(part.labels)
        residual = np.exp(log_probabilities) - targets
        return float(-(targets * log_probabilities).sum()), {
            "head.weight": np.einsum("bk,bf->kf", residual, features),
            "head.bias": residual.sum(axis=0),
        }

    def _targets(self, labels: Array) -> Array:
        classes, smoothing = self._spec.num_classes, self._spec.loss.label_smoothing
        own = np.eye(classes)[labels]
        if self._spec.loss.smooth_over == "all":
            return own * (1 - smoothing) + smoothing / classes
        return own * (1 - smoothing) + (1 - own) * smoothing / (classes - 1)

    def _clipped(self, gradients: dict[str, Array]) -> dict[str, Array]:
        limit = self._spec.clip_grad_norm
        norm = float(np.sqrt(sum(float((part**2).sum()) for part in gradients.values())))
        if limit is None or not norm + 1e-6 > limit:
            return gradients
        return {name: part * (limit / (norm + 1e-6)) for name, part in gradients.items()}


def _take_signals() -> None:
    """Install handlers for SIGINT and SIGTERM that Python does not know, as MindSpore does."""
    for number in (signal.SIGINT, signal.SIGTERM):
        ctypes.CDLL(None).signal(int(number), 0)  # SIG_DFL: the process ends at once


def _log_sum_exp(logits: Array) -> Array:
    """Return ``log(sum(exp(logits)))`` over the classes, ``[B, 1]``."""
    top = logits.max(axis=1, keepdims=True)
    total: Array = top + np.log(np.exp(logits - top).sum(axis=1, keepdims=True))
    return total

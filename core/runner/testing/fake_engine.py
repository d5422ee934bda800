"""The engine of the fake framework: B images, K classes, F = 3 grid^2 features; float64 inside."""

from __future__ import annotations

import copy
import ctypes
import os
import signal
import sys
import time
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, final

import numpy as np

from runner.contracts import EngineState, StepResult
from runner.errors import CheckpointError, DeviceError
from runner.session.metrics import count_correct
from runner.testing.fake_options import FakeOptions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from runner.contracts import Batch, Deferred, Device, EngineSpec, EvalCounts

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
class FakeEngine:
    """Trains and evaluates the linear classifier."""

    def __init__(self, spec: EngineSpec, device: Device) -> None:
        if spec.precision.compute != "fp32":
            raise DeviceError(f"{device.name} computes in fp32 only, not {spec.precision.compute}")
        self._spec = spec
        self._device = device
        if not isinstance(spec.framework_options, FakeOptions):
            raise TypeError(f"expected FakeOptions, got {spec.framework_options!r}")
        self._options: FakeOptions = spec.framework_options
        self._model: Linear = spec.model.build(spec.model_options, spec.num_classes)
        self._weights = self._model.fresh_weights(spec.seed)
        self._ema = copy.deepcopy(self._weights)
        self._rank = spec.group.rank if spec.group else 0
        self._optimizer: Sgd | None = None
        if spec.optimizer is not None:
            self._optimizer = spec.optimizer.build(self._groups(), spec.optimizer_options, 0.0)
        precision = spec.precision
        scaled = precision.effective_loss_scale != "none"  # a factor is not needed in float64
        self._skips_overflow = scaled and precision.skip_overflow
        self._takes_signals = os.environ.get("RUNNER_FAKE_SIGNALS") == "1"
        self._own_mean: Array | None = None
        self._rows: Array | None = None
        self._is_sound = os.environ.get("RUNNER_FAKE_SOUND") == "1"
        self._steps = 0
        self._steps_here = 0

    def train_step(self, batch: Batch, learning_rate: float) -> Deferred[StepResult]:
        """Take one step; fail, overflow or break down where the options say so."""
        if self._optimizer is None:
            raise ValueError("the engine was opened without an optimizer, so it cannot train")
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
        if self._own_mean is not None:
            self._weights[RUNNING_MEAN], self._own_mean = self._own_mean, None
        size = self._spec.micro_batch_size
        parts = [slice(i, i + size) for i in range(0, len(batch.labels), size)]
        # Drawn anew for each step and rank, so that the state of one rank continues all.
        random = np.random.default_rng((self._spec.seed, 1, self._steps, self._rank))
        losses, gradients = zip(
            *(self._gradients(batch.images[p], batch.labels[p], random) for p in parts), strict=True
        )
        count = len(batch.labels)
        loss = sum(losses) / count
        mean = {name: sum(part[name] for part in gradients) / count for name in PARAMETERS}
        for part in parts:
            self._update_buffers(batch.images[part])
        step, self._steps, self._steps_here = self._steps, self._steps + 1, self._steps_here + 1
        if misbehaves and step == self._options.non_finite_at_step:
            loss, mean = float("nan"), {name: part * np.nan for name, part in mean.items()}
        mean = {name: self._mean_over_ranks(part) for name, part in mean.items()}
        overflows = self._skips_overflow and not all(np.isfinite(g).all() for g in mean.values())
        skipped = overflows or step == self._options.overflow_at_step
        if not skipped:
            self._optimizer.step(self._weights, self._clipped(mean), learning_rate)
        self._average()
        return Ready(StepResult(loss=loss, skipped=skipped))

    def eval_step(self, batch: Batch) -> Deferred[EvalCounts]:
        """Count the images whose label is the first, or among the first five, of the logits."""
        return Ready(count_correct(self.predict(batch.images), batch.labels))

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return logits ``[B, K]``."""
        return self._model.logits(self.evaluation_weights(), self._features(images))

    def weights(self) -> Mapping[str, Array]:
        """Copy weights and buffer."""
        return copy.deepcopy(self._weights)

    def load_weights(self, weights: Mapping[str, Array]) -> None:
        """Replace weights and buffer, and start the average anew."""
        problems = [f"{name} is missing" for name in self._weights if name not in weights]
        problems += [f"{name} is unexpected" for name in weights if name not in self._weights]
        problems += [
            f"{name} has shape {weights[name].shape}, not {own.shape}"
            for name, own in self._weights.items()
            if name in weights and weights[name].shape != own.shape
        ]
        if problems:
            raise CheckpointError(f"the weights do not fit the model: {'; '.join(problems)}")
        self._weights = {name: np.array(weights[name], own.dtype) for name, own in self._items()}
        self._ema = copy.deepcopy(self._weights)
        self._own_mean = None

    def evaluation_weights(self) -> Mapping[str, Array]:
        """Copy the averaged weights, or the weights when nothing is averaged."""
        return copy.deepcopy(self._weights if self._spec.ema_decay is None else self._ema)

    def state(self) -> EngineState:
        """Copy momentum, average and the number of steps."""
        velocity = self._optimizer.velocity if self._optimizer else {}
        tensors = {f"velocity.{name}": array for name, array in velocity.items()}
        if self._spec.ema_decay is not None:
            tensors |= {f"ema/{name}": array for name, array in self._ema.items()}
        if self._rows is not None:
            tensors[f"own.{RUNNING_MEAN}"] = self._rows
        values = {
            "optimizer": self._spec.optimizer.name if self._spec.optimizer else None,
            "steps": self._steps,
        }
        return EngineState(tensors=copy.deepcopy(tensors), values=copy.deepcopy(values))

    def load_state(self, state: EngineState) -> None:
        """Continue where the state was taken."""
        expected = self._spec.optimizer.name if self._spec.optimizer else None
        found = state.values.get("optimizer", "nothing")
        if found != expected:
            raise CheckpointError(f"the state belongs to {found}, not to {expected}")
        tensors = copy.deepcopy(dict(state.tensors))
        if self._optimizer:
            self._optimizer.velocity = _below("velocity.", tensors)
        if self._spec.ema_decay is not None:
            self._ema = _below("ema/", tensors)
        self._steps = state.values["steps"]
        rows = tensors.get(f"own.{RUNNING_MEAN}", ())
        if self._spec.group and len(rows) == self._spec.group.world_size:
            self._weights[RUNNING_MEAN] = rows[self._rank]

    def agree(self) -> None:
        """Average the running mean over the ranks, until the next step."""
        group = self._spec.group
        if group is None or self._own_mean is not None:
            return
        self._own_mean = self._weights[RUNNING_MEAN]
        rows = np.zeros((group.world_size, 3))
        rows[self._rank] = self._own_mean
        self._rows = np.reshape(group.sum(rows.ravel().tolist()), rows.shape).astype(np.float32)
        for weights in (self._weights, self._ema):
            weights[RUNNING_MEAN] = self._rows.mean(axis=0, dtype=np.float64).astype(np.float32)

    def synchronize(self) -> None:
        """Return at once: nothing runs in the background."""
        self._device.synchronize()

    def report(self) -> Mapping[str, Any]:
        """Return the number of parameters and the precision."""
        count = sum(int(self._weights[name].size) for name in PARAMETERS)
        return {"parameters": count, "precision": "fp32", "device": self._device.name}

    def _items(self) -> Sequence[tuple[str, Array]]:
        return list(self._weights.items())

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
        return self._model.pool((images / 255 - mean) / std)

    def _update_buffers(self, images: NDArray[np.uint8]) -> None:
        own = (images / 255 - self._spec.mean) / self._spec.std
        mean = 0.9 * self._weights[RUNNING_MEAN] + 0.1 * own.mean(axis=(0, 1, 2))
        self._weights[RUNNING_MEAN] = mean.astype(np.float32)
        self._weights[BUFFER] = np.array(self._weights[BUFFER] + 1)

    def _mean_over_ranks(self, array: Array) -> Array:
        group = self._spec.group
        if group is None:
            return array
        return np.reshape(group.sum(array.ravel().tolist()), array.shape) / group.world_size

    def _gradients(
        self, images: Array, labels: Array, random: np.random.Generator
    ) -> tuple[float, dict[str, Array]]:
        """Return the sum of the losses of some images, and its gradients."""
        features = self._features(images)
        if self._model.noise:
            features = features + random.normal(0, self._model.noise, features.shape)
        logits = self._model.logits(self._weights, features).astype(np.float64)
        log_probabilities = logits - _log_sum_exp(logits)
        targets = self._targets(labels)
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

    def _average(self) -> None:
        decay = self._spec.ema_decay
        if decay is None:
            return
        for name in PARAMETERS:
            mean = decay * self._ema[name] + (1 - decay) * self._weights[name]
            self._ema[name] = mean.astype(np.float32)
        for name in (BUFFER, RUNNING_MEAN):
            self._ema[name] = self._weights[name]


def _take_signals() -> None:
    """Install handlers for SIGINT and SIGTERM that Python does not know, as MindSpore does."""
    for number in (signal.SIGINT, signal.SIGTERM):
        ctypes.CDLL(None).signal(int(number), 0)  # SIG_DFL: the process ends at once


def _below(prefix: str, tensors: Mapping[str, Array]) -> dict[str, Array]:
    return {name[len(prefix) :]: a for name, a in tensors.items() if name.startswith(prefix)}


def _log_sum_exp(logits: Array) -> Array:
    """Return ``log(sum(exp(logits)))`` over the classes, ``[B, 1]``."""
    top = logits.max(axis=1, keepdims=True)
    total: Array = top + np.log(np.exp(logits - top).sum(axis=1, keepdims=True))
    return total

"""What a training step means, in NumPy and double precision, and how steps go wrong.

The formulas are those of the table "What a step means" in ``docs/plugins.md``. Nothing here is
taken from an engine: the gradient is the central difference of the loss, the loss is computed from
the logits of a network whose function is known.

Shapes: B images in a batch, C = 3 channels, H height, W width, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from runner.contracts import Batch

Arrays = Mapping[str, NDArray[Any]]
Network = Callable[[Arrays, NDArray[np.float64], bool], tuple[NDArray[np.float64], Arrays]]
"""From weights and buffers by name, normalised images ``[B, C, H, W]``, and whether it is trained,
to logits ``[B, K]`` and, in training, the new values of all buffers."""

BATCH_NORM_EPS = 1e-5
CLIP_EPS = 1e-6
STEP = 1e-5
"""Of the central difference, whose error is about its square."""


def small_network(
    weights: Arrays,
    images: NDArray[np.float64],
    training: bool,  # noqa: FBT001  a Network is called with positions
    *,
    share: float = 0.1,
    correction: int = 1,
) -> tuple[NDArray[np.float64], Arrays]:
    """Convolve, normalise over the batch, average over the pixels, classify.

    ``conv`` has two kernels of 3x3, stride 4, padding 1 and no bias; ``bn`` is batch normalisation
    (Ioffe and Szegedy 2015); ``fc`` is linear.

    Args:
        weights: ``conv.weight`` ``[2, 3, 3, 3]``, those of ``bn`` ``[2]``, ``fc.weight`` ``[K, 2]``
            and ``fc.bias`` ``[K]``.
        images: See above.
        training: Whether batch normalisation takes the statistics of these images.
        share: Of these statistics in the running ones.
        correction: What is subtracted from the number of values, by which the running variance
            divides; 1 makes it the unbiased one.
    """
    features = _windows(images) @ weights["conv.weight"].reshape(2, 27).T
    mean, variance = weights["bn.running_mean"], weights["bn.running_var"]
    buffers: dict[str, NDArray[Any]] = {}
    if training:
        values = features.reshape(-1, features.shape[-1])
        running, count = (mean, variance), len(values)
        mean, variance = values.mean(axis=0), values.var(axis=0)
        found = mean, variance * count / (count - correction)
        for name, old, new in zip(("mean", "var"), running, found, strict=True):
            buffers[f"bn.running_{name}"] = (1 - share) * old + share * new
        buffers["bn.num_batches_tracked"] = weights["bn.num_batches_tracked"] + 1
    normalised = (features - mean) / np.sqrt(variance + BATCH_NORM_EPS)
    pooled = (normalised * weights["bn.weight"] + weights["bn.bias"]).mean(axis=(1, 2))
    return pooled @ weights["fc.weight"].T + weights["fc.bias"], buffers


def _windows(images: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what each place of a kernel of 3x3, stride 4 and padding 1 sees, ``[B, h, w, 27]``."""
    count, channels, height, width = images.shape
    padded = np.zeros((count, channels, height + 2, width + 2))
    padded[:, :, 1:-1, 1:-1] = images
    shifts = [(down, right) for down in range(3) for right in range(3)]
    seen = [padded[:, :, y : y + height : 4, x : x + width : 4] for y, x in shifts]
    stacked = np.stack(seen, axis=2).transpose(0, 3, 4, 1, 2)
    windows: NDArray[np.float64] = stacked.reshape(*stacked.shape[:3], -1)
    return windows


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a recipe asks of a step; below, what engines make of it that go wrong."""

    network: Network
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    pass_size: int
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    spared: frozenset[str] = frozenset()
    """Parameters without weight decay."""
    clip: float | None = None
    smoothing: float = 0.0
    smooth_over: Literal["all", "others"] = "all"
    ema_decay: float | None = None
    loss_scale: float | Literal["none", "dynamic"] = "none"

    scale: float = 255.0
    """What a pixel of 1 is stored as."""
    layout: Callable[[NDArray[Any]], NDArray[Any]] = np.asarray
    """Of the images ``[B, H, W, C]``."""
    counted: Literal["all", "first", "last"] = "all"
    """Passes whose gradients count."""
    weighting: Literal["images", "equal", "none"] = "images"
    """What each pass is weighted by."""
    factor: float = 1.0
    """Of the gradient."""
    clips: Literal["all", "each"] = "all"
    decays: Literal["gradient", "before clipping", "weight"] = "gradient"
    """Whether decay is added to the gradient, and when, or subtracted from the weight."""
    rate_in_velocity: bool = False
    averages_buffers: bool = False
    averages_before: bool = False


def _small(rules: Rules, **changes: Any) -> Rules:
    known = rules.network is small_network
    return replace(rules, network=partial(small_network, **changes)) if known else rules


FAULTS: Mapping[str, Callable[[Rules], Rules]] = {
    "counts the first pass only": lambda r: replace(r, counted="first"),
    "counts the last pass only": lambda r: replace(r, counted="last"),
    "adds the passes up, which each have a mean of their own": lambda r: replace(
        r, weighting="none"
    ),
    "weights all passes alike, whatever their number of images": lambda r: replace(
        r, weighting="equal"
    ),
    "takes its passes as one": lambda r: replace(r, pass_size=2**20),
    "ignores momentum": lambda r: replace(r, momentum=0.0, nesterov=False),
    "ignores nesterov": lambda r: replace(r, nesterov=False),
    "keeps the rate of each step in the momentum": lambda r: replace(r, rate_in_velocity=True),
    "ignores weight decay": lambda r: replace(r, weight_decay=0.0),
    "decays what no_weight_decay names": lambda r: replace(r, spared=frozenset()),
    "decays the weights beside the momentum, as AdamW": lambda r: replace(r, decays="weight"),
    "clips the weight decay with the gradient": lambda r: replace(r, decays="before clipping"),
    "ignores clip_grad_norm": lambda r: replace(r, clip=None),
    "clips the gradient of each parameter by itself": lambda r: replace(r, clips="each"),
    "ignores label_smoothing": lambda r: replace(r, smoothing=0.0),
    "smooths over all classes": lambda r: replace(r, smooth_over="all"),
    "smooths over the other classes": lambda r: replace(r, smooth_over="others"),
    "does not divide the gradient by the loss scale": lambda r: replace(
        r, factor=r.loss_scale if isinstance(r.loss_scale, float) else 1.0
    ),
    "adds the losses of the images up": lambda r: replace(r, factor=r.pass_size),
    "steps uphill": lambda r: replace(r, factor=-1.0),
    "does not subtract the mean of the pixels": lambda r: replace(r, mean=0 * r.mean),
    "does not divide by the deviation of the pixels": lambda r: replace(r, std=r.std**0),
    "does not divide the pixels by 255": lambda r: replace(r, scale=1.0),
    "takes the channels as BGR": lambda r: replace(r, layout=lambda p: p[..., ::-1]),
    "takes the images turned over their diagonal": lambda r: replace(
        r, layout=lambda p: p.transpose(0, 2, 1, 3)
    ),
    "takes images from top to bottom": lambda r: replace(r, layout=lambda p: p[:, ::-1]),
    "averages buffers as well": lambda r: replace(r, averages_buffers=True),
    "averages the weights before they are updated": lambda r: replace(r, averages_before=True),
    "gives the weights in place of their average": lambda r: replace(r, ema_decay=0.0),
    "gives the new weights the share ema_decay": lambda r: replace(
        r, ema_decay=r.ema_decay and 1 - r.ema_decay
    ),
    "keeps the biased variance": lambda r: _small(r, correction=0),
    "gives new statistics the share 0.9": lambda r: _small(r, share=0.9),
    "leaves the running statistics alone": lambda r: _small(r, share=0.0),
}
"""Rules by what an engine does that follows them in place of those of the recipe."""


@final
class Reference:
    """The weights that steps must lead to, on one process or several."""

    def __init__(
        self,
        rules: Rules,
        weights: Arrays,
        processes: int = 1,
        known: dict[Hashable, tuple[float, Arrays]] | None = None,
    ) -> None:
        """Begin with weights and buffers; ``known`` keeps gradients that others have taken."""
        self.rules = rules
        self._known = {} if known is None else known
        example = np.zeros((2, 3, 8, 8))
        double: Arrays = {
            n: a.astype(np.float64) if a.dtype.kind == "f" else a for n, a in weights.items()
        }
        names = rules.network(double, example, True)[1]
        self.parameters = {n: a for n, a in double.items() if n not in names}
        self.buffers = [{n: double[n] for n in names} for _ in range(processes)]
        """Of each process."""
        floats = {n: a for n, a in double.items() if a.dtype.kind == "f"}
        self._averaged: Arrays = floats if rules.averages_buffers else self.parameters
        self._velocity: dict[str, NDArray[np.float64]] = {}

    def step(self, shares: Sequence[Batch], rate: float) -> list[float]:
        """Take a step on the batch of each process, and return the losses."""
        rules = self.rules
        results = [self._passes(rank, batch) for rank, batch in enumerate(shares)]
        gradient: Arrays = {n: np.mean([g[n] for _, g in results], axis=0) for n in self.parameters}
        before = self.parameters
        decay = {n: 0.0 if n in rules.spared else rules.weight_decay for n in before}
        if rules.decays == "before clipping":
            gradient = {n: g + decay[n] * before[n] for n, g in gradient.items()}
        gradient = self._clipped(gradient)
        if rules.decays == "gradient":
            gradient = {n: g + decay[n] * before[n] for n, g in gradient.items()}
        if rules.rate_in_velocity:
            gradient = {n: rate * g for n, g in gradient.items()}
        self._velocity = {
            n: rules.momentum * self._velocity[n] + g if self._velocity else g
            for n, g in gradient.items()
        }
        update = self._velocity
        if rules.nesterov:
            update = {n: g + rules.momentum * update[n] for n, g in gradient.items()}
        rates = 1.0 if rules.rate_in_velocity else rate
        self.parameters = {n: w - rates * update[n] for n, w in before.items()}
        if rules.decays == "weight":
            decayed = {n: rate * decay[n] * w for n, w in before.items()}
            self.parameters = {n: w - decayed[n] for n, w in self.parameters.items()}
        self._move_average(before if rules.averages_before else self.parameters)
        return [loss for loss, _ in results]

    def average(self, rank: int = 0) -> Arrays:
        """Return what a process evaluates with: averaged parameters, and its own buffers."""
        return {**self.buffers[rank], **self._averaged}

    def gradient_norm(self, batch: Batch) -> float:
        """Return the L2 norm of the gradient of a batch, which moves nothing."""
        kept = self.buffers[0]
        _, gradient = self._passes(0, batch)
        self.buffers[0] = kept
        return _norm(gradient)

    def mean_buffers(self) -> Arrays:
        """Return the mean of all processes' buffers; counters are equal."""
        first = self.buffers[0]
        return {
            n: np.mean([own[n] for own in self.buffers], axis=0) if a.dtype.kind == "f" else a
            for n, a in first.items()
        }

    def logits(self, batch: Batch, weights: Arrays) -> NDArray[np.float64]:
        """Return what the network says in evaluation ``[B, K]``."""
        return self.rules.network(weights, self._images(batch), False)[0]

    def _images(self, batch: Batch) -> NDArray[np.float64]:
        rules = self.rules
        pixels = (rules.layout(batch.images) / rules.scale - rules.mean) / rules.std
        return pixels.transpose(0, 3, 1, 2)

    def _passes(self, rank: int, batch: Batch) -> tuple[float, Arrays]:
        """Return the mean loss of a batch and its gradient; the buffers move."""
        rules, total = self.rules, len(batch.labels)
        images, size = self._images(batch), rules.pass_size
        parts = [slice(start, start + size) for start in range(0, total, size)]
        loss, gradients = 0.0, []
        for part in parts:
            labels, own = batch.labels[part], self.buffers[rank]
            value, gradient = self._gradient(own, images[part], labels)
            self.buffers[rank] = dict(
                rules.network({**self.parameters, **own}, images[part], True)[1]
            )
            shares = {"images": len(labels) / total, "equal": 1 / len(parts), "none": 1.0}
            loss += value * len(labels) / total
            share = shares[rules.weighting] * rules.factor
            gradients.append({n: share * g for n, g in gradient.items()})
        counted = {"all": gradients, "first": gradients[:1], "last": gradients[-1:]}
        return loss, {
            n: np.sum([g[n] for g in counted[rules.counted]], axis=0) for n in self.parameters
        }

    def _gradient(
        self, buffers: Arrays, images: NDArray[np.float64], labels: NDArray[np.int64]
    ) -> tuple[float, Arrays]:
        rules, arrays = self.rules, (images, labels, *self.parameters.values())
        key = (
            (rules.network, rules.smoothing, rules.smooth_over),
            tuple(array.tobytes() for array in arrays),
        )
        if key not in self._known:
            self._known[key] = _gradient(rules, self.parameters, buffers, images, labels)
        return self._known[key]

    def _clipped(self, gradient: Arrays) -> Arrays:
        limit = self.rules.clip
        if limit is None:
            return gradient
        whole = _norm(gradient)
        norms = {
            n: whole if self.rules.clips == "all" else _norm({n: g}) for n, g in gradient.items()
        }
        return {n: g * min(1.0, limit / (norms[n] + CLIP_EPS)) for n, g in gradient.items()}

    def _move_average(self, parameters: Arrays) -> None:
        decay = self.rules.ema_decay
        if decay is None:
            self._averaged = self.parameters
            return
        moved = {**self.buffers[0], **parameters}
        self._averaged = {n: decay * a + (1 - decay) * moved[n] for n, a in self._averaged.items()}


def cross_entropy(
    logits: NDArray[np.float64], labels: NDArray[np.int64], rules: Rules
) -> NDArray[np.float64]:
    """Return the loss of each image ``[B]``, with the label smoothing of the rules."""
    classes, smoothing = logits.shape[1], rules.smoothing
    own = np.eye(classes)[labels]
    others = smoothing / classes if rules.smooth_over == "all" else smoothing / (classes - 1)
    most = (1 - smoothing) + others if rules.smooth_over == "all" else 1 - smoothing
    shifted = logits - logits.max(axis=1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    losses: NDArray[np.float64] = -((own * most + (1 - own) * others) * logs).sum(axis=1)
    return losses


def _gradient(
    rules: Rules,
    parameters: Arrays,
    buffers: Arrays,
    images: NDArray[np.float64],
    labels: NDArray[np.int64],
) -> tuple[float, Arrays]:
    """Return the mean loss of a pass, and its derivatives as central differences."""
    weights = {n: a.copy() for n, a in parameters.items()}

    def loss() -> float:
        logits = rules.network({**buffers, **weights}, images, True)[0]
        return float(cross_entropy(logits, labels, rules).mean())

    gradient = {}
    for name, array in weights.items():
        flat, slopes = array.reshape(-1), []
        for place, value in enumerate(flat):
            flat[place] = value + STEP
            above = loss()
            flat[place] = value - STEP
            slopes.append((above - loss()) / (2 * STEP))
            flat[place] = value
        gradient[name] = np.reshape(slopes, array.shape)
    return loss(), gradient


def _norm(gradient: Arrays) -> float:
    return float(np.sqrt(sum((part**2).sum() for part in gradient.values())))

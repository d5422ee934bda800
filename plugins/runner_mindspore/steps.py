"""What runs on the device: the steps of training and evaluation, as cells.

Each cell is compiled as a whole in graph mode, and runs operator by operator in PyNative mode.

Shapes: B images, H height, W width, C channels, K classes. Images are ``uint8`` ``[B, H, W, C]``
or, where the host has normalised them, ``float32`` ``[B, C, H, W]``.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, final

import numpy as np

from runner_mindspore.autoload import Tensor, ms, nn, ops
from runner_mindspore.scaling import multiply

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from runner_mindspore.ema import AverageUpdate
    from runner_mindspore.losses import TrainingLoss
    from runner_mindspore.scaling import LossScale


@final
class Forward(nn.Cell):
    """From images and labels to the loss."""

    def __init__(
        self, normalize: nn.Cell, net: nn.Cell, loss: TrainingLoss, scale: LossScale
    ) -> None:
        super().__init__(auto_prefix=False)
        self.normalize, self.net, self.loss, self.scale = normalize, net, loss, scale

    def construct(self, images: Tensor, labels: Tensor, share: Tensor) -> tuple[Any, ...]:
        """Return the scaled loss, the loss, and what the net returned.

        Args:
            images: See above.
            labels: ``int32`` ``[B]``.
            share: Share of these images in the step, which the loss is multiplied by.
        """
        output = self.net(self.normalize(images))
        loss = self.loss(output, labels) * share
        return self.scale.scale(loss), loss, output


_value = ops.MultitypeFuncGraph("value")


@_value.register("Tensor")
def _value_one(total: Tensor) -> Tensor:
    return total.value()


_add = ops.MultitypeFuncGraph("add")


@_add.register("Tensor", "Tensor")
def _add_one(total: Tensor, gradient: Tensor) -> Tensor:
    return ops.assign_add(total, gradient)


_clear = ops.MultitypeFuncGraph("clear")


@_clear.register("Tensor")
def _clear_one(total: Tensor) -> Tensor:
    return ops.assign(total, ops.zeros_like(total))


_zero_unless_bad = ops.MultitypeFuncGraph("zero_unless_bad")


@_zero_unless_bad.register("Tensor")
def _zero_unless_bad_one(statistic: Tensor) -> Tensor:
    return statistic.sum() * 0.0


@final
class Witness(nn.Cell):
    """Makes the loss NaN where batch normalisation has met numbers that are not finite.

    MindSpore's ReLU turns NaN into 0 on the CPU, so that the loss alone would not tell: weights
    full of NaN give the loss of a net that says nothing.
    """

    def __init__(self, statistics: Sequence[ms.Parameter]) -> None:
        super().__init__(auto_prefix=False)
        self.statistics = ms.ParameterTuple(statistics)
        self.hyper_map = ops.HyperMap()

    def construct(self, loss: Tensor) -> Tensor:
        """Return the loss, or NaN."""
        if not self.statistics:
            return loss
        return loss + ops.stack(self.hyper_map(_zero_unless_bad, self.statistics)).sum()


_square = ops.MultitypeFuncGraph("square")


@_square.register("Tensor")
def _square_one(gradient: Tensor) -> Tensor:
    return (gradient * gradient).sum()


@final
class Update(nn.Cell):
    """From gradients to new weights: average over the processes, unscale, clip, update."""

    def __init__(
        self,
        optimizer: nn.Optimizer,
        scale: LossScale,
        *,
        reducer: nn.Cell | None,
        clip_norm: float | None,
        average: AverageUpdate | None,
    ) -> None:
        super().__init__(auto_prefix=False)
        self.optimizer, self.scale, self.reducer = optimizer, scale, reducer
        self.clip_norm, self.average = clip_norm, average
        self.hyper_map = ops.HyperMap()
        self.true = Tensor([True])

    def construct(self, gradients: tuple[Tensor, ...], learning_rate: Tensor) -> Tensor:
        """Return whether the gradients were finite, as far as that is looked at."""
        if self.reducer is not None:
            gradients = self.reducer(gradients)
        gradients = self.scale.unscale(gradients)
        finite = ms.amp.all_finite(gradients) if self.scale.skips else self.true
        if self.clip_norm is not None:
            gradients = self._clip(gradients)
        finite = ops.depend(finite, ops.assign(self.optimizer.learning_rate, learning_rate))
        if not self.scale.skips or finite:
            finite = ops.depend(finite, self.optimizer(gradients))
        finite = self.scale.adapt(finite)
        return finite if self.average is None else self.average(finite)

    def _clip(self, gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Scale the gradients down to a global L2 norm, as ``clip_grad_norm_`` of torch does."""
        norm = ops.sqrt(ops.stack(self.hyper_map(_square, gradients)).sum())
        return multiply(gradients, ops.clamp(self.clip_norm / (norm + 1e-6), max=1.0))


@final
class TrainStep(nn.Cell):
    """A whole step in one pass."""

    def __init__(self, forward: Forward, witness: Witness, update: Update) -> None:
        super().__init__(auto_prefix=False)
        parameters = update.optimizer.parameters
        self.gradient = ms.value_and_grad(forward, None, parameters, has_aux=True)
        self.forward, self.witness, self.update = forward, witness, update

    def construct(
        self, images: Tensor, labels: Tensor, share: Tensor, learning_rate: Tensor
    ) -> tuple[Any, ...]:
        """Return what the net returned, the loss, and whether the gradients were finite."""
        (_, loss, output), gradients = self.gradient(images, labels, share)
        loss = self.witness(ops.depend(loss, gradients))
        return output, loss, self.update(gradients, learning_rate)


@final
class Accumulate(nn.Cell):
    """One pass of a step that has several: adds its gradients to their sum."""

    def __init__(self, forward: Forward, witness: Witness, parameters: ms.ParameterTuple) -> None:
        super().__init__(auto_prefix=False)
        self.gradient = ms.value_and_grad(forward, None, parameters, has_aux=True)
        self.forward, self.witness = forward, witness
        self.sums = parameters.clone(prefix="sum", init="zeros")
        self.hyper_map = ops.HyperMap()

    def construct(self, images: Tensor, labels: Tensor, share: Tensor) -> tuple[Any, ...]:
        """Return what the net returned, and the loss."""
        (_, loss, output), gradients = self.gradient(images, labels, share)
        loss = ops.depend(loss, self.hyper_map(_add, self.sums, gradients))
        return output, self.witness(loss)


@final
class Finish(nn.Cell):
    """The end of a step that has several passes: updates with the sum, and clears it."""

    def __init__(self, sums: ms.ParameterTuple, update: Update) -> None:
        super().__init__(auto_prefix=False)
        self.sums, self.update = sums, update
        self.hyper_map = ops.HyperMap()

    def construct(self, learning_rate: Tensor) -> Tensor:
        """Return whether the gradients were finite."""
        gradients = self.hyper_map(_value, self.sums)
        finite = self.update(gradients, learning_rate)
        return ops.depend(finite, self.hyper_map(_clear, self.sums))


@final
class Training:
    """The cells of a step; those for several passes are made when one needs them."""

    def __init__(self, forward: Forward, witness: Witness, update: Update) -> None:
        self._forward, self._witness, self._update = forward, witness, update
        self.step = TrainStep(forward, witness, update)

    @functools.cached_property
    def accumulate(self) -> Accumulate:
        """One of several passes."""
        parameters = self._update.optimizer.parameters
        return Accumulate(self._forward, self._witness, parameters)

    @functools.cached_property
    def finish(self) -> Finish:
        """What follows the passes."""
        return Finish(self.accumulate.sums, self._update)


@final
class Evaluate(nn.Cell):
    """From images and labels to logits and counts."""

    def __init__(self, normalize: nn.Cell, net: nn.Cell, num_classes: int) -> None:
        super().__init__(auto_prefix=False)
        self.normalize, self.net = normalize, net
        self.classes = Tensor(np.arange(num_classes, dtype=np.int32))

    def construct(self, images: Tensor, labels: Tensor, real: Tensor) -> tuple[Any, ...]:
        """Return what the net returned, counts, and logits ``float32`` ``[B, K]``.

        Counts are top-1, top-5 and the sum of the cross-entropy, ``float32`` ``[3]``, as
        ``runner.session.metrics.count_correct`` has them.

        Args:
            images: See above.
            labels: ``int32`` ``[B]``.
            real: 1 for each image that counts and 0 for each that fills the batch, ``[B]``.
        """
        output = self.net(self.normalize(images))
        logits = (output[0] if isinstance(output, tuple) else output).astype(ms.float32)
        column = labels.reshape((-1, 1))
        own = ops.gather_elements(logits, 1, column)
        ahead = ops.logical_or(logits > own, ops.logical_and(logits == own, self.classes < column))
        rank = ahead.astype(ms.float32).sum(axis=1)
        # a NaN is not greater than anything
        rank = ops.where(ops.isfinite(logits).all(axis=1), rank, 5.0)
        loss = ops.cross_entropy(logits, labels, reduction="none")
        loss_sum = ops.where(real > 0, loss, 0.0).sum()
        top1, top5 = ((rank < 1) * real).sum(), ((rank < 5) * real).sum()
        return output, ops.stack((top1, top5, loss_sum)), logits

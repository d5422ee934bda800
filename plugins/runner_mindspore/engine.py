"""Training, evaluation and prediction with MindSpore on one device.

Shapes: B images in a batch, H height, W width, C channels, K classes. Images are ``uint8``
``[B, H, W, C]`` in a batch, and normalised ``float32`` ``[B, C, H, W]`` in a net.
"""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, cast, final

import numpy as np

from runner.contracts import StepResult
from runner.framework.deferred import Computing, deferred_counts
from runner.framework.engine import OPTIMIZER, EngineBase
from runner.framework.failures import one_value_per_channel
from runner.framework.loss import check_labels
from runner_mindspore.autoload import ADJUSTMENTS, Tensor, ms, nn
from runner_mindspore.batch_norm import synchronize
from runner_mindspore.device import MindSporeDevice
from runner_mindspore.ema import WeightAverage
from runner_mindspore.group import is_exchange
from runner_mindspore.losses import training_loss
from runner_mindspore.messages import WORDING
from runner_mindspore.nets import fresh_net, running_statistics, seeded_dropouts
from runner_mindspore.optimizers import build_optimizer, describe_optimizer
from runner_mindspore.options import MindSporeOptions
from runner_mindspore.own_statistics import MindSporeStatistics
from runner_mindspore.pixels import DevicePixels, HostPixels
from runner_mindspore.scaling import LossScale, loss_scale
from runner_mindspore.state import load_optimizer_state, optimizer_state
from runner_mindspore.steps import Evaluate, Forward, Training, Update, Witness
from runner_mindspore.weights import BatchCounters, copy_weights, load_weights

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from typing import Any

    from numpy.typing import NDArray

    from runner.contracts import Batch, Device, EvalCounts
    from runner.entries import EngineSpec
    from runner.framework.engine import Pass
    from runner_mindspore.group import MindSporeGroup

MODES = {"graph": ms.GRAPH_MODE, "pynative": ms.PYNATIVE_MODE}


@final
class MindSporeEngine(EngineBase[nn.Cell, MindSporeDevice, MindSporeOptions]):
    """A model on one device, with its loss and optimizer.

    With several passes per step (``micro_batch_size``) the gradients sum to those of the whole
    batch's mean loss; batch normalisation takes its statistics from each pass.
    """

    framework = "mindspore"
    wording = WORDING
    tensor_type = Tensor
    device_type = MindSporeDevice
    options_type = MindSporeOptions

    _average: WeightAverage | None
    _optimizer: nn.Optimizer | None
    _loss_scale: LossScale

    def __init__(self, spec: EngineSpec, device: Device) -> None:
        super().__init__(spec, device)
        self._device.check_format(spec.precision.compute, spec.precision.level)
        if self._options.deterministic:
            _make_deterministic()
        self._group = cast("MindSporeGroup | None", spec.group)
        self._set_mode()
        self._model = fresh_net(spec)
        if self._group is not None:
            self._group.broadcast_in_place(list(self._model.get_parameters()))
        self._counters = BatchCounters(self._model)
        decay = spec.ema_decay
        self._average = None if decay is None else WeightAverage(self._model, decay)
        for net in self._models():
            self._device.cast(net, spec.precision)
        if self._group is not None and spec.sync_batch_norm:
            native = self._device.traits.native_sync_batch_norm
            synchronize(self._model, self._group.world_size, native=native)
        pixels = HostPixels if self._device.traits.is_host else DevicePixels
        self._pixels = pixels(spec.mean, spec.std)
        if self._group is not None:
            self._statistics = MindSporeStatistics(self._models(), self._group)
        self._evaluate = Evaluate(self._pixels.cell, self._evaluated, spec.num_classes)
        self._loss_scale = loss_scale(spec.precision)
        self._optimizer = build_optimizer(spec, self._model)
        self._training = None if self._optimizer is None else self._build_training(self._optimizer)
        self._dropouts = seeded_dropouts(spec, self._model)
        self._steps = 0
        self._active: nn.Cell | None = None
        self._largest: dict[tuple[int, ...], int] = {}
        self._check_sizes()

    def _check_sizes(self) -> None:
        """Try one or two images as evaluation and training will have them; nothing stays.

        Where that would take long only a pass of one image in training is tried: in 16 bits on the
        host, and on accelerators, which may compile every operation for itself.

        Raises:
            DeviceError: An operation is missing, or memory.
            UsageError: Batch normalisation would have a single value per channel, or the model does
                not take images of the recipe's size.
        """
        quick = self._device.traits.is_host and self._spec.precision.compute == "fp32"
        images, height, width = self._spec.smallest_pass or (0, 0, 0)
        exchanges = self._group is not None and self._spec.sync_batch_norm
        trains = self._training is not None and not exchanges
        ms.set_context(mode=ms.PYNATIVE_MODE)
        try:
            if quick:
                self._try(self._evaluated, 1, self._spec.image_size, training=False)
            if trains and (images == 1 or (quick and images)):
                self._try(self._model, min(images, 2), (height, width), training=True)
        finally:
            self._set_mode()

    def _try(self, net: nn.Cell, images: int, size: tuple[int, int], *, training: bool) -> None:
        """Let black images pass through a net."""
        kept = [(p, p.asnumpy().copy()) for p in running_statistics(net)]
        net.set_train(training)
        if training:
            self._draw(0, images, images)
        black = self._pixels.tensor(np.zeros((images, *size, 3), np.uint8))
        try:
            net(self._pixels.cell(black))
            self._device.synchronize()
            if images == 1 and training:
                self._check_single(None)
        except (RuntimeError, TypeError, ValueError) as error:
            # what cannot be explained is the first step's to raise
            self._explain(error, images, size, training=training)
        finally:
            for parameter, array in kept:
                parameter.set_data(Tensor(array))
            net.set_train(mode=False)

    def _build_training(self, optimizer: nn.Optimizer) -> Training:
        spec, group, average = self._spec, self._group, self._average
        loss = training_loss(spec.loss, spec.num_classes)
        update = Update(
            optimizer,
            self._loss_scale,
            reducer=None if group is None else group.gradient_reducer(optimizer.parameters),
            clip_norm=spec.clip_grad_norm,
            average=None if average is None else average.update,
        )
        forward = Forward(self._pixels.cell, self._model, loss, self._loss_scale)
        return Training(forward, Witness(running_statistics(self._model)), update)

    def _train_step(self, batch: Batch, learning_rate: float) -> Computing[StepResult]:
        """Take one step.

        Raises:
            DataError: A label is not one of the classes.
            DeviceError: The device is out of memory.
            OtherRankError: Another process took no part in the step.
            UsageError: Batch normalisation has a single value per channel.
        """
        training, passes = cast("Training", self._training), list(self._passes(batch))
        self._set_mode()
        rate = Tensor(learning_rate, ms.float32)
        with self._exchanging():
            if len(passes) == 1:
                loss, finite = self._pass(training.step, passes[0], rate)
                losses = [loss]
            else:
                losses = [self._pass(training.accumulate, part)[0] for part in passes]
                finite = training.finish(rate)
        self._steps += 1

        def result() -> StepResult:
            with self._exchanging():
                loss = np.sum([loss.asnumpy() for loss in losses], dtype=np.float32)
                return StepResult(loss=float(loss), skipped=not finite.asnumpy().all())

        return Computing(result)

    def _exchanging(self) -> AbstractContextManager[None]:
        """Return a context in which the failure of another process is said to be one."""
        return contextlib.nullcontext() if self._group is None else self._group.exchanging()

    def _pass(self, cell: nn.Cell, part: Pass, *rate: Tensor) -> tuple[Tensor, ...]:
        """Run one pass, and return what follows the output."""
        labels = self._labels(part.labels)
        self._draw(part.start, len(labels), part.total)
        share = Tensor(part.share, ms.float32)
        images = self._pixels.tensor(part.images)
        _, *results = self._call(cell, images, labels, share, *rate, training=True)
        self._counters.advance()
        if len(labels) == 1:
            self._check_single(part.total)
        return tuple(results)

    def _draw(self, start: int, images: int, share: int) -> None:
        """Draw dropout masks, as a function of the seed, the step and the place in the batch.

        Args:
            start: First image of the pass, among those of this process.
            images: Images of the pass.
            share: Images of the step on this process; the first ranks have the first images.
        """
        rank = 0 if self._group is None else self._group.rank
        key = [self._spec.seed, self._steps]
        counter = [0, 0, rank * share + start, 0]
        random = np.random.Generator(np.random.Philox(key=key, counter=counter))
        for cell in self._dropouts:
            cell.draw(random, images)

    def eval_step(self, batch: Batch) -> Computing[EvalCounts]:
        """Count correct predictions with the evaluation weights; does not wait for the device.

        The loss is plain cross-entropy, without smoothing and auxiliary heads, so that it can be
        compared between recipes. Counts are those of ``runner.session.metrics.count_correct``.
        """
        sums, _ = self._evaluation(batch.images, batch.labels)
        return deferred_counts(lambda: sums.asnumpy().tolist(), len(batch.labels))

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return logits ``[B, K]`` for pixels ``[B, H, W, C]``, with the evaluation weights."""
        _, logits = self._evaluation(images, np.zeros(len(images), np.int64))
        array: NDArray[np.float32] = logits.asnumpy()[: len(images)].copy()
        return array

    def _evaluation(
        self, images: NDArray[np.uint8], labels: NDArray[np.int64]
    ) -> tuple[Tensor, Tensor]:
        """Return counts and logits, of a batch that is filled up to the largest one so far.

        A graph is compiled for every number of images, and the last batch is a smaller one.
        """
        self._set_mode()
        count = len(images)
        size = self._largest[images.shape[1:]] = max(count, self._largest.get(images.shape[1:], 0))
        if count < size:
            images = np.concatenate([images, np.zeros((size - count, *images.shape[1:]), np.uint8)])
            labels = np.concatenate([labels, np.zeros(size - count, np.int64)])
        real = Tensor((np.arange(size) < count).astype(np.float32))
        inputs = self._pixels.tensor(images), self._labels(labels)
        _, sums, logits = self._call(self._evaluate, *inputs, real, training=False)
        return sums, logits

    def _set_mode(self) -> None:
        """Put the process into this engine's mode, in which gradients are made and cells called."""
        ms.set_context(mode=MODES[self._options.mode])

    def _call(self, cell: nn.Cell, images: Tensor, *others: Tensor, training: bool) -> Any:
        """Call a cell; say what is the matter where MindSpore does not.

        Raises:
            DeviceError: The device is out of memory.
            PluginError: The model does not return logits.
        """
        if self._active is not cell:  # walking over all layers in every step is not free
            cell.set_train(training)
            self._active = cell
        count = images.shape[0]
        try:
            results = cell(images, *others)
        except (RuntimeError, TypeError, ValueError) as error:
            has_memory = not WORDING.is_out_of_memory(error)
            if has_memory and is_exchange(error):
                raise
            if has_memory and training in self._unchecked:
                self._check_output_alone(images, training=training)
            self._explain(error, count, self._size(images.shape), training=training)
            raise
        self._check_once(results[0], count, training=training)
        return results

    def _size(self, shape: Sequence[int]) -> Sequence[int]:
        """Return height and width of images as ``_pixels`` makes them."""
        return shape[2:] if isinstance(self._pixels, HostPixels) else shape[1:3]

    def _check_output_alone(self, images: Tensor, *, training: bool) -> None:
        """Check the output of a net when a step has failed, perhaps over its shape."""
        ms.set_context(mode=ms.PYNATIVE_MODE)
        net = self._model if training else self._evaluated
        with contextlib.suppress(RuntimeError, TypeError, ValueError):  # the net's own are raised
            self._check_once(net(self._pixels.cell(images)), images.shape[0], training=training)

    def _check_single(self, images: int | None) -> None:
        """Look for a variance over one value, where a pass had one image; this waits.

        Raises:
            UsageError: Batch normalisation has a single value per channel.
        """
        if any(np.isnan(p.asnumpy()).any() for p in running_statistics(self._model)):
            raise one_value_per_channel(images, self._spec.micro_batch_size)

    def _labels(self, labels: NDArray[np.int64]) -> Tensor:
        check_labels(labels, self._spec.num_classes)
        return Tensor(labels.astype(np.int32))

    def _copy_weights(self, model: nn.Cell) -> dict[str, NDArray[Any]]:
        return copy_weights(model, self._counters)

    def _load_weights(self, model: nn.Cell, weights: Mapping[str, NDArray[Any]]) -> None:
        load_weights(model, weights, self._counters)

    def _own_state(self) -> tuple[dict[str, Mapping[str, NDArray[Any]]], dict[str, Any]]:
        parts: dict[str, Mapping[str, NDArray[Any]]] = {}
        if self._optimizer is not None:
            parts[OPTIMIZER] = optimizer_state(self._optimizer, self._model)
        return parts, {"steps": self._steps}

    def _load_own_state(
        self, parts: Mapping[str, Mapping[str, NDArray[Any]]], values: Mapping[str, Any]
    ) -> None:
        self._steps = values["steps"]
        if self._optimizer is not None:
            load_optimizer_state(self._optimizer, self._model, parts.get(OPTIMIZER, {}))

    def _precision(self) -> dict[str, str]:
        found = super()._precision()
        synchronized = self._group is not None and self._spec.sync_batch_norm
        native = self._device.traits.native_sync_batch_norm
        if "batch_norm" in found and synchronized and not native:
            found["batch_norm"] = "fp32"
        return found

    def _versions(self) -> dict[str, str]:
        return {"mindspore": ms.__version__, "numpy": np.__version__}

    def _trained(self) -> Iterator[tuple[int, str]]:
        for parameter in self._model.trainable_params():
            yield parameter.size, str(parameter.dtype).lower()

    def _describe_optimizer(self) -> Mapping[str, Any] | None:
        return None if self._optimizer is None else describe_optimizer(self._optimizer)

    def _settings(self) -> dict[str, Any]:
        return {
            "group": None if self._group is None else self._group.describe(),
            "mode": self._options.mode,
            "deterministic": _make_deterministic.cache_info().currsize > 0,
            "threads": self._device.settings.get("threads"),
            "adjustments": list(ADJUSTMENTS),
        }


open_engine = MindSporeEngine.open


@functools.cache
def _make_deterministic() -> None:
    """Forbid kernels that add in varying order, in the whole process, which can be done once."""
    ms.set_deterministic(True)

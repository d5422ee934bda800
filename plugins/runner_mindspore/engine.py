"""Training, evaluation and prediction with MindSpore on one device.

Shapes: B images in a batch, H height, W width, C channels, K classes. Images are ``uint8``
``[B, H, W, C]`` in a batch, and normalised ``float32`` ``[B, C, H, W]`` in a net.
"""

from __future__ import annotations

import contextlib
import functools
import platform
from typing import TYPE_CHECKING, cast, final

import numpy as np

from runner.contracts import EngineState, EvalCounts, StepResult
from runner.errors import PluginError
from runner.framework.engine import (
    check_identity,
    one_value_per_channel,
    out_of_memory,
)
from runner.framework.failures import FAILURES, Pass, explain, explain_building
from runner.framework.loss import check_labels
from runner_mindspore.autoload import ADJUSTMENTS, Tensor, ms, nn
from runner_mindspore.batch_norm import synchronize
from runner_mindspore.device import MindSporeDevice
from runner_mindspore.ema import WeightAverage
from runner_mindspore.group import is_exchange
from runner_mindspore.local_statistics import OwnStatistics
from runner_mindspore.losses import check_output, training_loss
from runner_mindspore.messages import WORDING, is_out_of_memory, reason
from runner_mindspore.nets import fresh_net, running_statistics, seeded_dropouts
from runner_mindspore.optimizers import build_optimizer, describe_optimizer
from runner_mindspore.options import MindSporeOptions
from runner_mindspore.pixels import DevicePixels, HostPixels
from runner_mindspore.scaling import loss_scale
from runner_mindspore.state import load_optimizer_state, optimizer_state
from runner_mindspore.steps import Evaluate, Forward, Training, Update, Witness
from runner_mindspore.weights import BatchCounters, copy_weights, load_weights

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from numpy.typing import NDArray

    from runner.contracts import Batch, Device, EngineSpec
    from runner_mindspore.group import MindSporeGroup

OWN = "own/"
"""Begins the names of what each process has of its own, in a state."""
MODES = {"graph": ms.GRAPH_MODE, "pynative": ms.PYNATIVE_MODE}


@final
class DeferredStep:
    """The result of a step, still on the device."""

    def __init__(
        self, losses: Sequence[Tensor], finite: Tensor, group: MindSporeGroup | None
    ) -> None:
        self._losses = losses
        self._finite = finite
        self._group = group

    def read(self) -> StepResult:
        """Wait for the device and return the result.

        Raises:
            OtherRankError: Another process took no part in the step.
        """
        with contextlib.nullcontext() if self._group is None else self._group.exchanging():
            loss = np.sum([loss.asnumpy() for loss in self._losses], dtype=np.float32)
            finite = self._finite.asnumpy().all()
        return StepResult(loss=float(loss), skipped=not finite)


@final
class DeferredCounts:
    """The counts of an evaluation batch, still on the device."""

    def __init__(self, sums: Tensor, count: int) -> None:
        self._sums = sums
        self._count = count

    def read(self) -> EvalCounts:
        """Wait for the device and return the counts."""
        top1, top5, loss_sum = self._sums.asnumpy().tolist()
        return EvalCounts(top1=int(top1), top5=int(top5), loss_sum=loss_sum, count=self._count)


@final
class MindSporeEngine:
    """A model on one device, with its loss and optimizer.

    With several passes per step (``micro_batch_size``) the gradients sum to those of the whole
    batch's mean loss; batch normalisation takes its statistics from each pass.
    """

    def __init__(self, spec: EngineSpec, device: Device) -> None:
        if not isinstance(device, MindSporeDevice):
            raise TypeError(f"expected a device of framework mindspore, found {device!r}")
        options = spec.framework_options
        if not isinstance(options, MindSporeOptions):
            raise TypeError(f"expected MindSporeOptions, found {options!r}")
        device.check_precision(spec.precision)
        if options.deterministic:
            _make_deterministic()
        self._spec = spec
        self._options = options
        self._device = device
        self._group = cast("MindSporeGroup | None", spec.group)
        self._set_mode()
        self._net = fresh_net(spec)
        if self._group is not None:
            self._group.broadcast_in_place(list(self._net.get_parameters()))
        self._counters = BatchCounters(self._net)
        decay = spec.ema_decay
        self._average = None if decay is None else WeightAverage(self._net, decay)
        self._evaluated = self._net if self._average is None else self._average.net
        for net in self._nets():
            device.cast(net, spec.precision)
        if self._group is not None and spec.sync_batch_norm:
            native = device.traits.native_sync_batch_norm
            synchronize(self._net, self._group.world_size, native=native)
        pixels = HostPixels if device.traits.is_host else DevicePixels
        self._pixels = pixels(spec.mean, spec.std)
        self._statistics: OwnStatistics | None = None
        if self._group is not None:
            average = None if self._average is None else self._average.net
            self._statistics = OwnStatistics(self._net, average, self._group)
        self._evaluate = Evaluate(self._pixels.cell, self._evaluated, spec.num_classes)
        self._loss_scale = loss_scale(spec.precision)
        self._optimizer = build_optimizer(spec, self._net)
        self._training = None if self._optimizer is None else self._build_training(self._optimizer)
        self._dropouts = seeded_dropouts(spec, self._net)
        self._steps = 0
        self._active: nn.Cell | None = None
        self._largest: dict[tuple[int, ...], int] = {}
        self._unchecked = {True, False}
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
                self._try(self._net, min(images, 2), (height, width), training=True)
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
            self._explain(error, black.shape, training=training)
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
        forward = Forward(self._pixels.cell, self._net, loss, self._loss_scale)
        return Training(forward, Witness(running_statistics(self._net)), update)

    def _nets(self) -> list[nn.Cell]:
        return [self._net] if self._average is None else [self._net, self._average.net]

    def train_step(self, batch: Batch, learning_rate: float) -> DeferredStep:
        """Take one optimizer step on ``batch``; does not wait for the device.

        Raises:
            DataError: A label is not one of the classes.
            DeviceError: The device is out of memory.
            OtherRankError: Another process took no part in the step.
            UsageError: Batch normalisation has a single value per channel.
        """
        with contextlib.nullcontext() if self._group is None else self._group.exchanging():
            return self._train_step(batch, learning_rate)

    def _train_step(self, batch: Batch, learning_rate: float) -> DeferredStep:
        training, size = self._training, self._spec.micro_batch_size
        if training is None:
            raise ValueError("this engine only evaluates: its spec has no optimizer")
        self._set_mode()
        if self._statistics is not None:
            self._statistics.take_own()
        rate = Tensor(learning_rate, ms.float32)
        if len(batch.labels) <= size:
            loss, finite = self._pass(training.step, batch, 0, rate)
            losses = [loss]
        else:
            starts = range(0, len(batch.labels), size)
            losses = [self._pass(training.accumulate, batch, start)[0] for start in starts]
            finite = training.finish(rate)
        self._steps += 1
        return DeferredStep(losses, finite, self._group)

    def _pass(self, cell: nn.Cell, batch: Batch, start: int, *rate: Tensor) -> tuple[Tensor, ...]:
        """Run one pass, over the images from ``start`` on, and return what follows the output."""
        part = slice(start, start + self._spec.micro_batch_size)
        labels = self._labels(batch.labels[part])
        self._draw(start, len(labels), len(batch.labels))
        share = Tensor(len(labels) / len(batch.labels), ms.float32)
        images = self._pixels.tensor(batch.images[part])
        _, *results = self._call(cell, images, labels, share, *rate, training=True)
        self._counters.advance()
        if len(labels) == 1:
            self._check_single(len(batch.labels))
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

    def eval_step(self, batch: Batch) -> DeferredCounts:
        """Count correct predictions with the evaluation weights; does not wait for the device.

        The loss is plain cross-entropy, without smoothing and auxiliary heads, so that it can be
        compared between recipes. Counts are those of ``runner.session.metrics.count_correct``.
        """
        sums, _ = self._evaluation(batch.images, batch.labels)
        return DeferredCounts(sums, len(batch.labels))

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
            if is_out_of_memory(error):
                setting = "train.micro_batch_size" if training else "eval.batch_size"
                name = self._device.name
                raise out_of_memory(reason(error), name, count, setting) from error
            if training in self._unchecked and not is_exchange(error):
                self._check_output_alone(images, training=training)
            if not is_exchange(error):
                self._explain(error, images.shape, training=training)
            raise
        self._check_once(results[0], count, training=training)
        return results

    def _explain(self, error: Exception, shape: Sequence[int], *, training: bool) -> None:
        """Raise what a failure means, if that is known."""
        height, width = shape[2:] if isinstance(self._pixels, HostPixels) else shape[1:3]
        done = Pass(images=shape[0], height=height, width=width, training=training)
        found = explain(error, WORDING, self._spec, self._device.name, done)
        if found is not None:
            raise found from error

    def _check_once(self, output: Any, images: int, *, training: bool) -> None:
        """Check the first output of each mode; a model may return other heads in training."""
        if training in self._unchecked:
            check_output(output, self._spec.model.name, images, self._spec.num_classes)
            self._unchecked.remove(training)

    def _check_output_alone(self, images: Tensor, *, training: bool) -> None:
        """Check the output of a net when a step has failed, perhaps over its shape."""
        ms.set_context(mode=ms.PYNATIVE_MODE)
        net = self._net if training else self._evaluated
        with contextlib.suppress(RuntimeError, TypeError, ValueError):  # the net's own are raised
            self._check_once(net(self._pixels.cell(images)), images.shape[0], training=training)

    def _check_single(self, images: int | None) -> None:
        """Look for a variance over one value, where a pass had one image; this waits.

        Raises:
            UsageError: Batch normalisation has a single value per channel.
        """
        if any(np.isnan(p.asnumpy()).any() for p in running_statistics(self._net)):
            raise one_value_per_channel(images, self._spec.micro_batch_size)

    def _labels(self, labels: NDArray[np.int64]) -> Tensor:
        check_labels(labels, self._spec.num_classes)
        return Tensor(labels.astype(np.int32))

    def weights(self) -> dict[str, NDArray[Any]]:
        """Copy the model's weights and buffers to the host."""
        return copy_weights(self._net, self._counters)

    def evaluation_weights(self) -> dict[str, NDArray[Any]]:
        """Copy the weights that evaluation uses (the EMA when there is one)."""
        return copy_weights(self._evaluated, self._counters)

    def load_weights(self, weights: Mapping[str, NDArray[Any]]) -> None:
        """Replace all weights and buffers; an EMA begins anew from them."""
        for net in self._nets():
            load_weights(net, weights, self._counters)
        if self._statistics is not None:
            self._statistics.forget()

    def state(self) -> EngineState:
        """Copy to the host everything else that the next step depends on."""
        tensors: dict[str, NDArray[Any]] = {}
        if self._optimizer is not None:
            arrays = optimizer_state(self._optimizer, self._net)
            tensors |= {f"optimizer/{name}": array for name, array in arrays.items()}
        if self._average is not None:
            averages = copy_weights(self._average.net, self._counters)
            tensors |= {f"ema/{name}": array for name, array in averages.items()}
        if self._statistics is not None:
            rows = self._statistics.state()
            tensors |= {f"{OWN}{name}": array for name, array in rows.items()}
        values = {"loss_scale": self._loss_scale.state(), "steps": self._steps}
        return EngineState(tensors=tensors, values={**self._identity(), **values})

    def load_state(self, state: EngineState) -> None:
        """Continue exactly where ``state`` was taken."""
        check_identity(self._identity(), state.values)
        self._loss_scale.load_state(state.values["loss_scale"])
        self._steps = state.values["steps"]
        if self._optimizer is not None:
            arrays = _under("optimizer/", state.tensors)
            load_optimizer_state(self._optimizer, self._net, arrays)
        if self._average is not None:
            load_weights(self._average.net, _under("ema/", state.tensors), self._counters)
        if self._statistics is not None:
            self._statistics.load_state(_under(OWN, state.tensors))

    def _identity(self) -> dict[str, Any]:
        """Return what must be the same in a run that continues another."""
        optimizer = self._optimizer
        return {
            "framework": "mindspore",
            "device": self._device.name,
            **self._precision(),
            "optimizer": None if optimizer is None else type(optimizer).__name__,
            "ema": self._average is not None,
        }

    def _precision(self) -> dict[str, str]:
        section = self._spec.precision
        if section.compute == "fp32":
            return {"compute": "fp32"}
        batch_norm = section.effective_batch_norm
        synchronized = self._group is not None and self._spec.sync_batch_norm
        if synchronized and not self._device.traits.native_sync_batch_norm:
            batch_norm = "fp32"
        return {"compute": section.compute, "level": section.level, "batch_norm": batch_norm}

    def agree(self) -> None:
        """Have the mean of all processes' running statistics, and know what each has of its own."""
        if self._statistics is not None and not self._statistics.are_shared:
            self._statistics.share()

    def synchronize(self) -> None:
        """Wait until the device has done everything it was asked to do."""
        self._device.synchronize()

    def report(self) -> dict[str, Any]:
        """Return what is in effect (JSON)."""
        parameters = self._net.trainable_params()
        optimizer = self._optimizer
        return {
            "framework": "mindspore",
            "versions": {
                "python": platform.python_version(),
                "mindspore": ms.__version__,
                "numpy": np.__version__,
            },
            "device": str(self._device.describe()["device"]),
            "parameters": sum(p.size for p in parameters),
            "parameter_type": sorted({str(p.dtype).lower() for p in parameters}),
            **self._precision(),
            "loss_scale": dict(self._loss_scale.state()),
            "mode": self._options.mode,
            "deterministic": _make_deterministic.cache_info().currsize > 0,
            "threads": self._device.settings.get("threads"),
            "micro_batch_size": self._spec.micro_batch_size,
            "optimizer": None if optimizer is None else describe_optimizer(optimizer),
            "ema_decay": self._spec.ema_decay,
            "sync_batch_norm": self._spec.sync_batch_norm and self._group is not None,
            "group": None if self._group is None else self._group.describe(),
            "adjustments": list(ADJUSTMENTS),
        }


def open_engine(spec: EngineSpec, device: Device) -> MindSporeEngine:
    """Build an engine.

    Raises:
        DeviceError: There is no memory for it.
    """
    try:
        return MindSporeEngine(spec, device)
    except (*FAILURES, PluginError) as error:
        found = explain_building(error.__cause__ or error, WORDING, spec, device.name)
        if found is None:
            raise
        raise found from error


@functools.cache
def _make_deterministic() -> None:
    """Forbid kernels that add in varying order, in the whole process, which can be done once."""
    ms.set_deterministic(True)


def _under(prefix: str, tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

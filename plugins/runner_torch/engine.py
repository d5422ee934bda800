"""Training, evaluation and prediction with PyTorch on one device.

Shapes: B images in a batch, H height, W width, C channels, K classes. Images are ``uint8``
``[B, H, W, C]`` until they are on the device, and float ``[B, C, H, W]`` from there on.
"""

from __future__ import annotations

import contextlib
import platform
from importlib import metadata
from typing import TYPE_CHECKING, cast, final

import numpy as np

from runner.contracts import EngineState
from runner.errors import DeviceError, PluginError
from runner.framework.engine import (
    build_model,
    check_identity,
    one_value_per_channel,
    out_of_memory,
)
from runner.framework.failures import FAILURES, Pass, explain, explain_building
from runner_torch.autoload import torch
from runner_torch.batch_norm import synchronize
from runner_torch.deferred_counts import DeferredCounts, DeferredStep, count
from runner_torch.device import TorchDevice, set_deterministic
from runner_torch.ema import WeightAverage
from runner_torch.group import check_all_used
from runner_torch.local_statistics import OwnStatistics
from runner_torch.losses import check_output, main_logits, training_loss
from runner_torch.messages import ONE_VALUE, WORDING, reason
from runner_torch.optimizers import describe_optimizer, parameter_groups
from runner_torch.options import TorchOptions
from runner_torch.pixels import Pixels
from runner_torch.precision import autocast, casts_whole_network, check_compiled, prepare
from runner_torch.rehearsal import head, unchanged
from runner_torch.scaling import loss_scale
from runner_torch.state import load_optimizer_state, optimizer_state
from runner_torch.weights import array_of, copy_weights, load_weights, tensor_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager
    from typing import Any

    from numpy.typing import NDArray

    from runner.contracts import Batch, Device, EngineSpec
    from runner_torch.group import TorchGroup

OWN = "own/"
"""Begins the names of what each process has of its own, in a state."""


@final
class TorchEngine:
    """A model on one device, with its loss and optimizer.

    With several passes per step (``micro_batch_size``) the gradients sum to those of the whole
    batch's mean loss; batch normalisation takes its statistics from each pass.
    """

    def __init__(self, spec: EngineSpec, device: Device) -> None:
        if not isinstance(device, TorchDevice):
            raise TypeError(f"expected a device of framework torch, found {device!r}")
        options = spec.framework_options
        if not isinstance(options, TorchOptions):
            raise TypeError(f"expected TorchOptions, found {options!r}")
        device.check_precision(spec.precision)
        if options.compile:
            check_compiled(spec.precision)
        set_deterministic(enabled=options.deterministic)
        self._spec = spec
        self._options = options
        self._device = device
        self._group = cast("TorchGroup | None", spec.group)
        self._memory_format = _memory_format(options, device)
        self._module = self._build_module()
        self._training = self._module.training
        self._loss = training_loss(spec.loss, spec.num_classes)
        self._loss_scale = loss_scale(spec.precision, device)
        self._optimizer = _build_optimizer(spec, self._module)
        decay = spec.ema_decay
        self._average = None if decay is None else WeightAverage(self._module, decay)
        self._evaluated = self._module if self._average is None else self._average.module
        self._network = self._prepare(self._module)
        self._evaluated_network = (
            self._network if self._average is None else self._prepare(self._evaluated)
        )
        self._parallel = None
        if self._group is not None and self._optimizer is not None:
            self._parallel = self._group.data_parallel(self._network)
        self._statistics: OwnStatistics | None = None
        if self._group is not None:
            average = None if self._average is None else self._average.module
            self._statistics = OwnStatistics(self._module, average, self._group)
        self._rehearsed = False
        self._pixels = Pixels(spec, device, self._memory_format)
        self._unchecked = {True, False}
        self._random_states: dict[str, torch.Tensor] = {}
        self._check_image_size()
        self._check_smallest_pass()

    def _build_module(self) -> torch.nn.Module:
        """Build the model, with equal weights and different random numbers on all processes."""
        spec, group = self._spec, self._group
        torch.manual_seed(spec.seed)
        module = build_model(spec, torch.nn.Module).to(self._device.torch_device)
        if group is not None:
            group.broadcast_in_place(module)
            if spec.sync_batch_norm:
                native = self._device.traits.native_sync_batch_norm
                module = synchronize(module, native=native)
            if group.rank:
                sequence = np.random.SeedSequence([spec.seed, group.rank])
                torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0]))
        return module.to(memory_format=self._memory_format)

    def _check_smallest_pass(self) -> None:
        """Try one or two images as training will have them; that leaves nothing behind.

        Raises:
            DeviceError: An operation is missing, or memory.
            UsageError: Batch normalisation would have a single value per channel, or the model does
                not take images of the size that training gives it.
        """
        images, height, width = self._spec.smallest_pass or (0, 0, 0)
        exchanges = self._group is not None and self._spec.sync_batch_norm
        if not images or self._optimizer is None or exchanges:  # one that fails lets others wait
            return
        self._set_training(enabled=True)
        black = np.zeros((min(images, 2), height, width, 3), np.uint8)
        try:
            with unchanged(self._module, self._device), torch.no_grad(), self._autocast():
                self._network.forward(self._pixels.images(black))
        except FAILURES as error:
            if str(error).startswith(ONE_VALUE):
                raise one_value_per_channel(None, self._spec.micro_batch_size) from error
            # what cannot be explained is the first step's to raise
            self._explain(error, len(black), black.shape, training=True)

    def _prepare(self, module: torch.nn.Module) -> torch.nn.Module:
        network = prepare(module, self._spec.precision)
        if self._options.compile:
            network.compile()  # in place, so that names and weights stay as they are
        return network

    def train_step(self, batch: Batch, learning_rate: float) -> DeferredStep:
        """Take one optimizer step on ``batch``; does not wait for the device.

        Raises:
            DeviceError: The device is out of memory.
            OtherRankError: A process of the group is gone.
            UsageError: Batch normalisation has a single value per channel.
        """
        images, size = len(batch.labels), self._spec.micro_batch_size
        try:
            with contextlib.nullcontext() if self._group is None else self._group.exchanging():
                return self._train_step(batch, learning_rate)
        except torch.OutOfMemoryError as error:
            setting = "train.micro_batch_size"
            raise out_of_memory(
                reason(error), self._device.name, min(images, size), setting
            ) from error
        except FAILURES as error:
            if str(error).startswith(ONE_VALUE):
                raise one_value_per_channel(images, size) from error
            self._explain(error, min(images, size), batch.images.shape, training=True)
            raise

    def _train_step(self, batch: Batch, learning_rate: float) -> DeferredStep:
        optimizer = self._optimizer
        if optimizer is None:
            raise ValueError("this engine only evaluates: its spec has no optimizer")
        self._set_training(enabled=True)
        if self._statistics is not None:
            self._statistics.take_own()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        optimizer.zero_grad(set_to_none=True)
        if self._parallel is not None and not self._rehearsed:
            self._rehearse(batch)
        loss = self._backward(batch)
        self._loss_scale.unscale(optimizer)
        if self._spec.clip_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(self._module.parameters(), self._spec.clip_grad_norm)
        skipped = self._loss_scale.step(optimizer)
        if self._average is not None:
            self._average.update()
        return DeferredStep(loss, skipped)

    def _rehearse(self, batch: Batch) -> None:
        """Take a pass that leaves nothing behind but the order in which gradients are exchanged.

        Torch chooses it anew after the first pass, as they come. More than two are added in another
        order then, and a run that continues has a first pass where an undisturbed one has none.
        """
        with unchanged(self._module, self._device):
            self._backward(head(batch, self._spec.micro_batch_size))
            check_all_used(self._module, self._spec.model.name)
        self._rehearsed = True

    def _backward(self, batch: Batch) -> torch.Tensor:
        total, size = len(batch.labels), self._spec.micro_batch_size
        losses: list[torch.Tensor] = []
        for start in range(0, total, size):
            images = self._pixels.images(batch.images[start : start + size])
            labels = self._pixels.to_device(batch.labels[start : start + size])
            with self._exchange(last=start + size >= total):
                with self._autocast():
                    output = (self._parallel or self._network)(images)
                self._check_once(output, len(labels), training=True)
                loss = self._loss(output, labels)
                if len(labels) < total:
                    loss = loss * (len(labels) / total)
                self._loss_scale.scale(loss).backward()  # type: ignore[no-untyped-call]  # torch
            losses.append(loss.detach())
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    def _exchange(self, *, last: bool) -> AbstractContextManager[object]:
        """Return a context for a pass, after the last of which all processes have the gradients."""
        if self._parallel is None:
            return contextlib.nullcontext()
        return self._parallel.exchange(last=last)

    def _autocast(self) -> AbstractContextManager[object]:
        return autocast(self._device.traits.kind, self._spec.precision)

    def eval_step(self, batch: Batch) -> DeferredCounts:
        """Count correct predictions with the evaluation weights; does not wait for the device.

        The loss is plain cross-entropy, without smoothing and auxiliary heads, so that it can be
        compared between recipes. Counts are those of ``runner.session.metrics.count_correct``.
        """
        logits = self._logits(batch.images)
        with torch.inference_mode():
            return count(logits, self._pixels.to_device(batch.labels))

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return logits ``[B, K]`` for pixels ``[B, H, W, C]``, with the evaluation weights."""
        return array_of(self._logits(images))

    def _logits(self, images: NDArray[np.uint8]) -> torch.Tensor:
        if self._average is None:
            self._set_training(enabled=False)
        try:
            with torch.inference_mode(), self._autocast():
                output = self._evaluated_network(self._pixels.images(images))
                self._check_once(output, len(images), training=False)
                return main_logits(output).float()
        except torch.OutOfMemoryError as error:
            name, count = self._device.name, len(images)
            raise out_of_memory(reason(error), name, count, "eval.batch_size") from error
        except FAILURES as error:
            self._explain(error, len(images), images.shape, training=False)
            raise

    def _explain(
        self, error: Exception, images: int, shape: tuple[int, ...], *, training: bool
    ) -> None:
        """Raise what a failure means, if that is known."""
        done = Pass(images=images, height=shape[1], width=shape[2], training=training)
        found = explain(error, WORDING, self._spec, self._device.name, done)
        if found is not None:
            raise found from error

    def _check_image_size(self) -> None:
        """Try one empty image, before anything is trained or written.

        Raises:
            DeviceError: An operation is missing, or memory.
            UsageError: The model does not take images of the recipe's size.
        """
        pixels = np.zeros((1, *self._spec.image_size, 3), np.uint8)
        self._set_training(enabled=False)
        self._evaluated_network.eval()
        try:
            with torch.inference_mode(), self._autocast():
                # not by a call, which would compile a graph for one image
                self._evaluated_network.forward(self._pixels.images(pixels))
        except FAILURES as error:
            self._explain(error, 1, pixels.shape, training=False)
            raise

    def _check_once(self, output: Any, images: int, *, training: bool) -> None:
        """Check the first output of each mode; a model may return other heads in training."""
        if training in self._unchecked:
            check_output(output, self._spec.model.name, images, self._spec.num_classes)
            self._unchecked.remove(training)

    def _set_training(self, *, enabled: bool) -> None:
        if self._training != enabled:  # walking over all layers in every step is not free
            self._module.train(enabled)
            self._training = enabled

    def weights(self) -> dict[str, NDArray[Any]]:
        """Copy the model's weights and buffers to the host."""
        return copy_weights(self._module)

    def evaluation_weights(self) -> dict[str, NDArray[Any]]:
        """Copy the weights that evaluation uses (the EMA when there is one)."""
        return copy_weights(self._evaluated)

    def load_weights(self, weights: Mapping[str, NDArray[Any]]) -> None:
        """Replace all weights and buffers; an EMA begins anew from them."""
        load_weights(self._module, weights)
        if self._average is not None:
            load_weights(self._average.module, weights)
        if self._statistics is not None:
            self._statistics.forget()

    def state(self) -> EngineState:
        """Copy to the host everything else that the next step depends on."""
        tensors = {
            f"random/{kind}": array_of(state) for kind, state in self._all_random_states().items()
        }
        values: dict[str, Any] = {**self._identity(), "loss_scale": self._loss_scale.state()}
        if self._optimizer is not None:
            arrays, values["slots"] = optimizer_state(self._optimizer, self._module)
            tensors |= {f"optimizer/{name}": array for name, array in arrays.items()}
        if self._average is not None:
            averages = copy_weights(self._average.module)
            tensors |= {f"ema/{name}": array for name, array in averages.items()}
        if self._statistics is not None:
            rows = self._statistics.state()
            tensors |= {f"{OWN}{name}": array for name, array in rows.items()}
        return EngineState(tensors=tensors, values=values)

    def load_state(self, state: EngineState) -> None:
        """Continue exactly where ``state`` was taken."""
        check_identity(self._identity(), state.values)
        self._loss_scale.load_state(state.values["loss_scale"])
        if self._optimizer is not None:
            arrays = _under("optimizer/", state.tensors)
            load_optimizer_state(self._optimizer, self._module, arrays, state.values["slots"])
        if self._average is not None:
            load_weights(self._average.module, _under("ema/", state.tensors))
        if self._statistics is not None:
            self._statistics.load_state(_under(OWN, state.tensors))
        self._load_random_states(_under("random/", state.tensors))

    def _all_random_states(self) -> dict[str, torch.Tensor]:
        """Return the states of this process, or a row of each process."""
        return self._device.random_states() if self._group is None else self._random_states

    def _load_random_states(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Put back this process's states, unless the run had fewer processes and it has none."""
        rank = 0 if self._group is None else self._group.rank
        rows = {kind: np.atleast_2d(array) for kind, array in arrays.items()}
        if all(rank < len(row) for row in rows.values()):
            self._device.set_random_states({k: tensor_of(row[rank]) for k, row in rows.items()})

    def _identity(self) -> dict[str, Any]:
        """Return what must be the same in a run that continues another."""
        optimizer, section = self._optimizer, self._spec.precision
        casts = casts_whole_network(section)
        return {
            "framework": "torch",
            "device": self._device.name,
            **(self._precision() if casts else {"compute": section.compute}),
            "optimizer": None if optimizer is None else type(optimizer).__name__,
            "ema": self._average is not None,
        }

    def _precision(self) -> dict[str, str]:
        section = self._spec.precision
        if section.compute == "fp32":
            return {"compute": "fp32"}
        batch_norm = section.effective_batch_norm
        return {"compute": section.compute, "level": section.level, "batch_norm": batch_norm}

    def agree(self) -> None:
        """Have the mean of all processes' running statistics, and know what each has of its own."""
        if self._group is None or self._statistics is None or self._statistics.are_shared:
            return
        self._statistics.share()
        states = self._device.random_states()
        self._random_states = {kind: self._group.gather(s) for kind, s in states.items()}

    def synchronize(self) -> None:
        """Wait until the device has done everything it was asked to do."""
        self._device.synchronize()

    def report(self) -> dict[str, Any]:
        """Return what is in effect (JSON)."""
        parameters = [p for p in self._module.parameters() if p.requires_grad]
        optimizer = self._optimizer
        return {
            "framework": "torch",
            "versions": {
                "python": platform.python_version(),
                "torch": str(torch.__version__),
                "torchvision": metadata.version("torchvision"),
            },
            "device": str(self._device.torch_device),
            "parameters": sum(p.numel() for p in parameters),
            "parameter_type": sorted({str(p.dtype).removeprefix("torch.") for p in parameters}),
            **self._precision(),
            "loss_scale": dict(self._loss_scale.state()),
            "memory_format": str(self._memory_format).removeprefix("torch."),
            "compile": self._options.compile,
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "threads": torch.get_num_threads(),
            "micro_batch_size": self._spec.micro_batch_size,
            "optimizer": None if optimizer is None else describe_optimizer(optimizer),
            "ema_decay": self._spec.ema_decay,
            "sync_batch_norm": self._spec.sync_batch_norm and self._group is not None,
            "group": None if self._group is None else self._group.describe(),
        }


def open_engine(spec: EngineSpec, device: Device) -> TorchEngine:
    """Build an engine.

    Raises:
        DeviceError: There is no memory for it.
    """
    try:
        return TorchEngine(spec, device)
    except (*FAILURES, PluginError) as error:
        found = explain_building(error.__cause__ or error, WORDING, spec, device.name)
        if found is None:
            raise
        raise found from error


def _build_optimizer(spec: EngineSpec, module: torch.nn.Module) -> torch.optim.Optimizer | None:
    if spec.optimizer is None:
        return None
    groups = parameter_groups(module, spec.weight_decay, spec.no_weight_decay)
    # every step sets its own learning rate
    optimizer: torch.optim.Optimizer = spec.optimizer.build(groups, spec.optimizer_options, 0.0)
    return optimizer


def _memory_format(options: TorchOptions, device: TorchDevice) -> torch.memory_format:
    gains = device.traits.channels_last
    if options.memory_format == "channels_last" and not gains:
        raise DeviceError(
            f"device {device.name} does not support channels-last tensors; set "
            "framework.memory_format to auto or contiguous"
        )
    if options.memory_format == "contiguous" or not gains:
        return torch.contiguous_format
    return torch.channels_last


def _under(prefix: str, tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

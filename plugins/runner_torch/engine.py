"""Training, evaluation and prediction with PyTorch on one device.

Shapes: B images in a batch, H height, W width, C channels, K classes. Images are ``uint8``
``[B, H, W, C]`` until they are on the device, and float ``[B, C, H, W]`` from there on.
"""

from __future__ import annotations

import contextlib
from importlib import metadata
from typing import TYPE_CHECKING, cast, final

import numpy as np

from runner.contracts import StepResult
from runner.errors import DeviceError
from runner.framework.deferred import Computing, deferred_counts
from runner.framework.engine import OPTIMIZER, EngineBase, build_model
from runner.framework.failures import FAILURES, one_value_per_channel
from runner_torch.autoload import torch
from runner_torch.batch_norm import synchronize
from runner_torch.counts import count
from runner_torch.device import TorchDevice, set_deterministic
from runner_torch.ema import WeightAverage
from runner_torch.group import check_all_used
from runner_torch.losses import main_logits, training_loss
from runner_torch.messages import ONE_VALUE, WORDING
from runner_torch.optimizers import describe_optimizer, parameter_groups
from runner_torch.options import TorchOptions
from runner_torch.own_statistics import TorchStatistics
from runner_torch.pixels import Pixels
from runner_torch.precision import autocast, casts_whole_network, check_compiled, prepare
from runner_torch.rehearsal import head, unchanged
from runner_torch.scaling import loss_scale
from runner_torch.state import load_optimizer_state, optimizer_state
from runner_torch.weights import array_of, copy_weights, load_weights, tensor_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import AbstractContextManager
    from typing import Any

    from numpy.typing import NDArray

    from runner.contracts import Batch, Device, EvalCounts
    from runner.entries import EngineSpec
    from runner_torch.group import TorchGroup
    from runner_torch.scaling import LossScale

RANDOM = "random"
"""The part of a state that holds random states."""


@final
class TorchEngine(EngineBase["torch.nn.Module", TorchDevice, TorchOptions]):
    """A model on one device, with its loss and optimizer.

    With several passes per step (``micro_batch_size``) the gradients sum to those of the whole
    batch's mean loss; batch normalisation takes its statistics from each pass.
    """

    framework = "torch"
    wording = WORDING
    tensor_type = torch.Tensor
    device_type = TorchDevice
    options_type = TorchOptions

    _average: WeightAverage | None
    _optimizer: torch.optim.Optimizer | None
    _loss_scale: LossScale

    def __init__(self, spec: EngineSpec, device: Device) -> None:
        super().__init__(spec, device)
        self._device.check_precision(spec.precision)
        if self._options.compile:
            check_compiled(spec.precision)
        set_deterministic(enabled=self._options.deterministic)
        self._group = cast("TorchGroup | None", spec.group)
        self._memory_format = _memory_format(self._options, self._device)
        self._model = self._build_model()
        self._training = self._model.training
        self._loss = training_loss(spec.loss, spec.num_classes)
        self._loss_scale = loss_scale(spec.precision, self._device)
        self._optimizer = _build_optimizer(spec, self._model)
        decay = spec.ema_decay
        self._average = None if decay is None else WeightAverage(self._model, decay)
        self._network = self._prepare(self._model)
        self._evaluated_network = (
            self._network if self._average is None else self._prepare(self._evaluated)
        )
        self._parallel = None
        if self._group is not None and self._optimizer is not None:
            self._parallel = self._group.data_parallel(self._network)
        if self._group is not None:
            self._statistics = TorchStatistics(self._models(), self._group)
        self._rehearsed = False
        self._pixels = Pixels(spec, self._device, self._memory_format)
        self._random_states: dict[str, torch.Tensor] = {}
        self._check_image_size()
        self._check_smallest_pass()

    def _build_model(self) -> torch.nn.Module:
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
            with unchanged(self._model, self._device), torch.no_grad(), self._autocast():
                self._network.forward(self._pixels.images(black))
        except FAILURES as error:
            if str(error).startswith(ONE_VALUE):
                raise one_value_per_channel(None, self._spec.micro_batch_size) from error
            # what cannot be explained is the first step's to raise
            self._explain(error, len(black), (height, width), training=True)

    def _prepare(self, module: torch.nn.Module) -> torch.nn.Module:
        network = prepare(module, self._spec.precision)
        if self._options.compile:
            network.compile()  # in place, so that names and weights stay as they are
        return network

    def _train_step(self, batch: Batch, learning_rate: float) -> Computing[StepResult]:
        """Take one step.

        Raises:
            DeviceError: The device is out of memory.
            OtherRankError: A process of the group is gone.
            UsageError: Batch normalisation has a single value per channel.
        """
        images, size = len(batch.labels), self._spec.micro_batch_size
        try:
            with contextlib.nullcontext() if self._group is None else self._group.exchanging():
                loss, skipped = self._update(batch, learning_rate)
        except FAILURES as error:
            if str(error).startswith(ONE_VALUE):
                raise one_value_per_channel(images, size) from error
            self._explain(error, min(images, size), batch.images.shape[1:3], training=True)
            raise
        return Computing(
            lambda: StepResult(loss=float(loss), skipped=skipped is not None and bool(skipped))
        )

    def _update(
        self, batch: Batch, learning_rate: float
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Update the weights; return the loss, and whether the update was skipped."""
        optimizer = cast("torch.optim.Optimizer", self._optimizer)
        self._set_training(enabled=True)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        optimizer.zero_grad(set_to_none=True)
        if self._parallel is not None and not self._rehearsed:
            self._rehearse(batch)
        loss = self._backward(batch)
        self._loss_scale.unscale(optimizer)
        if self._spec.clip_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(self._model.parameters(), self._spec.clip_grad_norm)
        skipped = self._loss_scale.step(optimizer)
        if self._average is not None:
            self._average.update()
        return loss, skipped

    def _rehearse(self, batch: Batch) -> None:
        """Take a pass that leaves nothing behind but the order in which gradients are exchanged.

        Torch chooses it anew after the first pass, as they come. More than two are added in another
        order then, and a run that continues has a first pass where an undisturbed one has none.
        """
        with unchanged(self._model, self._device):
            self._backward(head(batch, self._spec.micro_batch_size))
            check_all_used(self._model, self._spec.model.name)
        self._rehearsed = True

    def _backward(self, batch: Batch) -> torch.Tensor:
        losses: list[torch.Tensor] = []
        for part in self._passes(batch):
            images, labels = self._pixels.images(part.images), self._pixels.to_device(part.labels)
            with self._exchange(last=part.is_last):
                with self._autocast():
                    output = (self._parallel or self._network)(images)
                self._check_once(output, len(labels), training=True)
                loss = self._loss(output, labels)
                if part.share < 1:
                    loss = loss * part.share
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

    def eval_step(self, batch: Batch) -> Computing[EvalCounts]:
        """Count correct predictions with the evaluation weights; does not wait for the device.

        The loss is plain cross-entropy, without smoothing and auxiliary heads, so that it can be
        compared between recipes. Counts are those of ``runner.session.metrics.count_correct``.
        """
        logits = self._logits(batch.images)
        with torch.inference_mode():  # for the copies of both, too
            sums = count(logits, self._pixels.to_device(batch.labels))
        return deferred_counts(lambda: sums.cpu().tolist(), len(batch.labels))

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
        except FAILURES as error:
            self._explain(error, len(images), images.shape[1:3], training=False)
            raise

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
            self._explain(error, 1, pixels.shape[1:3], training=False)
            raise

    def _set_training(self, *, enabled: bool) -> None:
        if self._training != enabled:  # walking over all layers in every step is not free
            self._model.train(enabled)
            self._training = enabled

    def _copy_weights(self, model: torch.nn.Module) -> dict[str, NDArray[Any]]:
        return copy_weights(model)

    def _load_weights(self, model: torch.nn.Module, weights: Mapping[str, NDArray[Any]]) -> None:
        load_weights(model, weights)

    def _own_state(self) -> tuple[dict[str, Mapping[str, NDArray[Any]]], dict[str, Any]]:
        states = self._all_random_states().items()
        random = {kind: array_of(state) for kind, state in states}
        if self._optimizer is None:
            return {RANDOM: random}, {}
        arrays, slots = optimizer_state(self._optimizer, self._model)
        return {RANDOM: random, OPTIMIZER: arrays}, {"slots": slots}

    def _load_own_state(
        self, parts: Mapping[str, Mapping[str, NDArray[Any]]], values: Mapping[str, Any]
    ) -> None:
        if self._optimizer is not None:
            arrays = parts.get(OPTIMIZER, {})
            load_optimizer_state(self._optimizer, self._model, arrays, values["slots"])
        self._load_random_states(parts.get(RANDOM, {}))

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
        section, identity = self._spec.precision, super()._identity()
        if not casts_whole_network(section):  # autocast, where these change nothing
            identity = {k: v for k, v in identity.items() if k not in {"level", "batch_norm"}}
        return identity

    def agree(self) -> None:
        """Have the mean of all processes' running statistics, and know what each has of its own."""
        if self._group is None or self._statistics is None or self._statistics.are_shared:
            return
        super().agree()
        states = self._device.random_states()
        self._random_states = {kind: self._group.gather(s) for kind, s in states.items()}

    def _versions(self) -> dict[str, str]:
        return {"torch": str(torch.__version__), "torchvision": metadata.version("torchvision")}

    def _trained(self) -> Iterator[tuple[int, str]]:
        for parameter in self._model.parameters():
            if parameter.requires_grad:
                yield parameter.numel(), str(parameter.dtype).removeprefix("torch.")

    def _describe_optimizer(self) -> Mapping[str, Any] | None:
        return None if self._optimizer is None else describe_optimizer(self._optimizer)

    def _settings(self) -> dict[str, Any]:
        return {
            "group": None if self._group is None else self._group.describe(),
            "memory_format": str(self._memory_format).removeprefix("torch."),
            "compile": self._options.compile,
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "threads": torch.get_num_threads(),
        }


open_engine = TorchEngine.open


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

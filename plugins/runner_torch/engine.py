"""Training, evaluation and prediction with PyTorch on one device.

Shapes: B images in a batch, H height, W width, C channels, K classes. Images are ``uint8``
``[B, H, W, C]`` until they are on the device, and float ``[B, C, H, W]`` from there on.
"""

from __future__ import annotations

import os
import platform
from importlib import metadata
from typing import TYPE_CHECKING, final

from runner.contracts import EngineState, EvalCounts, StepResult
from runner.errors import DeviceError
from runner.framework.engine import (
    build_model,
    check_identity,
    one_value_per_channel,
    out_of_memory,
)
from runner_torch.autoload import torch
from runner_torch.device import TorchDevice
from runner_torch.ema import WeightAverage
from runner_torch.losses import check_output, main_logits, training_loss
from runner_torch.messages import ONE_VALUE, reason
from runner_torch.optimizers import describe_optimizer, parameter_groups
from runner_torch.options import TorchOptions
from runner_torch.scaling import loss_scale
from runner_torch.state import load_optimizer_state, optimizer_state
from runner_torch.weights import array_of, copy_weights, load_weights, tensor_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    import numpy as np
    from numpy.typing import NDArray

    from runner.contracts import Batch, Device, EngineSpec


@final
class DeferredStep:
    """The result of a step, still on the device."""

    def __init__(self, loss: torch.Tensor, skipped: torch.Tensor | None) -> None:
        self._loss = loss
        self._skipped = skipped

    def read(self) -> StepResult:
        """Wait for the device and return the result."""
        skipped = self._skipped is not None and bool(self._skipped)
        return StepResult(loss=float(self._loss), skipped=skipped)


@final
class DeferredCounts:
    """The counts of an evaluation batch, still on the device."""

    def __init__(self, sums: torch.Tensor, count: int) -> None:
        self._sums = sums
        self._count = count

    def read(self) -> EvalCounts:
        """Wait for the device and return the counts."""
        top1, top5, loss_sum = self._sums.cpu().tolist()
        return EvalCounts(top1=int(top1), top5=int(top5), loss_sum=loss_sum, count=self._count)


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
        _set_deterministic(enabled=options.deterministic)
        self._spec = spec
        self._options = options
        self._device = device
        self._compute = spec.precision.compute
        self._memory_format = _memory_format(options, device)
        torch.manual_seed(spec.seed)
        module = build_model(spec, torch.nn.Module).to(device.torch_device)
        self._module = module.to(memory_format=self._memory_format)
        self._training = self._module.training
        self._loss = training_loss(spec.loss, spec.num_classes)
        self._loss_scale = loss_scale(spec.precision, device)
        self._optimizer = _build_optimizer(spec, self._module)
        decay = spec.ema_decay
        self._average = None if decay is None else WeightAverage(self._module, decay)
        self._evaluated = self._module if self._average is None else self._average.module
        self._unchecked = {True, False}
        self._pixel_rows: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        if options.compile:
            self._module.compile()  # in place, so that names and weights stay as they are
            if self._average is not None:
                self._average.module.compile()

    def train_step(self, batch: Batch, learning_rate: float) -> DeferredStep:
        """Take one optimizer step on ``batch``; does not wait for the device.

        Raises:
            DeviceError: The device is out of memory.
            UsageError: Batch normalisation has a single value per channel.
        """
        images, size = len(batch.labels), self._spec.micro_batch_size
        try:
            return self._train_step(batch, learning_rate)
        except torch.OutOfMemoryError as error:
            setting = "train.micro_batch_size"
            raise out_of_memory(
                reason(error), self._device.name, min(images, size), setting
            ) from error
        except ValueError as error:
            if not str(error).startswith(ONE_VALUE):
                raise
            raise one_value_per_channel(images, size) from error

    def _train_step(self, batch: Batch, learning_rate: float) -> DeferredStep:
        optimizer = self._optimizer
        if optimizer is None:
            raise ValueError("this engine only evaluates: its spec has no optimizer")
        self._set_training(enabled=True)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        optimizer.zero_grad(set_to_none=True)
        loss = self._backward(batch)
        self._loss_scale.unscale(optimizer)
        if self._spec.clip_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(self._module.parameters(), self._spec.clip_grad_norm)
        skipped = self._loss_scale.step(optimizer)
        if self._average is not None:
            self._average.update()
        return DeferredStep(loss, skipped)

    def _backward(self, batch: Batch) -> torch.Tensor:
        total, size = len(batch.labels), self._spec.micro_batch_size
        losses: list[torch.Tensor] = []
        for start in range(0, total, size):
            images = self._images(batch.images[start : start + size])
            labels = self._labels(batch.labels[start : start + size])
            with self._device.autocast(self._compute):
                output = self._module(images)
            self._check_once(output, len(labels), training=True)
            loss = self._loss(output, labels)
            if len(labels) < total:
                loss = loss * (len(labels) / total)
            self._loss_scale.scale(loss).backward()  # type: ignore[no-untyped-call]  # torch
            losses.append(loss.detach())
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    def eval_step(self, batch: Batch) -> DeferredCounts:
        """Count correct predictions with the evaluation weights; does not wait for the device.

        The loss is plain cross-entropy, without smoothing and auxiliary heads, so that it can be
        compared between recipes. Counts are those of ``runner.metrics.count_correct``.
        """
        logits = self._logits(batch.images)
        with torch.inference_mode():
            labels = self._labels(batch.labels)
            own, classes = logits.gather(1, labels[:, None]), logits.shape[1]
            lower = torch.arange(classes, device=labels.device) < labels[:, None]
            rank = ((logits > own) | ((logits == own) & lower)).sum(dim=1)
            rank = rank.masked_fill(~logits.isfinite().all(dim=1), classes + 5)
            loss_sum = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
            # fp32 counts exactly up to 2^24 images, and not every device has fp64
            top1, top5 = ((rank < limit).sum(dtype=torch.float32) for limit in (1, 5))
            return DeferredCounts(torch.stack([top1, top5, loss_sum]), len(batch.labels))

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return logits ``[B, K]`` for pixels ``[B, H, W, C]``, with the evaluation weights."""
        return array_of(self._logits(images))

    def _logits(self, images: NDArray[np.uint8]) -> torch.Tensor:
        if self._average is None:
            self._set_training(enabled=False)
        try:
            with torch.inference_mode(), self._device.autocast(self._compute):
                output = self._evaluated(self._images(images))
                self._check_once(output, len(images), training=False)
                return main_logits(output).float()
        except torch.OutOfMemoryError as error:
            name, count = self._device.name, len(images)
            raise out_of_memory(reason(error), name, count, "eval.batch_size") from error

    def _check_once(self, output: Any, images: int, *, training: bool) -> None:
        """Check the first output of each mode; a model may return other heads in training."""
        if training in self._unchecked:
            check_output(output, self._spec.model.name, images, self._spec.num_classes)
            self._unchecked.remove(training)

    def _set_training(self, *, enabled: bool) -> None:
        if self._training != enabled:  # walking over all layers in every step is not free
            self._module.train(enabled)
            self._training = enabled

    def _labels(self, labels: NDArray[np.int64]) -> torch.Tensor:
        return self._to_device(tensor_of(labels))

    def _to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        if self._device.traits.pinned_memory:
            tensor = tensor.pin_memory()
        return tensor.to(self._device.torch_device, non_blocking=True)

    def _images(self, images: NDArray[np.uint8]) -> torch.Tensor:
        """Return normalised images ``[B, C, H, W]``: (pixel - 255 mean) / (255 std).

        Computed over rows of W * C values, in which mean and std repeat: an inner loop over the
        three channels would be several times slower. Channels-last images are a view of it.
        """
        count, height, width, channels = images.shape
        mean, std = self._rows(width)
        pixels = self._to_device(tensor_of(images)).view(count, height, width * channels)
        rows = torch.sub(pixels, mean).div_(std)
        normalised = rows.view(count, height, width, channels).permute(0, 3, 1, 2)
        return normalised.contiguous(memory_format=self._memory_format)

    def _rows(self, width: int) -> tuple[torch.Tensor, torch.Tensor]:
        if width not in self._pixel_rows:
            device = self._device.torch_device
            mean = torch.tensor(self._spec.mean, device=device) * 255
            std = torch.tensor(self._spec.std, device=device) * 255
            self._pixel_rows[width] = (mean.repeat(width), std.repeat(width))
        return self._pixel_rows[width]

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

    def state(self) -> EngineState:
        """Copy to the host everything else that the next step depends on."""
        tensors = {
            f"random/{kind}": array_of(state)
            for kind, state in self._device.random_states().items()
        }
        values: dict[str, Any] = {**self._identity(), "loss_scale": self._loss_scale.state()}
        if self._optimizer is not None:
            arrays, values["slots"] = optimizer_state(self._optimizer, self._module)
            tensors |= {f"optimizer/{name}": array for name, array in arrays.items()}
        if self._average is not None:
            averages = copy_weights(self._average.module)
            tensors |= {f"ema/{name}": array for name, array in averages.items()}
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
        random = _under("random/", state.tensors)
        self._device.set_random_states({kind: tensor_of(a) for kind, a in random.items()})

    def _identity(self) -> dict[str, Any]:
        """Return what must be the same in a run that continues another."""
        optimizer = self._optimizer
        return {
            "framework": "torch",
            "device": self._device.name,
            "compute": self._compute,
            "optimizer": None if optimizer is None else type(optimizer).__name__,
            "ema": self._average is not None,
        }

    def agree(self) -> None:
        """Do nothing: this engine is alone."""

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
            "compute": self._compute,
            "loss_scale": dict(self._loss_scale.state()),
            "memory_format": str(self._memory_format).removeprefix("torch."),
            "compile": self._options.compile,
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "threads": torch.get_num_threads(),
            "micro_batch_size": self._spec.micro_batch_size,
            "optimizer": None if optimizer is None else describe_optimizer(optimizer),
            "ema_decay": self._spec.ema_decay,
        }


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


def _set_deterministic(*, enabled: bool) -> None:
    """Forbid or allow kernels that add in varying order; holds for the whole process."""
    if enabled:
        # cuBLAS reads it when its first handle is made, and torch insists on it
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(enabled)
    torch.backends.cudnn.benchmark = not enabled  # times several kernels and keeps the fastest


def _under(prefix: str, tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

"""The half of an engine that is the same in every framework."""

from __future__ import annotations

import platform
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

from runner.contracts import EngineState
from runner.errors import CheckpointError, PluginError, RunnerError
from runner.framework.failures import FAILURES, explain, explain_building
from runner.framework.loss import check_output
from runner.terminal.display import counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from typing_extensions import Self

    from runner.contracts import Batch, Deferred, Device, StepResult
    from runner.entries import EngineSpec
    from runner.framework.failures import Wording
    from runner.framework.loss_scale import ScaleState
    from runner.framework.own_statistics import OwnStatistics

    Arrays = Mapping[str, NDArray[Any]]

ModelT = TypeVar("ModelT")
ModelT_co = TypeVar("ModelT_co", covariant=True)
DeviceT = TypeVar("DeviceT", bound="Device")
OptionsT = TypeVar("OptionsT")
EMA, OWN, OPTIMIZER = "ema", "own", "optimizer"
"""Parts of a state: the averaged weights, what each process has of its own, the optimizer."""


class WeightAverage(Protocol[ModelT_co]):
    """An exponential moving average of a model's weights: a = decay * a + (1 - decay) * w.

    It holds for every trainable parameter. Buffers (the running statistics of batch normalisation)
    are copied, not averaged: they are running averages already. The average begins with the weights
    it was made from. A step that loss scaling skips counts like any other.
    """

    @property
    def model(self) -> ModelT_co:
        """The model with the averaged weights."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """The part of a step's batch that goes through the model at once."""

    images: NDArray[np.uint8]
    """Pixels ``[B, H, W, C]``."""
    labels: NDArray[np.int64]
    start: int
    """Place of the first image in the batch."""
    total: int
    """Images of the batch."""

    @property
    def share(self) -> float:
        """Its share of the batch: the factor of its mean loss, so that the gradients sum up."""
        return len(self.labels) / self.total

    @property
    def is_last(self) -> bool:
        """Whether the step ends with it."""
        return self.start + len(self.labels) >= self.total


class EngineBase(ABC, Generic[ModelT, DeviceT, OptionsT]):
    """What every engine does in the same way: states, identity, checks, explanations, the report.

    A subclass names its types in class attributes, and sets the attributes with an underscore in
    its constructor, after this one's. What it computes with is its own.
    """

    framework: ClassVar[str]
    wording: ClassVar[Wording]
    tensor_type: ClassVar[type]
    """What models return, or a tuple of."""
    device_type: type[DeviceT]
    options_type: type[OptionsT]

    _model: ModelT
    _average: WeightAverage[ModelT] | None
    _optimizer: object | None
    """``None`` in an engine that only evaluates."""
    _loss_scale: ScaleState

    def __init__(self, spec: EngineSpec, device: Device) -> None:
        options = spec.framework_options
        if not isinstance(device, self.device_type):
            raise TypeError(f"expected a device of framework {self.framework}, found {device!r}")
        if not isinstance(options, self.options_type):
            raise TypeError(f"expected {self.options_type.__name__}, found {options!r}")
        self._spec, self._device, self._options = spec, device, options
        self._statistics: OwnStatistics | None = None
        self._unchecked = {True, False}

    @classmethod
    def open(cls, spec: EngineSpec, device: Device) -> Self:
        """Build an engine.

        Raises:
            DeviceError: There is no memory for it.
        """
        try:
            return cls(spec, device)
        except (*FAILURES, PluginError) as error:
            found = explain_building(error.__cause__ or error, cls.wording, spec, device.name)
            if found is None:
                raise
            raise found from error

    # Steps

    def train_step(self, batch: Batch, learning_rate: float) -> Deferred[StepResult]:
        """Take one optimizer step on ``batch``; does not wait for the device."""
        if self._optimizer is None:
            raise ValueError("this engine only evaluates: its spec has no optimizer")
        if self._statistics is not None:
            self._statistics.take_own()
        return self._train_step(batch, learning_rate)

    @abstractmethod
    def _train_step(self, batch: Batch, learning_rate: float) -> Deferred[StepResult]:
        """Take one step, with the running statistics of this process."""

    def _passes(self, batch: Batch) -> Iterator[Pass]:
        """Split a batch into passes of ``micro_batch_size`` images; the last may be smaller."""
        total, size = len(batch.labels), self._spec.micro_batch_size
        for start in range(0, total, size):
            part = slice(start, start + size)
            images, labels = batch.images[part], batch.labels[part]
            yield Pass(images=images, labels=labels, start=start, total=total)

    def _check_once(self, output: Any, images: int, *, training: bool) -> None:
        """Check the first output of each mode; a model may return other heads in training."""
        if training in self._unchecked:
            spec = self._spec
            check_output(output, self.tensor_type, spec.model.name, images, spec.num_classes)
            self._unchecked.remove(training)

    def _explain(
        self, error: Exception, images: int, size: Sequence[int], *, training: bool
    ) -> None:
        """Raise what a failure means, if that is known.

        Args:
            error: What the framework raised.
            images: Images that went through the model.
            size: Their height and width in pixels.
            training: Whether it was in training.
        """
        found = explain(
            error, self.wording, self._spec, self._device.name, images, size, training=training
        )
        if found is not None:
            raise found from error

    # Weights and states

    @abstractmethod
    def _copy_weights(self, model: ModelT) -> dict[str, NDArray[Any]]:
        """Copy the weights and buffers of a model to the host, under canonical names."""

    @abstractmethod
    def _load_weights(self, model: ModelT, weights: Arrays) -> None:
        """Replace all weights and buffers of a model."""

    @abstractmethod
    def _own_state(self) -> tuple[dict[str, Arrays], dict[str, Any]]:
        """Copy what only this framework knows: arrays of each part of a state, and values (JSON).

        Such as the part ``optimizer``, random states, or the number of steps.
        """

    @abstractmethod
    def _load_own_state(self, parts: Mapping[str, Arrays], values: Mapping[str, Any]) -> None:
        """Put back what ``_own_state`` returned; a part without arrays is missing."""

    def _models(self) -> list[ModelT]:
        return [self._model] if self._average is None else [self._model, self._average.model]

    @property
    def _evaluated(self) -> ModelT:
        return self._models()[-1]

    def weights(self) -> dict[str, NDArray[Any]]:
        """Copy the model's weights and buffers to the host."""
        return self._copy_weights(self._model)

    def evaluation_weights(self) -> dict[str, NDArray[Any]]:
        """Copy the weights that evaluation uses (the EMA when there is one)."""
        return self._copy_weights(self._evaluated)

    def load_weights(self, weights: Arrays) -> None:
        """Replace all weights and buffers; an EMA begins anew from them."""
        for model in self._models():
            self._load_weights(model, weights)
        if self._statistics is not None:
            self._statistics.forget()

    def state(self) -> EngineState:
        """Copy to the host everything else that the next step depends on."""
        parts, own = self._own_state()
        if self._average is not None:
            parts[EMA] = self.evaluation_weights()
        if self._statistics is not None:
            parts[OWN] = self._statistics.state()
        tensors = {
            f"{part}/{name}": a for part, arrays in parts.items() for name, a in arrays.items()
        }
        values = {**self._identity(), "loss_scale": self._loss_scale.state(), **own}
        return EngineState(tensors=tensors, values=values)

    def load_state(self, state: EngineState) -> None:
        """Continue exactly where ``state`` was taken.

        Raises:
            CheckpointError: The state is of another framework, optimizer, precision, ...
        """
        for key, wanted in self._identity().items():
            found = state.values.get(key)
            if found != wanted:
                raise CheckpointError(
                    f"the checkpoint's state has {key} {found!r}, this run has {wanted!r}; "
                    "continue with the recipe that the run was started with"
                )
        parts: dict[str, dict[str, NDArray[Any]]] = {}
        for name, array in state.tensors.items():
            part, _, rest = name.partition("/")
            parts.setdefault(part, {})[rest] = array
        self._loss_scale.load_state(state.values["loss_scale"])
        self._load_own_state(parts, state.values)
        if self._average is not None:
            self._load_weights(self._average.model, parts.get(EMA, {}))
        if self._statistics is not None:
            self._statistics.load_state(parts.get(OWN, {}))

    def _identity(self) -> dict[str, Any]:
        """Return what must be the same in a run that continues another."""
        optimizer = self._optimizer
        return {
            "framework": self.framework,
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
        return {"compute": section.compute, "level": section.level, "batch_norm": batch_norm}

    def agree(self) -> None:
        """Have the mean of all processes' running statistics, and know what each has of its own."""
        if self._statistics is not None and not self._statistics.are_shared:
            self._statistics.share()

    def synchronize(self) -> None:
        """Wait until the device has done everything it was asked to do."""
        self._device.synchronize()

    # The report

    @abstractmethod
    def _versions(self) -> dict[str, str]:
        """Return the versions of the framework's packages, by name."""

    @abstractmethod
    def _trained(self) -> Iterable[tuple[int, str]]:
        """Yield size and number format, such as ``float32``, of each trained parameter."""

    @abstractmethod
    def _settings(self) -> dict[str, Any]:
        """Return what is in effect of what only this framework has (JSON)."""

    @abstractmethod
    def _describe_optimizer(self) -> Mapping[str, Any] | None:
        """Return the optimizer's settings (JSON)."""

    def report(self) -> dict[str, Any]:
        """Return what is in effect (JSON)."""
        spec, trained = self._spec, list(self._trained())
        return {
            "framework": self.framework,
            "versions": {"python": platform.python_version(), **self._versions()},
            "device": str(self._device.describe()["device"]),
            "parameters": sum(size for size, _ in trained),
            "parameter_type": sorted({number_format for _, number_format in trained}),
            **self._precision(),
            "loss_scale": dict(self._loss_scale.state()),
            "micro_batch_size": spec.micro_batch_size,
            "optimizer": self._describe_optimizer(),
            "ema_decay": spec.ema_decay,
            "sync_batch_norm": spec.sync_batch_norm and spec.group is not None,
            **self._settings(),
        }


def build_model(spec: EngineSpec, expected: type[ModelT]) -> ModelT:
    """Build the model of a spec.

    Raises:
        PluginError: The entry's ``build`` raises, or returns something else than ``expected``.
    """
    name = spec.model.name
    try:
        model = spec.model.build(spec.model_options, spec.num_classes)
    except (RunnerError, MemoryError):
        raise
    except Exception as error:
        raise PluginError(
            f"model {name} cannot be built with {counted(spec.num_classes, 'class')}: "
            f"{type(error).__name__}: {error}; correct its model.options or the entry's build"
        ) from error
    if not isinstance(model, expected):
        wanted = f"{expected.__module__.partition('.')[0]} {expected.__name__}"
        raise PluginError(
            f"model {name} was built as {type(model).__name__}; the entry's build "
            f"must return a {wanted}"
        )
    return model

"""What core and plugins promise each other: the objects that entries open, and what they exchange.

Shapes: N images in the dataset, B images in a batch, H height, W width, C = 3 channels (RGB),
K classes. Pixels are ``uint8`` in NHWC order everywhere in core; a framework moves them to the
device and normalises them there, so that every framework sees the same numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence
    from pathlib import Path
    from typing import Any

    import numpy as np
    from numpy.typing import NDArray

    from runner.data.transforms.options import Transform

T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Images as the data pipeline hands them to an engine."""

    images: NDArray[np.uint8]
    """Pixels ``[B, H, W, C]``."""
    labels: NDArray[np.int64]
    """Class indices ``[B]``."""
    indices: NDArray[np.int64]
    """Positions of the images in the dataset ``[B]``."""


class Deferred(Protocol[T_co]):
    """A value that may still be on its way from the device."""

    def read(self) -> T_co:
        """Wait for the device and return the value."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What one optimizer step reports."""

    loss: float
    """Mean loss over the images of the step, before the update, without loss scaling."""
    skipped: bool = False
    """The gradients overflowed under a loss scale, so the weights were left alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalCounts:
    """Sums over the images of one or more evaluation batches."""

    top1: int
    top5: int
    loss_sum: float
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineState:
    """Everything of an engine that is not its weights: optimizer, loss scale, EMA, random states.

    Both parts are plain data, so that a checkpoint never needs pickle.
    """

    tensors: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """Arrays by name. ``ema/<canonical name>`` holds the weights that evaluation uses when the
    recipe asks for an average; ``runner eval`` and ``export`` read them from there."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """JSON values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DamagedImage:
    """An image that could not be read or decoded."""

    index: int
    """Position in the dataset."""
    description: str
    """Its name, usually its path."""
    reason: str


class Group(Protocol):
    """The processes that take every step together, with one device each."""

    @property
    def rank(self) -> int:
        """Number of this process, from 0."""
        ...

    @property
    def world_size(self) -> int:
        """Number of processes."""
        ...

    def sum(self, values: Sequence[float]) -> list[float]:
        """Add numbers over all processes, which must all call this together.

        Counts up to 2**40 are added exactly, and a value that is not finite makes its sum not
        finite. The processes add as many numbers.
        """
        ...

    def close(self) -> None:
        """Leave together: wait until every process has come here."""
        ...


class Engine(Protocol):
    """A model on a device, with its loss and optimizer; one per run, opened by a framework."""

    def train_step(self, batch: Batch, learning_rate: float) -> Deferred[StepResult]:
        """Take one optimizer step on ``batch``, in passes of ``micro_batch_size`` images.

        Return without waiting for the device. ``docs/plugins.md`` has the formulas, under "What a
        step means".
        """
        ...

    def eval_step(self, batch: Batch) -> Deferred[EvalCounts]:
        """Count correct predictions with the evaluation weights (the EMA when there is one)."""
        ...

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return logits ``[B, K]`` for pixels ``[B, H, W, C]``, with the evaluation weights."""
        ...

    def weights(self) -> Mapping[str, NDArray[Any]]:
        """Copy the model's weights and buffers to the host, under canonical (torchvision) names.

        Here and elsewhere, arrays are in C order.
        """
        ...

    def load_weights(self, weights: Mapping[str, NDArray[Any]]) -> None:
        """Replace all weights and buffers.

        Raises:
            CheckpointError: A name is missing or unexpected, or a shape differs; all are listed.
        """
        ...

    def evaluation_weights(self) -> Mapping[str, NDArray[Any]]:
        """Copy the weights that evaluation and export use (the EMA when there is one)."""
        ...

    def state(self) -> EngineState:
        """Copy to the host everything else that the next step depends on."""
        ...

    def load_state(self, state: EngineState) -> None:
        """Continue exactly where ``state`` was taken.

        Raises:
            CheckpointError: The state belongs to another optimizer or precision.
        """
        ...

    def agree(self) -> None:
        """Have the same running statistics on all processes: their mean over the ranks.

        Until the next step, which goes on with each process's own: neither evaluating nor saving
        changes what is trained. So the ``state`` of rank 0 holds what each process has of its own.
        Weights are the same already. All processes call this together, before they evaluate and
        before one of them saves; alone it does nothing.
        """
        ...

    def synchronize(self) -> None:
        """Wait until the device has done everything it was asked to do.

        Results of steps and evaluations that nobody has read are part of it.
        """
        ...

    def report(self) -> Mapping[str, Any]:
        """Return what is in effect: parameters, precision, memory layout, threads, ... (JSON)."""
        ...


class Device(Protocol):
    """One accelerator, opened for this process. What frameworks add to it is theirs."""

    @property
    def name(self) -> str:
        """Name of the device entry, such as ``cuda``."""
        ...

    def synchronize(self) -> None:
        """Wait until the device is idle."""
        ...

    def peak_memory_bytes(self) -> int | None:
        """Return the most memory held since the process began, where the device can tell."""
        ...

    def describe(self) -> Mapping[str, Any]:
        """Return what identifies hardware and driver in a manifest (JSON)."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Availability:
    """Whether a device can be used on this machine, and why not."""

    available: bool
    reason: str = ""
    """What was probed and what it answered, such as ``torch.cuda reports no device``."""
    count: int | None = None
    """Visible devices of the kind; ``None`` where there is nothing to count."""


class Loader(Protocol):
    """Reads one split in batches; core's ``ImageLoader``, or a framework's own pipeline."""

    @property
    def transforms(self) -> Sequence[Transform]:
        """Steps from a decoded image to the network's input."""
        ...

    @property
    def stops_at_damage(self) -> bool:
        """Whether a damaged image ends the run."""
        ...

    def train_batches(
        self,
        epoch: int,
        *,
        batch_size: int,
        steps: int,
        first_step: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> Generator[Batch, None, None]:
        """Yield one batch per step of a shuffled epoch; see ``ImageLoader.train_batches``."""
        ...

    def eval_batches(
        self, batch_size: int, *, rank: int = 0, world_size: int = 1
    ) -> Generator[Batch, None, None]:
        """Yield every image once over all ranks, in order; see ``ImageLoader.eval_batches``."""
        ...

    def report(self) -> Mapping[str, Any]:
        """Return what is in effect beyond the recipe, such as a number of threads (JSON)."""
        ...

    def close(self) -> None:
        """Stop threads and processes. Batches can be asked for again, which starts new ones."""
        ...


class Dataset(Protocol):
    """One split of a dataset: N images with their labels."""

    @property
    def classes(self) -> Sequence[str]:
        """Class names; the position of a name is its label."""
        ...

    @property
    def labels(self) -> NDArray[np.integer[Any]]:
        """Labels ``[N]``, of any type of integers."""
        ...

    def read(self, index: int) -> bytes | NDArray[np.uint8]:
        """Return an encoded image, or decoded RGB pixels ``[H, W, C]``.

        Called from several threads at once.
        """
        ...

    def describe(self, index: int) -> str:
        """Name an image for messages, usually its path."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactInfo:
    """What an exporter tells about the file it wrote."""

    format: str
    """Such as ``onnx``; a predictor entry that lists it can run the artifact."""
    file: str
    """File name inside the artifact's folder."""
    input_name: str
    input_shape: tuple[int | str, ...]
    """Such as ``("batch", 3, 224, 224)``; a number in the first place is a fixed batch."""
    output_name: str
    input_type: Literal["float32", "float16", "uint8"] = "float32"
    """What the file takes: normalised images ``[B, C, H, W]`` in float32 or float16, or pixels
    ``[B, H, W, C]`` that it normalises itself."""
    is_written: bool = True
    """Whether ``file`` is there; ``False`` if what was written makes it elsewhere, such as where a
    vendor's compiler is installed."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Anything else worth recording, such as the opset (JSON)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredWeights:
    """What a weights file holds, as ``FrameworkEntry.read_weights`` finds it.

    Core chooses among the sets, removes what wrappers put before the names, adds counters of batch
    normalisation that are missing, and makes short floating point numbers fp32.
    """

    sets: Mapping[str, Mapping[str, NDArray[Any]]]
    """Tensors by name, for each key that the file keeps some under; that of its top is ``""``."""
    ignored: Sequence[str] = ()
    """What else there is, such as ``args (argparse.Namespace)``."""
    model_options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the model without which it computes something else with the same weights."""


class Predictor(Protocol):
    """An exported model, loaded without the framework's model code."""

    def predict(self, inputs: NDArray[Any]) -> NDArray[np.float32]:
        """Return logits ``[B, K]``.

        Core asks a file with a fixed batch for exactly that many images.

        Args:
            inputs: Pixels ``[B, H, W, C]`` in uint8 where that is ``ArtifactInfo.input_type``;
                otherwise normalised images ``[B, C, H, W]`` in float32, which the predictor rounds
                to float16 for a file that takes that.
        """
        ...

    def describe(self) -> Mapping[str, Any]:
        """Return which runtime and provider really ran (JSON)."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """What loggers learn about a run when it starts."""

    name: str
    folder: Path
    recipe: Mapping[str, Any]
    """The resolved recipe (JSON)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """One optimizer step, once its loss has been read."""

    step: int
    """Number of the step, from 0."""
    epoch: int
    """Number of the epoch, from 0."""
    step_in_epoch: int
    loss: float | None
    """Mean over all ranks; ``None`` if the step was skipped."""
    learning_rate: float
    images: int
    """Of all ranks together."""
    seconds: float
    """From the end of the step before, data wait included. The device may lag behind: only sums
    over a window that ends with a log line are exact."""
    data_seconds: float
    """Of these, waiting for data."""


class RunLogger(Protocol):
    """Learns what happens in a run, from its start to its end, on rank 0."""

    def event(self, name: str, fields: Mapping[str, Any]) -> None:
        """Learn of an event, as ``runner.storage.events`` lists them."""
        ...

    def steps(self, records: Sequence[StepRecord]) -> None:
        """Learn of all steps since the last time, before the ``train.step`` event."""
        ...

    def close(self) -> None:
        """End the file."""
        ...

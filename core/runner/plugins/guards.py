"""Engines, loaders and datasets of plugins, with everything that they return checked."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, final

from runner.contracts import (
    Batch,
    Dataset,
    Engine,
    EngineState,
    EvalCounts,
    Loader,
    Predictor,
    StepResult,
)
from runner.errors import ArtifactError, PluginError
from runner.plugins.returns import (
    arrays,
    as_json,
    calling,
    check_instance,
    check_members,
    image,
    kind_of,
    logits,
    origin,
    python_number,
    report,
)
from runner.terminal.display import counted

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from runner.contracts import Deferred
    from runner.data.transforms.options import Transform
    from runner.entries import PredictorEntry
    from runner.plugins.registry import Registered


def own_engine(engine: Engine) -> Engine:
    """Return the plugin's object behind an engine, which its exporters know."""
    return engine.own if isinstance(engine, CheckedEngine) else engine


@final
class CheckedEngine:
    """An engine of a plugin; everything that it returns is checked."""

    def __init__(self, engine: object, source: str, classes: int) -> None:
        """Take an engine.

        Raises:
            PluginError: It lacks a method.
        """
        check_members(engine, Engine, source)
        self.own: Engine = engine  # type: ignore[assignment]  # its members were checked
        """The plugin's object, which its exporters know."""
        self._source = source
        self._classes = classes

    def train_step(self, batch: Batch, learning_rate: float) -> Deferred[StepResult]:
        """Take one optimizer step."""
        return _CheckedStep(self.own.train_step(batch, learning_rate), self._source)

    def eval_step(self, batch: Batch) -> Deferred[EvalCounts]:
        """Count correct predictions."""
        return _CheckedCounts(self.own.eval_step(batch), self._source)

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return logits ``[B, K]``."""
        found = self.own.predict(images)
        return logits(found, len(images), self._classes, f"{self._source}, predict()")

    def weights(self) -> Mapping[str, NDArray[Any]]:
        """Copy the model's weights and buffers."""
        return arrays(self.own.weights(), f"{self._source}, weights()")

    def load_weights(self, weights: Mapping[str, NDArray[Any]]) -> None:
        """Replace all weights and buffers."""
        self.own.load_weights(weights)

    def evaluation_weights(self) -> Mapping[str, NDArray[Any]]:
        """Copy the weights that evaluation uses."""
        return arrays(self.own.evaluation_weights(), f"{self._source}, evaluation_weights()")

    def state(self) -> EngineState:
        """Copy everything else."""
        source = f"{self._source}, state()"
        found = check_instance(self.own.state(), EngineState, source)
        values = as_json(found.values, f"{source}: values")
        return EngineState(tensors=arrays(found.tensors, f"{source}: tensors"), values=values)

    def load_state(self, state: EngineState) -> None:
        """Continue where a state was taken."""
        self.own.load_state(state)

    def agree(self) -> None:
        """Give all processes the same running statistics."""
        self.own.agree()

    def synchronize(self) -> None:
        """Wait for the device."""
        self.own.synchronize()

    def report(self) -> Mapping[str, Any]:
        """Return what is in effect."""
        return report(self.own.report(), f"{self._source}, report()", taken=("model",))


@final
class CheckedPredictor:
    """A predictor of a plugin; its logits are checked."""

    def __init__(self, predictor: object, item: Registered[PredictorEntry], classes: int) -> None:
        """Take a predictor.

        Raises:
            PluginError: It lacks a method.
        """
        self._source = origin(item)
        check_members(predictor, Predictor, f"{self._source}, load()")
        self._own: Predictor = predictor  # type: ignore[assignment]  # its members were checked
        self._item = item
        self._classes = classes

    def predict(self, inputs: NDArray[Any]) -> NDArray[np.float32]:
        """Return logits ``[B, K]``."""
        with calling(self._item, "predict()", ArtifactError):
            found = self._own.predict(inputs)
        return logits(found, len(inputs), self._classes, f"{self._source}, predict()")

    def describe(self) -> Mapping[str, Any]:
        """Return which runtime and provider really ran (JSON)."""
        return report(self._own.describe(), f"{self._source}, describe()")


def with_checked_images(dataset: Dataset, source: str) -> Dataset:
    """Return a dataset that checks what it reads; files, which core reads, are what they are."""
    from runner.data.image_files import ImageFiles  # NumPy comes with it

    return dataset if isinstance(dataset, ImageFiles) else CheckedDataset(dataset, source)


@final
class CheckedDataset:
    """A dataset of a plugin; every image that it reads is checked."""

    def __init__(self, dataset: Dataset, source: str) -> None:
        """Take a dataset whose classes and labels were checked."""
        self.own = dataset
        self._source = source
        self._classes = tuple(dataset.classes)

    @property
    def classes(self) -> Sequence[str]:
        """Class names."""
        return self._classes

    @property
    def labels(self) -> NDArray[np.integer[Any]]:
        """Labels ``[N]``."""
        return self.own.labels

    def read(self, index: int) -> bytes | NDArray[np.uint8]:
        """Return an encoded image, or pixels."""
        return image(self.own.read(index), f"{self._source}, read()")

    def describe(self, index: int) -> str:
        """Name an image."""
        return str(self.own.describe(index))


@final
class CheckedLoader:
    """A loader of a plugin; every batch that it yields is checked."""

    def __init__(self, loader: object, source: str) -> None:
        """Take a loader.

        Raises:
            PluginError: It lacks a method.
        """
        check_members(loader, Loader, source)
        self._own: Loader = loader  # type: ignore[assignment]  # its members were checked
        self._source = source

    @property
    def transforms(self) -> Sequence[Transform]:
        """Steps from a decoded image to the network's input."""
        return self._own.transforms

    @property
    def stops_at_damage(self) -> bool:
        """Whether a damaged image ends the run."""
        return self._own.stops_at_damage

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
        """Yield one batch for each step of an epoch."""
        return self._checked(
            self._own.train_batches(
                epoch,
                batch_size=batch_size,
                steps=steps,
                first_step=first_step,
                rank=rank,
                world_size=world_size,
            )
        )

    def eval_batches(
        self, batch_size: int, *, rank: int = 0, world_size: int = 1
    ) -> Generator[Batch, None, None]:
        """Yield every image once."""
        return self._checked(self._own.eval_batches(batch_size, rank=rank, world_size=world_size))

    def report(self) -> Mapping[str, Any]:
        """Return what is in effect."""
        taken = ("split", "images", "classes")
        return report(self._own.report(), f"{self._source}, report()", taken=taken)

    def close(self) -> None:
        """Stop threads and processes."""
        self._own.close()

    def _checked(self, batches: Generator[Batch, None, None]) -> Generator[Batch, None, None]:
        try:
            for batch in batches:
                _check_batch(batch, self._source)
                yield batch
        finally:
            batches.close()


@final
class _CheckedStep:
    """The result of a step, once it is read."""

    __slots__ = ("_deferred", "_source")

    def __init__(self, deferred: Deferred[StepResult], source: str) -> None:
        self._deferred = deferred
        self._source = source

    def read(self) -> StepResult:
        """Wait for the device and return the result."""
        result = _read(self._deferred, f"{self._source}, train_step()")
        if isinstance(result, StepResult) and type(result.loss) is float:
            return result
        source = f"{self._source}, train_step()"
        loss = python_number(check_instance(result, StepResult, source).loss)
        if loss is None:
            raise PluginError(
                f"{source} returned {kind_of(result.loss)} as the loss, expected a number"
            )
        return StepResult(loss=float(loss), skipped=bool(result.skipped))


@final
class _CheckedCounts:
    """The counts of a batch, once they are read."""

    __slots__ = ("_deferred", "_source")

    def __init__(self, deferred: Deferred[EvalCounts], source: str) -> None:
        self._deferred = deferred
        self._source = source

    def read(self) -> EvalCounts:
        """Wait for the device and return the counts."""
        source = f"{self._source}, eval_step()"
        found = check_instance(_read(self._deferred, source), EvalCounts, source)
        top1, top5, count = (
            _count(getattr(found, name), f"{source}: {name}") for name in ("top1", "top5", "count")
        )
        if not 0 <= top1 <= top5 <= count:
            raise PluginError(
                f"{source} counted {top1} images in top-1, {top5} in top-5, and {count} in all"
            )
        loss_sum = python_number(found.loss_sum)
        if loss_sum is None:
            raise PluginError(f"{source}: loss_sum is {kind_of(found.loss_sum)}, expected a number")
        return EvalCounts(top1=top1, top5=top5, loss_sum=float(loss_sum), count=count)


def _read(deferred: object, source: str) -> Any:
    read = getattr(deferred, "read", None)
    if not callable(read):
        raise PluginError(
            f"{source} returned {kind_of(deferred)} where an object with read() is expected"
        )
    return read()


def _check_batch(batch: object, source: str) -> None:
    """Check types and shapes of a batch; microseconds.

    Raises:
        PluginError: One is wrong.
    """
    import numpy as np

    found = check_instance(batch, Batch, source)
    images, labels = found.images, found.labels
    for name, array, dtype, rank in (
        ("images", images, np.uint8, 4),
        ("labels", labels, np.int64, 1),
        ("indices", found.indices, np.int64, 1),
    ):
        if not isinstance(array, np.ndarray) or array.dtype != dtype or array.ndim != rank:
            what = kind_of(array) if not isinstance(array, np.ndarray) else f"{array.dtype} array"
            raise PluginError(
                f"{source} yielded a batch whose {name} are a {what}, expected "
                f"{np.dtype(dtype)} with {rank} dimensions"
            )
    if not len(images) == len(labels) == len(found.indices):
        raise PluginError(
            f"{source} yielded a batch of {counted(len(images), 'image')}, "
            f"{counted(len(labels), 'label')} and {len(found.indices)} indices"
        )


def _count(value: object, source: str) -> int:
    number = python_number(value)
    if number is None or not math.isfinite(number) or number != int(number):
        raise PluginError(f"{source} is {kind_of(value)} {value!r:.40}, expected a whole number")
    return int(number)

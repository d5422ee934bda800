"""What ``runner.api`` returns: frozen, and readable in a terminal and in a notebook."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from runner.errors import UsageError
from runner.storage import checkpoint, events, records, rundir
from runner.storage.rundir import RunDir
from runner.terminal.shown import Shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from runner.data.decode_options import Decoding
    from runner.data.transforms.options import Transform


@final
@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Artifact(Shown):
    """An exported model."""

    name: str
    """The exporter, as the recipe names it."""
    folder: Path
    verified: bool | None
    """Whether it does what the live model does; ``None`` where nothing here can run it."""
    metrics: Mapping[str, float]
    """Its accuracy, such as ``val.top1``; empty where it was not evaluated."""
    record: Mapping[str, Any]
    """All that ``result.json`` says of it (JSON)."""

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Artifact:
        """Return what an export has written down."""
        return cls(
            name=record["name"],
            folder=Path(record["folder"]).absolute(),  # a program may change its folder
            verified=record["verified"],
            metrics=records.floats(record.get("metrics", {})),
            record=record,
        )

    def title(self) -> str:
        """Return what it is of."""
        return str(self.folder)

    def rows(self) -> Iterator[tuple[str, object]]:
        """Yield a name and a value for each row."""
        words = {True: "yes", False: "NO", None: "not here"}
        reason = self.record.get("error") or self.record.get("reason")
        yield "verified", words[self.verified] + (f": {reason}" if reason else "")
        yield from self.metrics.items()


@final
@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Run(Shown):
    """A run. Curves and checkpoints are read from its folder when they are asked for."""

    folder: Path
    recipe: str
    """Name of the recipe."""
    metrics: Mapping[str, float]
    """The last values by name, such as ``val.top1`` and ``train.loss``."""
    result: Mapping[str, Any]
    """What ``result.json`` holds (JSON); empty if the run is not finished."""
    leads: bool = True
    """Whether this process knows how it ended: that of rank 0, or the one that started it."""

    @classmethod
    def of(cls, result: Mapping[str, Any]) -> Run:
        """Return the run that a result tells of."""
        metrics = records.floats(result["metrics"])
        folder = Path(result["folder"]).absolute()  # a program may change its folder
        return cls(folder=folder, recipe=result["recipe"], metrics=metrics, result=result)

    @classmethod
    def at(cls, path: str | Path) -> Run:
        """Read the run that a path is, or lies in.

        Raises:
            UsageError: There is none.
            CheckpointError: One of its files is damaged.
        """
        found = rundir.find(Path(path))
        result = found.read_result()
        if result is not None:
            return cls.of(result)
        last = _told(found, "epoch.finished", "epoch")[-1:]
        metrics = {name: value for item in last for name, value in item.items() if "." in name}
        recipe = str(found.read_manifest()["recipe"])
        return cls(folder=found.path.absolute(), recipe=recipe, metrics=metrics, result={})

    @property
    def finished(self) -> bool:
        """Whether it came to its end; a run that was stopped can be resumed."""
        return bool(self.result)

    @property
    def history(self) -> Sequence[Mapping[str, Any]]:
        """One mapping for each epoch: ``epoch`` (from 1), ``step`` and the metrics."""
        return _told(RunDir(self.folder), "epoch.finished", "epoch")

    @property
    def steps(self) -> Sequence[Mapping[str, Any]]:
        """One mapping for each window of ``train.log_every_steps``.

        Such as ``step``, ``epoch``, ``loss``, ``learning_rate`` and ``images_per_s``.
        """
        return _told(RunDir(self.folder), "train.step", "step")

    @property
    def best(self) -> Path | None:
        """The checkpoint with the best accuracy; ``None`` where none was marked."""
        return checkpoint.best(RunDir(self.folder).checkpoints)

    @property
    def checkpoints(self) -> Sequence[Path]:
        """Those that are kept, in the order of their steps."""
        return checkpoint.listing(RunDir(self.folder).checkpoints)

    @property
    def artifacts(self) -> Sequence[Artifact]:
        """What the run has exported."""
        if not self.finished:
            return []
        result = rundir.where_it_is(self.result, self.folder)
        return [Artifact.of(record) for record in result.get("exports", ())]

    def title(self) -> str:
        """Return what it is of."""
        return str(self.folder)

    def rows(self) -> Iterator[tuple[str, object]]:
        """Yield a name and a value for each row."""
        yield "finished", "yes" if self.finished else "no"
        if "epochs" in self.result:
            yield "epochs", self.result["epochs"]
        yield from self.metrics.items()
        if self.result.get("best_top1") is not None:
            yield (
                "best val.top1",
                f"{self.result['best_top1']:.6g}, epoch {self.result['best_epoch']}",
            )
        for artifact in self.artifacts:
            yield artifact.name, artifact.folder


def _told(run: RunDir, name: str, key: str) -> list[Mapping[str, Any]]:
    """Return the fields of all events of a name, by what counts them.

    A run that continues may tell of an epoch or a step again; the later one counts.
    """
    if not run.events.exists():
        return []
    found = {item[key]: item for item in events.read(run.events) if item.get("event") == name}
    common = ("event", "time", "elapsed_s")
    return [
        {field: value for field, value in found[number].items() if field not in common}
        for number in sorted(found)
    ]


@final
@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Evaluation(Shown):
    """The accuracy of a model over the whole validation split."""

    path: Path
    """What was evaluated."""
    metrics: Mapping[str, float]
    """Such as ``val.top1``, ``val.loss`` and ``val.count``."""
    reference: Sequence[Mapping[str, Any]]
    """Published figures of the recipe, each beside the measured one."""

    def title(self) -> str:
        """Return what it is of."""
        return str(self.path)

    def rows(self) -> Iterator[tuple[str, object]]:
        """Yield a name and a value for each row."""
        yield from self.metrics.items()


@final
@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Benchmark(Shown):
    """Throughput of a recipe or of a trained model."""

    subject: str
    images_per_s: Mapping[str, Any]
    """Of a recipe: median, low and high by what was measured. Of a model: mean, median, low and
    high."""
    figures: Mapping[str, Any]
    """All of them, and what they were measured with (JSON)."""

    def title(self) -> str:
        """Return what it is of."""
        return self.subject

    def rows(self) -> Iterator[tuple[str, object]]:
        """Yield a name and a value for each row."""
        for name, rate in self.images_per_s.items():
            median = rate["median"] if isinstance(rate, Mapping) else rate
            yield name, f"{median:.1f} images/s"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """What evaluation does to an image before the network sees it."""

    transforms: Sequence[Transform]
    decoding: Decoding
    mean: Sequence[float]
    """Of each channel, on pixels scaled to [0, 1]."""
    std: Sequence[float]

    def __call__(self, image: object) -> NDArray[np.float32]:
        """Turn an image into what the network takes.

        Args:
            image: A path, the bytes of a file, an image of Pillow, or RGB pixels ``[H, W, C]`` in
                uint8.

        Returns:
            Normalised pixels ``[C, H, W]``.

        Raises:
            DataError: The image cannot be decoded.
            UsageError: It is something else.
        """
        import numpy as np

        from runner.data.normalize import normalize
        from runner.data.samples import preprocess

        content, name = _content(image)
        pixels = preprocess(content, self.transforms, name, decoding=self.decoding)
        found: NDArray[np.float32] = normalize(pixels[np.newaxis], self.mean, self.std)[0]
        return found


def _content(image: object) -> tuple[Any, str]:
    import numpy as np
    from PIL import Image

    from runner.data.size_limits import MAX_FILE
    from runner.storage import files

    if isinstance(image, (str, Path)):
        return files.read_regular(Path(image), MAX_FILE), str(image)
    if isinstance(image, Image.Image):
        image = np.asarray(image.convert("RGB"))
    if isinstance(image, (bytes, np.ndarray)):
        return image, "image"
    raise UsageError(
        f"found a {type(image).__name__}; expected a path, the bytes of an image file, an image of "
        "Pillow, or an array of RGB pixels [H, W, C] in uint8"
    )


@final
@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Model(Shown):
    """A trained model in its framework's own form, with what belongs to it."""

    module: Any
    """``torch.nn.Module`` or ``mindspore.nn.Cell``: in fp32, in evaluation mode, with the weights
    that evaluation uses. It takes ``[B, C, H, W]``, normalised, and returns logits ``[B, K]``."""
    preprocess: Preprocessing
    """Turns an image into one ``[C, H, W]``."""
    classes: tuple[str, ...]
    """Names in label order."""
    path: Path
    """Where the weights are from."""

    def title(self) -> str:
        """Return what it is of."""
        return str(self.path)

    def rows(self) -> Iterator[tuple[str, object]]:
        """Yield a name and a value for each row."""
        yield "module", f"{type(self.module).__module__}.{type(self.module).__qualname__}"
        yield "classes", len(self.classes)
        yield "steps", ", ".join(step.name for step in self.preprocess.transforms)

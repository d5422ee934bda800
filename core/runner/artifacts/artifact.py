"""Artifacts: an exported model with everything needed to use it and to check it.

A folder such as ``exports/onnx`` holds:

    model.onnx              what the exporter wrote
    artifact.json           format, input, classes, pre-processing, and SHA-256 of all files
    golden.safetensors      logits that the live model gave, and the pixels it saw
    golden/00.png, ...      the raw images they came from

Nothing else is needed to run the model where a runtime for its format is installed.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, final

from annotated_types import Ge, Gt, Le, Len
from typing_extensions import NotRequired, TypedDict

from runner.contracts import ArtifactInfo
from runner.data.decode_options import AS_STORED, Decoding
from runner.errors import ArtifactError, DataError, MissingRuntimeError, UsageError
from runner.plugins.guards import CheckedPredictor
from runner.plugins.returns import calling
from runner.storage import archives, paths, records
from runner.storage.files import sha256
from runner.terminal.display import counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from runner.contracts import Predictor
    from runner.data.transforms.options import Transform
    from runner.entries import PredictorEntry
    from runner.plugins.registry import Registered, Registry
    from runner.storage.events import EventLog

INFO, GOLDEN = "artifact.json", "golden.safetensors"

TRUST = (
    "if you made it, or trust who did with all that you may do on this machine, add --trust; "
    "otherwise export the checkpoint that it was made from again"
)
LARGEST_INPUT = 1 << 29
"""Numbers in one call of a fixed batch: 2 GiB in float32."""

Triple = Annotated[list[float], Len(3, 3)]


@records.schema()
class _InfoRecord(TypedDict):
    format: records.Text
    file: records.Text
    input_name: records.Text
    input_shape: Annotated[list[Union[Annotated[int, Gt(0)], records.Text]], Len(4, 4)]  # noqa: UP007
    output_name: records.Text
    input_type: NotRequired[Literal["float32", "float16", "uint8"]]
    is_written: NotRequired[bool]
    details: dict[records.Text, Any]


@records.schema()
class _ArtifactRecord(TypedDict):
    recipe: records.Text
    model: records.Text
    framework: records.Text
    source: NotRequired[Union[records.Text, None]]  # noqa: UP007  evaluated on Python 3.10
    exporter: NotRequired[records.Text]
    info: _InfoRecord
    classes: Annotated[list[records.Text], Len(1)]
    transforms: list[dict[records.Text, Any]]
    mean: Triple
    std: Triple
    decoding: NotRequired[dict[records.Text, Any]]
    tolerance: Annotated[float, Ge(0)]
    min_agreement: NotRequired[Annotated[float, Ge(0), Le(1)]]
    compute: NotRequired[records.Text]
    golden: Annotated[list[records.Text], Len(1)]
    files: dict[records.Text, records.Text]


KIND = records.Kind(
    file=INFO,
    schema=_ArtifactRecord,
    error=ArtifactError,
    remedy="export it again",
    unchecked_format=1,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """An exported model on disk, as ``artifact.json`` describes it."""

    folder: Path
    info: ArtifactInfo
    classes: tuple[str, ...]
    transforms: list[Transform]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    tolerance: float
    golden: tuple[str, ...]
    """Paths of the raw images, inside the folder."""
    min_agreement: float = 0.0
    """Smallest share of images for which it chooses the live model's class."""
    compute: str = "fp32"
    """Format that the live model computed in, as in ``precision.compute``."""
    framework: str = ""
    """The framework that wrote it."""
    exporter: str | None = None
    """The entry that wrote it; older artifacts do not say."""
    source: str | None = None
    """The exporter whose artifact was converted, where one was."""
    checked: bool = True
    """Whether ``artifact.json`` has a checksum; older ones have none."""
    listed: frozenset[str] = frozenset()
    """Files that have a checksum, by their path inside the folder."""
    decoding: Decoding = AS_STORED
    """How encoded images become pixels."""
    trusted: bool = False
    """Whether code that comes with it may run."""


def is_artifact(path: Path) -> bool:
    """Say whether a path is an exported artifact."""
    return (path / INFO).is_file()


def read(folder: Path, *, trusted: bool = False) -> Artifact:
    """Read an artifact and check its files against their checksums.

    Args:
        folder: The artifact.
        trusted: Whether code that comes with it may run.

    Raises:
        ArtifactError: It is not an artifact, or was changed, or a file is missing or damaged.
    """
    try:
        record = records.read(folder / INFO, KIND)
        content = record.content
        for name, digest in content["files"].items():
            _check_file(folder, name, digest)
        _check_listed(content)
        artifact = _artifact(folder, record, trusted=trusted)
        _check_sizes(artifact)
    except OSError as error:
        raise ArtifactError(
            f"{folder} is not a complete artifact: {error.filename}: {error.strerror}; "
            f"expected {_nearby(folder)}"
        ) from None
    except ValueError as error:
        raise ArtifactError(f"{folder / INFO} is damaged: {error}; {KIND.remedy}") from None
    return artifact


def _nearby(folder: Path) -> str:
    """Name the artifacts above or below a path, or say how one is named."""
    below = sorted(
        file.parent for part in ("", "exports") for file in (folder / part).glob(f"*/{INFO}")
    )
    above = [folder.parent] if (folder.parent / INFO).is_file() else []
    found = " or ".join(map(str, above or below))
    return found or "a folder such as runs/quickstart/20260131-120000/exports/onnx"


def tell_unchecked(artifact: Artifact, events: EventLog) -> None:
    """Report an older artifact, whose record has no checksum."""
    if not artifact.checked:
        events.emit("warning", message=records.without_checksum([artifact.folder / INFO]))


def _artifact(folder: Path, record: records.Record, *, trusted: bool) -> Artifact:
    content = record.content
    info = content["info"]
    return Artifact(
        folder=folder,
        info=ArtifactInfo(**{**info, "input_shape": tuple(info["input_shape"])}),
        classes=tuple(content["classes"]),
        transforms=_transforms(content["transforms"]),
        mean=_triple(content["mean"]),
        std=_triple(content["std"]),
        decoding=_decoding(content.get("decoding", {})),
        tolerance=content["tolerance"],
        min_agreement=content.get("min_agreement", 0.0),
        compute=content.get("compute", "fp32"),
        golden=tuple(content["golden"]),
        framework=content["framework"],
        exporter=content.get("exporter"),
        source=content.get("source"),
        checked=record.checked,
        listed=frozenset(content["files"]),
        trusted=trusted,
    )


def _check_file(folder: Path, name: str, digest: str) -> None:
    path = paths.file_in(folder, name)
    if sha256(path) != digest:
        raise ArtifactError(f"{path} is damaged: its SHA-256 differs from {INFO}; {KIND.remedy}")


def _check_listed(content: Mapping[str, Any]) -> None:
    missing = [name for name in (GOLDEN, *content["golden"]) if name not in content["files"]]
    if missing:
        raise ValueError(f"it uses {', '.join(missing[:3])} and lists no checksum for it")


def _transforms(steps: Sequence[Mapping[str, Any]]) -> list[Transform]:
    from pydantic import TypeAdapter

    from runner.data.transforms.options import Transform

    found: list[Transform] = TypeAdapter(list[Transform]).validate_json(json.dumps(steps))
    return found


def _decoding(keys: Mapping[str, Any]) -> Decoding:
    """Return how images are decoded; artifacts of earlier versions name nothing."""
    from pydantic import TypeAdapter

    return TypeAdapter(Decoding).validate_json(json.dumps(keys))


def _triple(values: Sequence[float]) -> tuple[float, float, float]:
    first, second, third = values
    if not all(map(math.isfinite, values)):
        raise ValueError(f"mean and std must be finite numbers, found {list(values)}")
    return first, second, third


def _check_sizes(artifact: Artifact) -> None:
    """Refuse sizes before they take memory, and what no exporter writes.

    Raises:
        ValueError: A size is too large, images would have no fixed size, or a step is random.
    """
    from runner.data.transforms.options import check_not_random, off_scale, output_size

    for key, message in off_scale(artifact.mean, artifact.std):
        raise ArtifactError(f"{artifact.folder / INFO}: {key}: {message}")
    if min(artifact.std) <= 0 or not math.isfinite(artifact.tolerance):
        raise ValueError("std must be larger than 0, and tolerance finite")
    try:
        check_not_random(artifact.transforms)
    except DataError as error:
        raise ValueError(str(error)) from None
    if output_size(artifact.transforms) is None:
        raise ValueError("its transforms do not end at a fixed size")
    fixed = [length for length in artifact.info.input_shape if isinstance(length, int)]
    if math.prod(fixed) > LARGEST_INPUT:
        raise ValueError(
            f"its input_shape {list(artifact.info.input_shape)} has {math.prod(fixed):,} numbers, "
            f"expected at most {LARGEST_INPUT:,}"
        )


def batch_size(artifact: Artifact, wanted: int | None, *, otherwise: int) -> int:
    """Return how many images go into one call: the file's own number where that is fixed.

    Raises:
        UsageError: Another number is wanted.
    """
    own = artifact.info.input_shape[0]
    if not isinstance(own, int):
        return wanted or otherwise
    if wanted and wanted != own:
        raise UsageError(
            f"{artifact.folder} takes batches of {counted(own, 'image')}, not of {wanted}; leave "
            "--batch-size out, or export it again for another"
        )
    return own


@final
class ArtifactModel:
    """An artifact in the runtime that executes it; a ``Predictor`` for any number of images."""

    def __init__(self, artifact: Artifact, predictor: Predictor) -> None:
        self._artifact = artifact
        self._predictor = predictor
        batch = artifact.info.input_shape[0]
        self._batch_size = batch if isinstance(batch, int) else None

    @property
    def num_classes(self) -> int:
        """How many logits it returns for each image."""
        return len(self._artifact.classes)

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return logits ``[B, K]`` for pixels ``[B, H, W, C]``."""
        return self.predict(self.inputs(images))

    def inputs(self, images: NDArray[np.uint8]) -> NDArray[Any]:
        """Return what the predictor is given for pixels ``[B, H, W, C]``.

        That is normalised images ``[B, C, H, W]`` in float32, or the pixels themselves where the
        file normalises them (``input_type: uint8``).
        """
        from runner.data.normalize import normalize

        if self._artifact.info.input_type == "uint8":
            return images
        return normalize(images, self._artifact.mean, self._artifact.std)

    def predict(self, inputs: NDArray[Any]) -> NDArray[np.float32]:
        """Return logits ``[B, K]`` for ``inputs``.

        A file with a fixed batch runs as often as it takes. What is missing in the last batch is
        filled with copies of that batch's first image, whose logits are left out.
        """
        import numpy as np

        size = self._batch_size
        if size is None or len(inputs) == size:
            return self._predictor.predict(inputs)
        parts = []
        for start in range(0, len(inputs), size):
            part = inputs[start : start + size]
            padding = np.repeat(part[:1], size - len(part), axis=0)
            parts.append(self._predictor.predict(np.concatenate([part, padding]))[: len(part)])
        return np.concatenate(parts)

    def describe(self) -> Mapping[str, Any]:
        """Return which runtime and provider really ran (JSON)."""
        return self._predictor.describe()


def open_predictor(artifact: Artifact, registry: Registry) -> ArtifactModel:
    """Load an artifact with the first installed runtime that knows its format.

    Raises:
        MissingRuntimeError: No runtime does.
        ArtifactError: It is not trusted, and loading it would execute something in it; or it is an
            archive whose members lead outside.
    """
    wanted = artifact.info.format
    try:
        registered = registry.predictor(wanted)
    except UsageError as error:
        raise MissingRuntimeError(str(error)) from None
    if registered.reason:
        raise MissingRuntimeError(f"nothing here runs the format {wanted!r}: {registered.reason}")
    try:
        file = paths.inside(artifact.folder, artifact.info.file)
        if file.is_file():
            archives.check(file)
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{artifact.folder}: {error}; {KIND.remedy}") from None
    if not artifact.trusted:
        _check_harmless(artifact, file, registered)
    with calling(registered, "load()", ArtifactError):
        predictor = registered.entry.load(artifact.folder, artifact.info)
    return ArtifactModel(artifact, CheckedPredictor(predictor, registered, len(artifact.classes)))


def _check_harmless(artifact: Artifact, file: Path, registered: Registered[PredictorEntry]) -> None:
    """Refuse an artifact that would execute something of its own, or was added to.

    Raises:
        ArtifactError: It would, or has been.
    """
    if file.is_file() and artifact.info.file not in artifact.listed:
        raise ArtifactError(
            f"{file} is not among the files that {INFO} lists, so nobody knows where it comes "
            f"from; {TRUST}"
        )
    executes = registered.entry.executes
    if executes is None:
        return
    with calling(registered, "executes()", ArtifactError):
        found = executes(artifact.folder, artifact.info)
    if found:
        raise ArtifactError(f"{file} is not only data: loading it executes {found}; {TRUST}")

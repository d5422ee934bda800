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
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast, final

from runner.contracts import ArtifactInfo
from runner.errors import ArtifactError, MissingRuntimeError, UsageError
from runner.files import sha256

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Any

    import numpy as np
    from numpy.typing import NDArray

    from runner.contracts import Predictor
    from runner.data.transforms import Transform
    from runner.entries import PredictorEntry
    from runner.registry import Registry

FORMAT = 1
INFO, GOLDEN = "artifact.json", "golden.safetensors"


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


def is_artifact(path: Path) -> bool:
    """Say whether a path is an exported artifact."""
    return (path / INFO).is_file()


def read(folder: Path) -> Artifact:
    """Read an artifact and check its files against their checksums.

    Raises:
        ArtifactError: It is not an artifact, or a file is missing or damaged.
    """
    from pydantic import TypeAdapter

    from runner.data.transforms import Transform, off_scale

    try:
        record = json.loads((folder / INFO).read_text(encoding="utf-8"))
        if record["format"] != FORMAT:
            raise ArtifactError(
                f"{folder} has artifact format {record['format']}; this version of runner reads "
                f"format {FORMAT}"
            )
        for name, digest in record["files"].items():
            if sha256(folder / name) != digest:
                raise ArtifactError(
                    f"{folder / name} is damaged: its SHA-256 differs from {INFO}; export it again"
                )
        info = record["info"]
        transforms: list[Transform] = TypeAdapter(list[Transform]).validate_json(
            json.dumps(record["transforms"])
        )
        for key, message in off_scale(record["mean"], record["std"]):
            raise ArtifactError(f"{folder / INFO}: {key}: {message}")
        return Artifact(
            folder=folder,
            info=ArtifactInfo(**{**info, "input_shape": tuple(info["input_shape"])}),
            classes=tuple(record["classes"]),
            transforms=transforms,
            mean=tuple(record["mean"]),
            std=tuple(record["std"]),
            tolerance=record["tolerance"],
            golden=tuple(record["golden"]),
        )
    except OSError as error:
        raise ArtifactError(
            f"{folder} is not a complete artifact: {error.filename}: {error.strerror}; "
            "expected a folder such as runs/quickstart/20260131-120000/exports/onnx"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{folder / INFO} is damaged: {error}; export it again") from None


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
            f"{artifact.folder} takes batches of {own} images, not of {wanted}; leave --batch-size "
            "out, or export it again for another"
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
    """
    wanted = artifact.info.format
    try:
        registered = registry.predictor(wanted)
    except UsageError as error:
        raise MissingRuntimeError(str(error)) from None
    if registered.reason:
        raise MissingRuntimeError(f"nothing here runs the format {wanted!r}: {registered.reason}")
    entry = cast("PredictorEntry", registered.entry)
    return ArtifactModel(artifact, entry.load(artifact.folder, artifact.info))

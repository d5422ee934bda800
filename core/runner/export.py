"""Artifacts: an exported model with everything needed to use it and to check it.

    exports/onnx/
        model.onnx              what the exporter wrote
        artifact.json           format, input, classes, pre-processing, and SHA-256 of all files
        golden.safetensors      logits that the live model gave, and the pixels it saw
        golden/00.png, ...      the raw images they came from

``verify`` replays the raw images, so that a difference in pre-processing is told apart from a
difference in the graph.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, cast

from runner.contracts import ArtifactInfo
from runner.errors import (
    ArtifactError,
    DataError,
    MissingRuntimeError,
    StorageError,
    UsageError,
)
from runner.evaluate import evaluate_predictor
from runner.files import sha256, write_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Any

    import numpy as np
    from numpy.typing import NDArray

    from runner.contracts import Engine, Predictor
    from runner.data.transforms import Transform
    from runner.entries import PredictorEntry
    from runner.events import EventLog
    from runner.plan import Plan
    from runner.registry import Registry
    from runner.session import Split

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """How an artifact compares with the live model it came from."""

    images: int
    pixels_equal: bool
    """The pre-processing gave the pixels that the live model saw."""
    max_difference: float
    """Largest difference of logits, relative to the largest magnitude of the live model's."""
    tolerance: float
    same_top1: int
    """Images for which both choose the same class."""
    runtime: dict[str, Any]

    @property
    def passed(self) -> bool:
        """Whether the artifact agrees with the live model."""
        return self.pixels_equal and self.max_difference <= self.tolerance


def carry_out(
    plan: Plan,
    position: int,
    *,
    engine: Engine,
    val: Split,
    folder: Path,
    registry: Registry,
    events: EventLog,
) -> dict[str, Any]:
    """Write, verify and evaluate item ``position`` of the recipe's ``export`` list.

    Returns:
        What ``result.json`` says of it. ``verified`` is false, with an ``error``, where the export
        failed or disagrees with the live model, and ``None`` where nothing here can run it.
    """
    section, entry = plan.recipe.export[position], plan.exporter_entries[position]
    repeated = [item.name for item in plan.recipe.export[:position]].count(entry.name)
    target = folder / (f"{entry.name}-{repeated + 1}" if repeated else entry.name)
    record: dict[str, Any] = {"name": entry.name, "folder": str(target)}
    try:
        artifact = write(plan, position, engine=engine, val=val, folder=target)
        record |= asdict(artifact.info)
        events.emit("export.written", **record)
        predictor = open_predictor(artifact, registry)
        result = verify(artifact, predictor)
        record |= {"verified": result.passed, "verification": asdict(result)}
        if section.evaluate:
            evaluation = evaluate_predictor(
                predictor,
                val.loader,
                plan.recipe.eval.batch_size,
                mean=artifact.mean,
                std=artifact.std,
            )
            record["metrics"] = evaluation.as_metrics()
        events.emit("export.verified", **record)
        check(artifact, result)
    except MissingRuntimeError as error:
        events.emit("warning", message=f"{target} is not verified: {error}")
        record |= {"verified": None, "reason": str(error)}
    except ArtifactError as error:
        record |= {"verified": False, "error": str(error)}
    return record


def check_all(records: Sequence[Mapping[str, Any]]) -> None:
    """Turn failed exports into one error.

    Raises:
        ArtifactError: An export failed, or disagrees with the live model.
    """
    failed = [record["error"] for record in records if "error" in record]
    if failed:
        raise ArtifactError("\n".join(failed))


def write(plan: Plan, position: int, *, engine: Engine, val: Split, folder: Path) -> Artifact:
    """Export the engine's evaluation model into ``folder``, in place of an earlier artifact.

    Raises:
        ArtifactError: The exporter failed.
        UsageError: Something else than an artifact is in the way.
        StorageError: The folder cannot be written.
    """
    section, entry = plan.recipe.export[position], plan.exporter_entries[position]
    if folder.exists() and not (folder / INFO).is_file():
        raise UsageError(f"{folder} is in the way and is no artifact; choose another --output")
    golden = _read_golden(val, section.verify_images)
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    spec = plan.engine_spec(len(val.classes), training=False)
    try:
        (temporary / "golden").mkdir(parents=True)
        info = entry.export(engine, spec, section.options, temporary)
        names = _write_golden(golden, val, engine, temporary)
        record = {
            "format": FORMAT,
            "recipe": plan.name,
            "model": plan.model_entry.name,
            "framework": plan.framework_entry.name,
            "info": asdict(info),
            "classes": val.classes,
            "transforms": [asdict(step) for step in plan.recipe.transforms.eval],
            "mean": plan.recipe.transforms.mean,
            "std": plan.recipe.transforms.std,
            "tolerance": section.tolerance,
            "golden": names,
            "files": {
                str(path.relative_to(temporary)): sha256(path)
                for path in sorted(temporary.rglob("*"))
                if path.is_file()
            },
        }
        write_json(temporary / INFO, record)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    except OSError as error:
        raise StorageError(f"cannot write {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return read(folder)


def read(folder: Path) -> Artifact:
    """Read an artifact and check its files against their checksums.

    Raises:
        ArtifactError: It is not an artifact, or a file is missing or damaged.
    """
    from pydantic import TypeAdapter

    from runner.data.transforms import Transform

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


def open_predictor(artifact: Artifact, registry: Registry) -> Predictor:
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
    return cast("PredictorEntry", registered.entry).load(artifact.folder, artifact.info)


def verify(artifact: Artifact, predictor: Predictor) -> Verification:
    """Replay the stored images and compare with what the live model answered."""
    import numpy as np
    from safetensors.numpy import load_file

    from runner.data.normalize import normalize
    from runner.data.samples import preprocess

    golden = load_file(artifact.folder / GOLDEN)
    pixels = np.stack(
        [
            preprocess((artifact.folder / name).read_bytes(), artifact.transforms)
            for name in artifact.golden
        ]
    )
    # The graph is fed with the stored pixels: a difference in pre-processing shows on its own.
    logits = predictor.predict(normalize(golden["pixels"], artifact.mean, artifact.std))
    expected = golden["logits"]
    scale = float(np.abs(expected).max()) or 1.0
    return Verification(
        images=len(expected),
        pixels_equal=bool(np.array_equal(pixels, golden["pixels"])),
        max_difference=float(np.abs(logits - expected).max()) / scale,
        tolerance=artifact.tolerance,
        same_top1=int((logits.argmax(axis=1) == expected.argmax(axis=1)).sum()),
        runtime=dict(predictor.describe()),
    )


def check(artifact: Artifact, result: Verification) -> None:
    """Turn a failed verification into an error.

    Raises:
        ArtifactError: The pixels or the logits differ.
    """
    if not result.pixels_equal:
        raise ArtifactError(
            f"{artifact.folder}: the pre-processing here gives other pixels than the live model "
            "saw; compare the versions of pillow in manifest.json and here"
        )
    if not result.passed:
        raise ArtifactError(
            f"{artifact.folder}: the logits differ from the live model's by "
            f"{result.max_difference:.2e} of their largest magnitude, "
            f"allowed {result.tolerance:.2e} "
            f"(top-1 agrees on {result.same_top1} of {result.images} images); "
            "raise export.tolerance only if that is expected, as for a reduced precision"
        )


def _read_golden(val: Split, count: int) -> list[tuple[bytes, str]]:
    """Return raw images spread over the split, and the endings their files should have."""
    import numpy as np

    from runner.data.decode import DamagedImageError
    from runner.data.samples import preprocess, sample_bytes

    total = len(val.dataset.labels)
    samples = []
    for index in np.unique(np.linspace(0, total - 1, min(count, total)).astype(int)).tolist():
        data, suffix = sample_bytes(val.dataset, index)
        try:
            preprocess(data, val.loader.transforms, val.dataset.describe(index))
        except DamagedImageError:
            if val.loader.stops_at_damage:
                raise
            continue  # reported and counted when the split was evaluated
        samples.append((data, suffix))
    if not samples:
        raise DataError("none of the images chosen to verify an export can be read")
    return samples


def _write_golden(
    samples: list[tuple[bytes, str]], val: Split, engine: Engine, folder: Path
) -> list[str]:
    """Store raw images, their pixels, and the engine's logits; return the files' names."""
    import numpy as np
    from safetensors.numpy import save_file

    from runner.data.samples import preprocess

    names = []
    for position, (data, suffix) in enumerate(samples):
        names.append(f"golden/{position:02d}{suffix}")
        (folder / names[-1]).write_bytes(data)
    pixels: NDArray[np.uint8] = np.stack(
        [preprocess(data, val.loader.transforms) for data, _ in samples]
    )
    save_file({"pixels": pixels, "logits": engine.predict(pixels)}, folder / GOLDEN)
    return names

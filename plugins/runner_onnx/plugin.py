"""The entries of the ONNX Runtime plugin; the runtime is imported when an artifact is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.entries import PredictorEntry
from runner.hooks import hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from runner.contracts import ArtifactInfo, Predictor


def _load(folder: Path, info: ArtifactInfo) -> Predictor:
    from runner_onnx.predictor import load_onnx

    return load_onnx(folder, info)


@hookimpl
def runner_register_predictors() -> Iterable[PredictorEntry]:
    """Offer ONNX Runtime."""
    yield PredictorEntry(
        name="onnxruntime",
        summary="ONNX Runtime on the CPU",
        requires=("onnxruntime",),
        install="pip install 'vision-runner[onnx]'",
        formats=("onnx",),
        load=_load,
    )

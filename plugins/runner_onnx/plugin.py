"""The entries of the ONNX Runtime plugin; the runtime is imported when an artifact is loaded."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from runner.entries import ConverterEntry, PredictorEntry
from runner.hooks import hookimpl
from runner_onnx.options import Fp16Options, Int8Options, Int16Options

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from runner.contracts import ArtifactInfo, Predictor
    from runner.entries import ConversionRequest

INSTALL = "pip install 'vision-runner[onnx]'"
CONVERTS = ("onnx", "onnxruntime")


def _to_int8(request: ConversionRequest) -> ArtifactInfo:
    from runner_onnx.quantize import INT8, quantize

    options: Int8Options = request.options
    scheme = replace(INT8, reduce_range=options.reduce_range)
    return quantize(request, scheme, batches=options.calibration_batches)


def _to_int16(request: ConversionRequest) -> ArtifactInfo:
    from runner_onnx.quantize import INT16, quantize

    options: Int16Options = request.options
    return quantize(request, INT16, batches=options.calibration_batches)


def _to_half(request: ConversionRequest) -> ArtifactInfo:
    from runner_onnx.half import to_half

    return to_half(request, request.options)


def _load(folder: Path, info: ArtifactInfo) -> Predictor:
    from runner_onnx.predictor import load_onnx

    return load_onnx(folder, info)


def _executes(folder: Path, info: ArtifactInfo) -> str:
    from runner_onnx.predictor import executes

    return executes(folder, info)


@hookimpl
def runner_register_exporters() -> Iterable[ConverterEntry]:
    """Offer smaller types for what any framework exports to ONNX."""
    yield ConverterEntry(
        name="onnx_int8",
        summary="ONNX with activations and weights of 8 bits, from calibration images",
        config=Int8Options,
        requires=CONVERTS,
        install=INSTALL,
        source="onnx",
        convert=_to_int8,
        tolerance=0.25,
        min_agreement=0.75,
    )
    yield ConverterEntry(
        name="onnx_int16",
        summary="ONNX with activations of 16 bits and weights of 8, from calibration images",
        config=Int16Options,
        requires=CONVERTS,
        install=INSTALL,
        source="onnx",
        convert=_to_int16,
        tolerance=0.1,
        min_agreement=0.9,
    )
    yield ConverterEntry(
        name="onnx_fp16",
        summary="ONNX with weights and arithmetic in half precision",
        config=Fp16Options,
        requires=CONVERTS,
        install=INSTALL,
        source="onnx",
        convert=_to_half,
        tolerance=0.02,
        min_agreement=0.95,
    )


@hookimpl
def runner_register_predictors() -> Iterable[PredictorEntry]:
    """Offer ONNX Runtime."""
    yield PredictorEntry(
        name="onnxruntime",
        summary="ONNX Runtime on the CPU",
        requires=("onnxruntime",),
        install=INSTALL,
        formats=("onnx",),
        load=_load,
        executes=_executes,
    )

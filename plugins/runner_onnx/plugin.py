"""The entries of the ONNX Runtime plugin; the runtime is imported when an artifact is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner import ConverterEntry, PredictorEntry, hookimpl, lazy
from runner_onnx.options import Fp16Options, Int8Options, Int16Options

if TYPE_CHECKING:
    from collections.abc import Iterable

RUNNER_REQUIRES = ("onnxruntime",)
RUNNER_INSTALL = "pip install 'vision-runner[onnx]'"


@hookimpl
def runner_register_exporters() -> Iterable[ConverterEntry]:
    """Offer smaller types for what any framework exports to ONNX."""
    yield ConverterEntry(
        name="onnx_int8",
        summary="ONNX with activations and weights of 8 bits, from calibration images",
        config=Int8Options,
        requires=("onnx",),
        source="onnx",
        convert=lazy("runner_onnx.quantize:to_int8"),
        tolerance=0.25,
        min_agreement=0.75,
    )
    yield ConverterEntry(
        name="onnx_int16",
        summary="ONNX with activations of 16 bits and weights of 8, from calibration images",
        config=Int16Options,
        requires=("onnx",),
        source="onnx",
        convert=lazy("runner_onnx.quantize:to_int16"),
        tolerance=0.1,
        min_agreement=0.9,
    )
    yield ConverterEntry(
        name="onnx_fp16",
        summary="ONNX with weights and arithmetic in half precision",
        config=Fp16Options,
        requires=("onnx",),
        source="onnx",
        convert=lazy("runner_onnx.half:to_half"),
        tolerance=0.02,
        min_agreement=0.95,
    )


@hookimpl
def runner_register_predictors() -> Iterable[PredictorEntry]:
    """Offer ONNX Runtime."""
    yield PredictorEntry(
        name="onnxruntime",
        summary="ONNX Runtime on the CPU",
        formats=("onnx",),
        load=lazy("runner_onnx.predictor:load_onnx"),
        executes=lazy("runner_onnx.predictor:executes"),
    )

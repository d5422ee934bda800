"""ONNX files in integers: static quantisation, which ONNX Runtime computes.

Pairs of QuantizeLinear and DequantizeLinear state scale and zero point of every activation, from
the smallest and largest value that calibration images give it, and scales of the output channels of
every weight. Batch normalisation is folded into the convolutions before.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from sys import maxsize
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, final

from runner.errors import ArtifactError
from runner_onnx.graphs import FILE, explained, load, opset_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np
    import onnx
    from numpy.typing import NDArray

    from runner.contracts import ArtifactInfo
    from runner.entries import ConversionRequest
    from runner_onnx.options import Int8Options, Int16Options

LAYERS = ("Conv", "Gemm", "MatMul")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """What is quantised how."""

    activations: str
    """A member of ONNX Runtime's ``QuantType``."""
    opset: int
    """The first whose operators have it."""
    reduce_range: bool = False
    """Use 7 of the 8 bits of weights."""


# ONNX Runtime's fast kernels on x86 take unsigned activations; signed ones, which are the default
# of its own function, run at a third of the speed.
INT8 = Scheme(activations="QUInt8", opset=13)  # the first with a scale for each channel
INT16 = Scheme(activations="QInt16", opset=21)  # the first with integers of 16 bits


def to_int8(request: ConversionRequest) -> ArtifactInfo:
    """Write ``model.onnx`` with activations and weights of 8 bits; see ``quantize``."""
    options: Int8Options = request.options
    scheme = replace(INT8, reduce_range=options.reduce_range)
    return quantize(request, scheme, batches=options.calibration_batches)


def to_int16(request: ConversionRequest) -> ArtifactInfo:
    """Write ``model.onnx`` with activations of 16 bits and weights of 8; see ``quantize``."""
    options: Int16Options = request.options
    return quantize(request, INT16, batches=options.calibration_batches)


def quantize(request: ConversionRequest, scheme: Scheme, *, batches: int) -> ArtifactInfo:
    """Write ``model.onnx`` with quantised activations, and weights of 8 bits.

    Args:
        request: What to convert, and the images.
        scheme: The types.
        batches: Batches that the ranges of activations are measured on.

    Raises:
        ArtifactError: ONNX Runtime cannot quantise the graph, or finds nothing to quantise.
        OSError: The file cannot be written.
    """
    import onnx
    import onnxruntime

    source, target = request.source / request.info.file, request.folder / FILE
    reader = _Reader(request.info.input_name, islice(request.calibration(maxsize), batches))
    with explained("quantise", source), TemporaryDirectory(dir=request.folder) as scratch:
        _quantize(load(source, opset=scheme.opset), target, reader, scheme, Path(scratch))
        model = onnx.load(str(target))
    quantized, layers = _count_layers(model)
    if not quantized:
        raise ArtifactError(
            f"ONNX Runtime quantised none of the {layers} convolutions and matrix products in "
            f"{source}; leave the conversion out"
        )
    details = {
        "opset": opset_of(model),
        "method": "static, smallest and largest value",
        "activations": scheme.activations.removeprefix("Q").lower(),
        "weights": "int8 per channel, 7 bits" if scheme.reduce_range else "int8 per channel",
        "quantized_layers": quantized,
        "layers": layers,
        "calibration_images": reader.images,
        "onnxruntime": onnxruntime.__version__,
        "source": dict(request.info.details),
    }
    return replace(request.info, file=FILE, details=details)


def _quantize(
    model: onnx.ModelProto, target: Path, reader: _Reader, scheme: Scheme, scratch: Path
) -> None:
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    whole, prepared = scratch / "whole.onnx", scratch / "prepared.onnx"
    onnx.save(model, str(whole))
    # The symbolic inference of shapes needs sympy, and adds nothing for such graphs.
    quant_pre_process(str(whole), str(prepared), skip_symbolic_shape=True)
    quantization.quantize_static(
        str(prepared),
        str(target),
        reader,
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=True,
        reduce_range=scheme.reduce_range,
        activation_type=quantization.QuantType[scheme.activations],
        weight_type=quantization.QuantType.QInt8,
        calibrate_method=quantization.CalibrationMethod.MinMax,
    )


@final
class _Reader:
    """Hands batches to ONNX Runtime, which asks until there are no more."""

    def __init__(self, name: str, batches: Iterator[NDArray[np.float32]]) -> None:
        self._name = name
        self._batches = batches
        self.images = 0

    def get_next(self) -> Mapping[str, NDArray[np.float32]] | None:
        """Return the next batch under the name of the input."""
        batch = next(self._batches, None)
        if batch is None:
            return None
        self.images += len(batch)
        return {self._name: batch}


def _count_layers(model: onnx.ModelProto) -> tuple[int, int]:
    """Return how many convolutions and matrix products have quantised weights, and all."""
    restored = {
        name
        for node in model.graph.node
        if node.op_type == "DequantizeLinear"
        for name in node.output
    }
    layers = [node for node in model.graph.node if node.op_type in LAYERS]
    return sum(node.input[1] in restored for node in layers), len(layers)

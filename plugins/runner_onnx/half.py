"""ONNX files in half precision."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from runner.errors import ArtifactError
from runner_onnx.graphs import FILE, explained, load, opset_of

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx

    from runner.contracts import ArtifactInfo
    from runner.entries import ConversionRequest
    from runner_onnx.options import Fp16Options

LARGEST = 65504.0
"""The largest finite number in half precision."""


def to_half(request: ConversionRequest) -> ArtifactInfo:
    """Write ``model.onnx`` with weights and arithmetic in fp16.

    Raises:
        ArtifactError: A weight is too large, or the graph cannot be converted.
        OSError: The file cannot be written.
    """
    import onnx
    import onnxruntime

    options: Fp16Options = request.options
    source = request.source / request.info.file
    with explained("convert to fp16", source):
        model = load(source)
        _check_range(model)
        model = _converter()(model, keep_io_types=options.keep_io_types)
        _sort(model.graph)
        onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(request.folder / FILE))
    return replace(
        request.info,
        file=FILE,
        input_type="float32" if options.keep_io_types else "float16",
        details={
            "opset": opset_of(model),
            "weights": "float16",
            "activations": "float16",
            "onnxruntime": onnxruntime.__version__,
            "source": dict(request.info.details),
        },
    )


def _converter() -> Callable[..., onnx.ModelProto]:
    """Return ONNX Runtime's function; its package puts its folder on the path, which is undone."""
    before = list(sys.path)
    try:
        from onnxruntime.transformers.float16 import convert_float_to_float16
    finally:
        sys.path[:] = before
    return cast("Callable[..., onnx.ModelProto]", convert_float_to_float16)


def _sort(graph: onnx.GraphProto) -> None:
    """Put every node behind those that it depends on, as ONNX asks; new ones stand at the end."""
    known = {"", *(item.name for item in (*graph.input, *graph.initializer))}
    ordered: list[onnx.NodeProto] = []
    waiting = list(graph.node)
    while waiting:
        left = []
        for node in waiting:
            if known.issuperset(node.input):
                ordered.append(node)
                known.update(node.output)
            else:
                left.append(node)
        if len(left) == len(waiting):
            raise ValueError(f"node {left[0].name!r} has an input that no other node gives")
        waiting = left
    del graph.node[:]
    graph.node.extend(ordered)


def _check_range(model: onnx.ModelProto) -> None:
    """Refuse weights that the conversion would clip.

    Raises:
        ArtifactError: There are such weights; the largest is named.
    """
    import numpy as np
    from onnx import TensorProto, numpy_helper

    largest = {
        item.name: float(np.abs(numpy_helper.to_array(item)).max(initial=0))
        for item in model.graph.initializer
        if item.data_type == TensorProto.FLOAT
    }
    name = max(largest, key=lambda item: largest[item], default="")
    if name and not largest[name] <= LARGEST:
        raise ArtifactError(
            f"weight {name} has the magnitude {largest[name]:g}, which fp16 cannot hold "
            f"(at most {LARGEST:g}); export the model in fp32"
        )

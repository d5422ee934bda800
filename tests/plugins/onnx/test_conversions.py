"""Smaller types agree with the file that they were made from, and are what they say."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from runner import ArtifactInfo
from runner.entries import ConversionRequest
from runner.errors import ArtifactError
from runner_onnx.options import Fp16Options, Int8Options, Int16Options
from runner_onnx.plugin import runner_register_exporters
from runner_onnx.predictor import load_onnx

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

CONVERTERS = {entry.name: entry for entry in runner_register_exporters()}
INFO = ArtifactInfo(
    format="onnx",
    file="whole.onnx",
    input_name="input",
    input_shape=("batch", 3, 8, 8),
    output_name="logits",
)
CHANNELS = (3, 16, 32)
CLASSES = 10


def write_net(folder: Path, opset: int, *, layers: bool = True, largest: float = 1.0) -> None:
    """Write two convolutions with batch normalisation, pooling and a matrix product."""
    helper, float32 = onnx.helper, onnx.TensorProto.FLOAT
    random = np.random.default_rng(0)
    weights: dict[str, NDArray[np.float32]] = {}
    nodes: list[Any] = []
    last = "input"

    def add(kind: str, *arrays: NDArray[Any], **attributes: Any) -> None:
        nonlocal last
        names = [f"{kind}{len(nodes)}.{index}" for index in range(len(arrays))]
        weights.update(zip(names, (array.astype(np.float32) for array in arrays), strict=True))
        output = f"out{len(nodes)}"
        nodes.append(helper.make_node(kind, [last, *names], [output], **attributes))
        last = output

    width = CHANNELS[-1] if layers else CHANNELS[0]
    for before, after in pairwise(CHANNELS) if layers else ():
        add("Conv", random.normal(0, 0.3, (after, before, 3, 3)), pads=[1] * 4, strides=[2, 2])
        scale, shift = random.uniform(0.5, 1.5, after), random.normal(0, 0.2, after)
        add("BatchNormalization", scale, shift, shift, scale)
        add("Relu")
    add("GlobalAveragePool")
    add("Flatten")
    if layers:
        add("Gemm", largest * random.normal(0, 0.3, (width, CLASSES)), np.zeros(CLASSES))
    nodes[-1].output[0] = "logits"
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("input", float32, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("logits", float32, ["batch", CLASSES if layers else width])],
        [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=6 if opset < 13 else 8
    )
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, folder / INFO.file)


@pytest.fixture
def images() -> NDArray[np.float32]:
    return np.random.default_rng(1).normal(0, 1, (36, 3, 8, 8)).astype(np.float32)


@pytest.fixture
def request_for(tmp_path, monkeypatch, images):
    """Make a request to convert a net, with three batches of twelve calibration images."""
    monkeypatch.chdir(tmp_path)

    def calibration(count: int) -> Iterator[NDArray[np.float32]]:
        for start in range(0, min(count, 36), 12):
            yield images[start : start + 12]

    def make(options: object, opset: int = 20, **net: Any) -> ConversionRequest:
        source, folder = tmp_path / "source", tmp_path / "converted"
        source.mkdir()
        folder.mkdir()
        write_net(source, opset, **net)
        return ConversionRequest(
            source=source,
            info=INFO,
            spec=None,  # type: ignore[arg-type]
            transforms=(),
            options=options,
            calibration=calibration,
            folder=folder,
        )

    return make


def difference(request: ConversionRequest, info: ArtifactInfo, images: Any) -> float:
    expected = load_onnx(request.source, request.info).predict(images)
    found = load_onnx(request.folder, info).predict(images)
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def initializers(model: Any, node_type: str, position: int) -> list[NDArray[Any]]:
    arrays = {item.name: onnx.numpy_helper.to_array(item) for item in model.graph.initializer}
    names = [node.input[position] for node in model.graph.node if node.op_type == node_type]
    return [arrays[name] for name in names if name in arrays]


@pytest.mark.parametrize("opset", [11, 20])
@pytest.mark.parametrize(
    ("name", "options", "opset_needed", "activations", "close"),
    [
        ("onnx_int8", Int8Options(calibration_batches=2), 13, np.uint8, 0.05),
        ("onnx_int16", Int16Options(calibration_batches=2), 21, np.int16, 0.02),
    ],
)
def test_integers(
    request_for, images, name, options, opset, opset_needed, activations, close, capfd, caplog
):
    request = request_for(options, opset)
    handlers = list(logging.getLogger().handlers)
    info = CONVERTERS[name].convert(request)
    assert [path.name for path in request.folder.iterdir()] == [info.file] == ["model.onnx"]
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["converted", "source"]
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
    assert logging.getLogger().handlers == handlers

    assert (info.format, info.input_type) == ("onnx", "float32")
    assert info.input_shape == ("batch", 3, 8, 8)
    assert info.details["calibration_images"] == 24
    assert info.details["layers"] == info.details["quantized_layers"] == 3
    assert info.details["opset"] == max(opset, opset_needed)
    model = onnx.load(request.folder / info.file)
    onnx.checker.check_model(model, full_check=True)
    assert not [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    zero_points = initializers(model, "QuantizeLinear", 2)
    assert zero_points
    assert {array.dtype for array in zero_points} == {np.dtype(activations)}
    weights = [array for array in initializers(model, "DequantizeLinear", 0) if array.ndim > 1]
    assert {array.dtype for array in weights} == {np.dtype(np.int8)}
    scales = {array.size for array in initializers(model, "DequantizeLinear", 1)}
    assert scales >= {16, 32, 10}, "one for each output channel"
    for count in (1, 3, 24):
        assert 0 < difference(request, info, images[:count]) < close


def test_calibration_stops_at_the_batches_asked_for(request_for):
    request = request_for(Int8Options(calibration_batches=1))
    info = CONVERTERS["onnx_int8"].convert(request)
    assert info.details["calibration_images"] == 12


def test_a_range_of_seven_bits(request_for, images):
    request = request_for(Int8Options(reduce_range=True))
    info = CONVERTERS["onnx_int8"].convert(request)
    model = onnx.load(request.folder / info.file)
    weights = [array for array in initializers(model, "DequantizeLinear", 0) if array.ndim > 1]
    assert max(np.abs(array.astype(int)).max() for array in weights) <= 64
    assert difference(request, info, images[:24]) < 0.1


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("opset", [11, 20])
def test_half_precision(request_for, images, keep, opset):
    request = request_for(Fp16Options(keep_io_types=keep), opset)
    path = list(sys.path)
    info = CONVERTERS["onnx_fp16"].convert(request)
    assert sys.path == path
    assert info.input_type == ("float32" if keep else "float16")
    model = onnx.load(request.folder / info.file)
    onnx.checker.check_model(model, full_check=True)
    kinds = {
        value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)
    }
    assert kinds == {onnx.TensorProto.FLOAT if keep else onnx.TensorProto.FLOAT16}
    assert {item.data_type for item in model.graph.initializer} == {onnx.TensorProto.FLOAT16}
    assert info.details["opset"] == opset
    for count in (1, 3, 24):
        assert 0 < difference(request, info, images[:count]) < 5e-3


def test_a_weight_that_half_precision_cannot_hold(request_for):
    request = request_for(Fp16Options(), largest=1e6)
    with pytest.raises(ArtifactError, match=r"weight Gemm8\.0 has the magnitude .* cannot hold"):
        CONVERTERS["onnx_fp16"].convert(request)


def test_a_graph_with_nothing_to_quantise(request_for):
    request = request_for(Int8Options(), layers=False)
    with pytest.raises(ArtifactError, match="quantised none of the 0 convolutions"):
        CONVERTERS["onnx_int8"].convert(request)


def test_no_image_to_calibrate_with(request_for):
    request = replace(request_for(Int8Options()), calibration=lambda _: iter(()))
    with pytest.raises(ArtifactError, match="cannot quantise"):
        CONVERTERS["onnx_int8"].convert(request)


def test_a_file_that_is_no_graph(request_for):
    request = request_for(Fp16Options())
    (request.source / INFO.file).write_bytes(b"no model")
    with pytest.raises(ArtifactError, match="cannot convert to fp16"):
        CONVERTERS["onnx_fp16"].convert(request)

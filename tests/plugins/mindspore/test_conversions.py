"""What MindSpore exports to ONNX, whose opset is 11, can be converted to smaller types."""

from __future__ import annotations

import numpy as np
import pytest

from runner import NoOptions
from runner.entries import ConversionRequest
from runner_mindspore.plugin import runner_register_exporters
from runner_onnx import plugin
from runner_onnx.predictor import load_onnx

mindspore = pytest.importorskip("mindspore")
pytest.importorskip("onnxruntime")

EXPORTERS = {entry.name: entry.export for entry in runner_register_exporters()}
CONVERTERS = {entry.name: entry for entry in plugin.runner_register_exporters()}


def test_conversions_have_the_logits_of_the_engine(make_spec, make_engine, make_batches, tmp_path):
    what = {"model": "resnet18", "optimizer": None}
    engine, spec = make_engine(**what), make_spec(**what)
    images = make_batches(1, images=8)[0].images
    expected = engine.predict(images)
    inputs = (images / np.float32(255) - np.float32(spec.mean)) / np.float32(spec.std)
    inputs = np.ascontiguousarray(inputs.transpose(0, 3, 1, 2), np.float32)
    source = tmp_path / "source"
    source.mkdir()
    exported = EXPORTERS["onnx"](engine, spec, NoOptions(), source)
    for name, opset, close in (
        ("onnx_int8", 13, 0.2),
        ("onnx_int16", 21, 0.1),
        ("onnx_fp16", 11, 0.01),
    ):
        folder = tmp_path / name
        folder.mkdir()
        request = ConversionRequest(
            source=source,
            info=exported,
            spec=spec,
            transforms=(),
            options=CONVERTERS[name].config(),
            calibration=lambda _: iter([inputs]),
            folder=folder,
        )
        info = CONVERTERS[name].convert(request)
        assert info.details["opset"] == opset
        for count in (1, 8):
            found = load_onnx(folder, info).predict(inputs[:count])
            assert np.abs(found - expected[:count]).max() < close * np.abs(expected).max()

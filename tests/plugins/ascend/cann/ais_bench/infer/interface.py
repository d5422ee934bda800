"""The part of the tool's Python interface that is used here."""

from __future__ import annotations

import io
import json
import os
import zipfile

import numpy as np

from ais_bench import aipp


class InferSession:
    """A model that the stand-in for the compiler wrote."""

    def __init__(self, device_id, model_path):
        if device_id != 0:
            raise RuntimeError(f"no device {device_id}")
        import onnxruntime

        with zipfile.ZipFile(model_path) as file:
            settings = json.loads(file.read("settings.json"))
            self._aipp = aipp.parse(file.read("aipp.txt").decode())
            network = io.BytesIO(file.read("model.onnx")).getvalue()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            network, options, providers=["CPUExecutionProvider"]
        )
        self._input = settings["input"]
        self._shape = settings["shape"]
        self._dtype = np.dtype(os.environ.get("STAND_IN_AIPP_DTYPE", "float32"))
        self.input_shape = (self._shape[0], *aipp.source_shape(self._aipp), 3)

    def infer(self, feeds, mode="static"):
        assert mode == "static"
        [pixels] = feeds
        if pixels.shape != self.input_shape:
            raise RuntimeError(f"input of {pixels.shape}, the model takes {self.input_shape}")
        tensor = aipp.apply(self._aipp, pixels, self._dtype).astype(np.float32)
        assert list(tensor.shape) == self._shape
        return self._session.run(None, {self._input: tensor})

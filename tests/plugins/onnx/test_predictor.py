"""ONNX Runtime runs what the description says."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from runner import ArtifactInfo
from runner.errors import ArtifactError
from runner_onnx.plugin import runner_register_predictors
from runner_onnx.predictor import executes, load_onnx

if TYPE_CHECKING:
    from pathlib import Path

INFO = ArtifactInfo(
    format="onnx",
    file="model.onnx",
    input_name="input",
    input_shape=("batch", 3, 2, 2),
    output_name="logits",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model whose logits are the twelve inputs, doubled."""
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["input"], ["flat"], axis=1),
            helper.make_node("Add", ["flat", "flat"], ["logits"]),
        ],
        "double",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, 2, 2])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 12])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, tmp_path / "model.onnx")
    return tmp_path


def test_it_runs_with_any_batch(folder: Path) -> None:
    (entry,) = runner_register_predictors()
    assert entry.formats == ("onnx",)
    predictor = entry.load(folder, INFO)
    for batch in (1, 3):
        inputs = np.arange(batch * 12, dtype=np.float32).reshape(batch, 3, 2, 2)
        logits = predictor.predict(inputs)
        assert logits.dtype == np.float32
        assert np.array_equal(logits, 2 * inputs.reshape(batch, 12))


def test_it_says_what_ran(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    description = load_onnx(folder, INFO).describe()
    assert description["runtime"] == "onnxruntime"
    assert description["providers"] == ["CPUExecutionProvider"]
    assert description["threads"] == 1


def test_a_description_of_another_file(folder: Path) -> None:
    with pytest.raises(ArtifactError, match="no input or output 'images', it has input"):
        load_onnx(folder, replace(INFO, input_name="images"))


def test_a_damaged_file(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(ArtifactError, match="export the model again"):
        load_onnx(folder, INFO)


@pytest.mark.parametrize("place", ["weights.bin", "../../secret"])
def test_tensors_in_other_files_are_found(folder: Path, place: str) -> None:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=place)
    model = onnx.load(folder / "model.onnx")
    assert executes(folder, INFO) == ""
    model.graph.doc_string = "a location"
    onnx.save(model, folder / "model.onnx")
    assert executes(folder, INFO) == ""
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor))
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    assert executes(folder, INFO) == f"a read of the file {place!r}"
    (folder / "model.onnx").write_bytes(b"location")
    assert "onnx cannot read it" in executes(folder, INFO)

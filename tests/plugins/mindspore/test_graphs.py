"""MINDIR files are read as data: what MindSpore would execute beside arithmetic is found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from runner import ArtifactInfo, NoOptions
from runner_mindspore import graphs
from runner_mindspore.plugin import runner_register_exporters

if TYPE_CHECKING:
    from pathlib import Path

EXPORT = {entry.name: entry.export for entry in runner_register_exporters()}["mindir"]


def executes(path: Path) -> str:
    info = ArtifactInfo(
        format="mindir", file=path.name, input_name="x", input_shape=("n", 3, 8, 8), output_name="y"
    )
    return graphs.executes(path.parent, info)


@pytest.fixture
def path(make_engine: Any, make_spec: Any, tmp_path: Path) -> Path:
    EXPORT(make_engine(optimizer=None), make_spec(), NoOptions(), tmp_path)
    return tmp_path / "model.mindir"


def test_what_is_executed_is_found(path: Path) -> None:
    from mindspore.train import mind_ir_pb2

    assert executes(path) == ""
    data = path.read_bytes()

    def changed() -> Any:
        model = mind_ir_pb2.ModelProto()
        model.ParseFromString(data)
        return model

    model = changed()
    model.primitives[0].op_type = "Custom"
    path.write_bytes(model.SerializeToString())
    assert executes(path) == "the operator 'Custom'"
    model = changed()
    model.graph.node[-1].op_type = "PyExecute"
    path.write_bytes(model.SerializeToString())
    assert executes(path) == "the operator 'PyExecute'"
    model = changed()
    model.graph.parameter[0].external_data.location = "../x"
    path.write_bytes(model.SerializeToString())
    assert executes(path) == "a read of the file '../x'"
    path.write_bytes(b"\xff" * 100)
    assert "no MINDIR file" in executes(path)

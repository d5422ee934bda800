"""Exported programs are read as data: what torch would execute is found before it does."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import re
import zipfile
from typing import TYPE_CHECKING, Any

import pytest

from runner import ArtifactInfo
from runner_torch import programs
from runner_torch.autoload import torch
from runner_torch.exporters import ProgramPredictor, dynamic_shapes, quiet_torch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PROGRAM = "models/model.json"


def executes(path: Path) -> str:
    info = ArtifactInfo(
        format="torch_export", file=path.name, input_name="x", input_shape=(2, 3), output_name="y"
    )
    return programs.executes(path.parent, info)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Flatten()
    )
    path = tmp_path_factory.mktemp("program") / "model.pt2"
    with quiet_torch():
        shapes = dynamic_shapes()
        found = torch.export.export(
            module.eval(), (torch.zeros(2, 3, 6, 6),), dynamic_shapes=shapes
        )
        torch.export.save(found, path)
    return path


def rewritten(source: Path, target: Path, member: str, change: Callable[[bytes], bytes]) -> Path:
    """Copy an archive with one member changed, or a new one where there is none of that name."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        names = old.namelist()
        root = names[0].partition("/")[0]
        for name in names:
            data = old.read(name)
            new.writestr(name, change(data) if name == f"{root}/{member}" else data)
        if f"{root}/{member}" not in names:
            new.writestr(f"{root}/{member}", change(b""))
    return target


def edited(source: Path, target: Path, edit: Callable[[dict[str, Any]], None]) -> Path:
    def change(data: bytes) -> bytes:
        found = json.loads(data)
        edit(found)
        return json.dumps(found).encode()

    return rewritten(source, target, PROGRAM, change)


class Touch:
    """A pickle that leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_what_an_exporter_writes_is_data(program: Path) -> None:
    assert executes(program) == ""
    ProgramPredictor(program)


def test_a_pickle_is_found_and_not_read(program: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    buffer = io.BytesIO()
    torch.save((Touch(victim),), buffer)
    changed = rewritten(
        program, tmp_path / "x.pt2", "data/sample_inputs/model.pt", lambda _: buffer.getvalue()
    )
    assert "the pickle data/sample_inputs/model.pt" in executes(changed)
    assert not victim.exists()
    with quiet_torch(), contextlib.suppress(Exception):  # torch 2.11 takes it, later ones fail
        torch.export.load(changed)
    assert victim.exists(), "torch executes it, which is why it is looked for"


@pytest.mark.parametrize("folder", ["weights", "constants"])
def test_a_tensor_as_pickle_is_found(program: Path, tmp_path: Path, folder: str) -> None:
    name = f"data/{folder}/model_{folder}_config.json"
    item = {"path_name": "tensor_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
    config = json.dumps({"config": {"x": item}}).encode()
    changed = rewritten(program, tmp_path / "x.pt2", name, lambda _: config)
    assert executes(changed) == "the pickle of 'x'"


@pytest.mark.parametrize(
    "member",
    [
        "data/weights/model.pt",
        "data/constants/opaque_obj_0",
        "data/constants/custom_obj_0",
        "data/aotinductor/model/model.so",
    ],
)
def test_members_that_are_code_are_found(program: Path, tmp_path: Path, member: str) -> None:
    changed = rewritten(program, tmp_path / "x.pt2", member, lambda _: pickle.dumps(1))
    assert re.search(f"'[^']*{member}'", executes(changed))


@pytest.mark.parametrize(
    "target",
    [
        "torch.os.system",
        "torch.ops.aten.from_file.default",
        "torch.ops.mylib.op.default",
        "_operator.methodcaller",
        "math.exp",
        "#x:y",
        "torch.ops.aten.add.Tensor.__globals__",
    ],
)
def test_functions_beside_arithmetic_are_found(program: Path, tmp_path: Path, target: str) -> None:
    def edit(found: dict[str, Any]) -> None:
        found["graph_module"]["graph"]["nodes"][0]["target"] = target

    assert executes(edited(program, tmp_path / "x.pt2", edit)) == f"the function {target!r}"


@pytest.mark.parametrize(
    "text",
    ["__import__('os').system('x')", "s0.__class__", "9**9**9", "open('s1')", "Symbol('x y')"],
)
def test_expressions_that_python_would_evaluate_are_found(
    program: Path, tmp_path: Path, text: str
) -> None:
    def edit(found: dict[str, Any]) -> None:
        values = found["graph_module"]["graph"]["tensor_values"]
        values["x"] = {"sizes": [{"as_expr": {"expr_str": text}}]}

    assert executes(edited(program, tmp_path / "x.pt2", edit)) == f"the expression {text!r}"


def test_guards_and_containers_are_found(program: Path, tmp_path: Path) -> None:
    def guard(found: dict[str, Any]) -> None:
        found["guards_code"] = ["print(1)"]

    def container(found: dict[str, Any]) -> None:
        call = found["graph_module"]["module_call_graph"][0]["signature"]
        call["in_spec"] = call["in_spec"].replace("builtins.dict", "collections.defaultdict")

    assert "guards" in executes(edited(program, tmp_path / "g.pt2", guard))
    assert "collections.defaultdict" in executes(edited(program, tmp_path / "c.pt2", container))


def test_a_damaged_file_is_never_taken_for_data(program: Path, tmp_path: Path) -> None:
    data = program.read_bytes()
    for cut in (0, 10, len(data) // 2, len(data) - 5):
        (tmp_path / "x.pt2").write_bytes(data[:cut])
        assert executes(tmp_path / "x.pt2") != ""

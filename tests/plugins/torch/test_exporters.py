"""Exports agree with the engine, and leave it alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import onnx
import pytest
from pydantic import TypeAdapter

from runner import NoOptions
from runner.contracts import ArtifactInfo
from runner.errors import ArtifactError
from runner.framework.options import ResNetOptions
from runner_onnx.predictor import load_onnx
from runner_torch.autoload import torch
from runner_torch.compiled import load_compiled
from runner_torch.exporters import load_program
from runner_torch.options import CompiledOptions, OnnxOptions
from runner_torch.plugin import runner_register_exporters, runner_register_models

if TYPE_CHECKING:
    from tests.plugins.torch.conftest import MakeBatches, MakeEngine, MakeEntry, MakeSpec

    from runner import Batch
    from runner.contracts import Predictor
    from runner.entries import EngineSpec
    from runner_torch.engine import TorchEngine

Trained: TypeAlias = "tuple[TorchEngine, EngineSpec]"
EXPORTERS = {entry.name: entry for entry in runner_register_exporters()}
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)
FULL = Path("/dev/full")


@pytest.fixture
def trained(make_spec: MakeSpec, make_engine: MakeEngine, make_batches: MakeBatches) -> Trained:
    """An engine whose average differs from its weights, and its spec."""
    engine = make_engine(model="resnet18", ema_decay=0.5)
    engine.train_step(make_batches(1)[0], 0.01)
    return engine, make_spec(model="resnet18", ema_decay=0.5)


def difference(predictor: Predictor, engine: TorchEngine, batch: Batch) -> float:
    inputs = ((batch.images / np.float32(255) - MEAN) / STD).transpose(0, 3, 1, 2)
    expected = engine.predict(batch.images)
    found = predictor.predict(np.ascontiguousarray(inputs, np.float32))
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("opset", [20, 13])
def test_onnx(
    trained: Trained,
    make_batches: MakeBatches,
    tmp_path: Path,
    opset: int,
    capfd: pytest.CaptureFixture[str],
) -> None:
    engine, spec = trained
    info = EXPORTERS["onnx"].export(engine, spec, OnnxOptions(opset=opset), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [info.file] == ["model.onnx"]
    assert (info.format, info.input_name, info.output_name) == ("onnx", "input", "logits")
    assert info.input_shape == ("batch", 3, 32, 32)
    assert info.details["opset"] == opset
    json.dumps(info.details)
    model = onnx.load(tmp_path / info.file)
    onnx.checker.check_model(model)
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    predictor = load_onnx(tmp_path, info)
    for images in (1, 5):
        assert difference(predictor, engine, make_batches(1, images=images)[0]) < 1e-4
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(("opset", "size"), [(20, 32), (13, 34)])
def test_onnx_of_a_stem_that_pads_at_the_end(
    make_spec: MakeSpec,
    make_engine: MakeEngine,
    make_batches: MakeBatches,
    tmp_path: Path,
    opset: int,
    size: int,
) -> None:
    options = ResNetOptions(max_pool_padding="end")
    spec = make_spec(model="resnet18", model_options=options, image_size=(size, size))
    engine = make_engine(model="resnet18", model_options=options)
    info = EXPORTERS["onnx"].export(engine, spec, OnnxOptions(opset=opset), tmp_path)
    batch = make_batches(1, images=3, size=size)[0]
    assert difference(load_onnx(tmp_path, info), engine, batch) < 1e-4


@pytest.mark.parametrize("opset", [20, 11])
def test_onnx_with_names_file_and_batch_of_ones_own(
    trained: Trained, make_batches: MakeBatches, tmp_path: Path, opset: int
) -> None:
    engine, spec = trained
    options = OnnxOptions(
        opset=opset,
        batch_size=16,
        input_name="actual_input_1",
        output_name="output1",
        file="resnet50_official.onnx",
    )
    info = EXPORTERS["onnx"].export(engine, spec, options, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [info.file] == ["resnet50_official.onnx"]
    assert (info.input_name, info.output_name) == ("actual_input_1", "output1")
    assert info.input_shape == (16, 3, 32, 32)
    graph = onnx.load(tmp_path / info.file).graph
    [given], [returned] = graph.input, graph.output
    assert (given.name, returned.name) == ("actual_input_1", "output1")
    assert [dim.dim_value for dim in given.type.tensor_type.shape.dim] == [16, 3, 32, 32]
    batch = make_batches(1, images=16)[0]
    assert difference(load_onnx(tmp_path, info), engine, batch) < 1e-4


@pytest.mark.parametrize(
    ("keys", "found"),
    [
        ({"file": "elsewhere/model.onnx"}, "elsewhere/model.onnx"),
        ({"file": "model.bin"}, "model.bin"),
        ({"input_name": "x", "output_name": "x"}, "input_name is 'x'"),
        ({"batch_size": 0}, "greater than 0"),
    ],
)
def test_onnx_options_that_cannot_work_are_refused(keys: dict[str, Any], found: str) -> None:
    with pytest.raises(ValueError, match=found):
        TypeAdapter(OnnxOptions).validate_json(json.dumps(keys))


@pytest.mark.slow
@pytest.mark.parametrize("opset", [20, 11])
@pytest.mark.parametrize("name", [entry.name for entry in runner_register_models()])
def test_every_model_is_exported_to_onnx(
    make_spec: MakeSpec,
    make_engine: MakeEngine,
    make_batches: MakeBatches,
    tmp_path: Path,
    name: str,
    opset: int,
) -> None:
    # the older exporter has no pooling to more pixels than there are
    size = 224 if name.startswith(("alexnet", "vgg")) else 64
    engine = make_engine(model=name, optimizer=None, image_size=(size, size))
    spec = make_spec(model=name, optimizer=None, image_size=(size, size))
    info = EXPORTERS["onnx"].export(engine, spec, OnnxOptions(opset=opset), tmp_path)
    assert info.details["opset"] == opset
    batch = make_batches(1, images=3, size=size)[0]
    assert difference(load_onnx(tmp_path, info), engine, batch) < 1e-4


@pytest.mark.slow  # the compiler takes ten seconds and more
@pytest.mark.parametrize("batch_size", [None, 3])
def test_aot_inductor(
    make_spec: MakeSpec,
    make_engine: MakeEngine,
    make_batches: MakeBatches,
    tmp_path: Path,
    batch_size: int | None,
) -> None:
    engine, spec = make_engine(optimizer=None), make_spec(optimizer=None)
    options = CompiledOptions(batch_size=batch_size)
    info = EXPORTERS["aot_inductor"].export(engine, spec, options, tmp_path)
    assert (info.format, info.file) == ("aot_inductor", "model.pt2")
    assert info.input_shape == (batch_size or "batch", 3, 32, 32)
    predictor = load_compiled(tmp_path, info)
    for images in (1, 5) if batch_size is None else (batch_size,):
        assert difference(predictor, engine, make_batches(1, images=images)[0]) < 1e-4
    assert predictor.describe()["runtime"] == "aot_inductor"


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # of torch 2.11 within itself
def test_aot_inductor_without_a_compiler_says_what_is_missing(
    make_spec: MakeSpec, make_engine: MakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._inductor import config, cpp_builder

    monkeypatch.setattr(config.cpp, "cxx", (None, "/nowhere/g++"))
    cpp_builder.cpp_compiler_search.cache_clear()
    engine, spec = make_engine(optimizer=None), make_spec(optimizer=None)
    with pytest.raises(ArtifactError, match=r"(?s)cannot compile tiny.*/nowhere/g\+\+.*CXX"):
        EXPORTERS["aot_inductor"].export(engine, spec, CompiledOptions(), tmp_path)
    cpp_builder.cpp_compiler_search.cache_clear()
    assert not list(tmp_path.iterdir())


def test_a_damaged_compiled_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.pt2").write_bytes(b"PK\x03\x04 damaged")
    info = ArtifactInfo(
        format="aot_inductor",
        file="model.pt2",
        input_name="input",
        input_shape=("batch", 3, 32, 32),
        output_name="logits",
    )
    with pytest.raises(
        ArtifactError, match=r"model\.pt2 cannot be loaded .* compile the model again"
    ):
        load_compiled(tmp_path, info)


def test_torch_export(trained: Trained, make_batches: MakeBatches, tmp_path: Path) -> None:
    engine, spec = trained
    info = EXPORTERS["torch_export"].export(engine, spec, NoOptions(), tmp_path)
    assert (info.format, info.file) == ("torch_export", "model.pt2")
    predictor = load_program(tmp_path, info)
    for images in (1, 5):
        assert difference(predictor, engine, make_batches(1, images=images)[0]) < 1e-4
    assert predictor.describe()["runtime"] == "torch.export"


def test_exporting_does_not_disturb_training(
    make_spec: MakeSpec,
    make_engine: MakeEngine,
    make_tiny: MakeEntry,
    make_batches: MakeBatches,
    tmp_path: Path,
) -> None:
    model = make_tiny(dropout=0.5)
    first, second = make_batches(2)
    engines = [make_engine(model=model), make_engine(model=model)]
    for number, engine in enumerate(engines):
        torch.manual_seed(0)
        engine.train_step(first, 0.1)
        if number:
            spec = make_spec(model=model)
            EXPORTERS["torch_export"].export(engine, spec, NoOptions(), tmp_path)
            EXPORTERS["onnx"].export(engine, spec, OnnxOptions(), tmp_path)
        engine.train_step(second, 0.1)
    straight, exported = (engine.weights() for engine in engines)
    assert all(np.array_equal(straight[name], exported[name]) for name in straight)


def test_another_opset_than_asked_for_is_an_error(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, spec = trained
    export = torch.onnx.export

    def stubborn(*arguments: Any, **keywords: Any) -> object:
        return export(*arguments, **{**keywords, "opset_version": 18})

    monkeypatch.setattr(torch.onnx, "export", stubborn)
    with pytest.raises(ArtifactError, match=r"asked for ONNX opset 20, .* wrote opset 18"):
        EXPORTERS["onnx"].export(engine, spec, OnnxOptions(), tmp_path)


@pytest.mark.skipif(not FULL.exists(), reason="the system has no device that is always full")
@pytest.mark.parametrize(
    ("name", "options", "file"),
    [
        ("torch_export", NoOptions(), "model.pt2"),
        ("onnx", OnnxOptions(), "model.onnx"),
        ("onnx", OnnxOptions(opset=13), "model.onnx"),
    ],
)
def test_a_full_disk_is_an_os_error(
    make_spec: MakeSpec,
    make_engine: MakeEngine,
    tmp_path: Path,
    name: str,
    options: Any,
    file: str,
) -> None:
    (tmp_path / file).symlink_to(FULL)
    with pytest.raises(OSError, match="No space left on device"):
        EXPORTERS[name].export(make_engine(), make_spec(), options, tmp_path)


def test_a_model_that_cannot_be_traced(
    make_spec: MakeSpec,
    make_engine: MakeEngine,
    make_tiny: MakeEntry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def forward(self: Any, images: torch.Tensor) -> Any:
        values = images.flatten(1)
        return self.fc(values[:, :8] if images.sum().item() > 0 else values[:, 8:16])

    model = make_tiny()
    built = model.build(None, 10)
    monkeypatch.setattr(type(built), "forward", forward)
    engine, spec = make_engine(model=model), make_spec(model=model)
    with pytest.raises(ArtifactError, match=r"torch\.export cannot trace tiny"):
        EXPORTERS["torch_export"].export(engine, spec, NoOptions(), tmp_path)


def test_a_model_that_an_old_opset_cannot_express(
    make_spec: MakeSpec,
    make_engine: MakeEngine,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    engine = make_engine(model="alexnet", optimizer=None, image_size=(64, 64))
    spec = make_spec(model="alexnet", optimizer=None, image_size=(64, 64))
    message = r"alexnet to ONNX opset 13: .*adaptive_avg_pool2d.*; set the export's opset to 18"
    with pytest.raises(ArtifactError, match=message):
        EXPORTERS["onnx"].export(engine, spec, OnnxOptions(opset=13), tmp_path)
    assert capfd.readouterr().out == ""


def test_a_damaged_program(tmp_path: Path, trained: Trained) -> None:
    engine, spec = trained
    info = EXPORTERS["torch_export"].export(engine, spec, NoOptions(), tmp_path)
    (tmp_path / info.file).write_bytes(b"not a program")
    with pytest.raises(ArtifactError, match="export the model again"):
        load_program(tmp_path, info)


def test_opsets_that_no_exporter_writes_are_refused_in_the_recipe() -> None:
    with pytest.raises(ValueError, match="opset"):
        TypeAdapter(OnnxOptions).validate_json('{"opset": 9}')

"""Exports agree with the engine on photographs, and leave it alone."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from runner import NoOptions
from runner.errors import ArtifactError, StorageError
from runner.framework.options import MobileNetOptions, ResNetOptions
from runner_mindspore.plugin import runner_register_exporters, runner_register_predictors
from runner_onnx.predictor import load_onnx

mindspore = pytest.importorskip("mindspore")

if TYPE_CHECKING:
    from runner.contracts import Predictor

EXPORTERS = {entry.name: entry.export for entry in runner_register_exporters()}
LOADERS = {entry.name: entry.load for entry in runner_register_predictors()} | {"onnx": load_onnx}
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)


@pytest.fixture
def folder(tmp_path_factory):
    """A folder whose name MindSpore itself refuses to write to."""
    return tmp_path_factory.mktemp("Ausgänge der Läufe")


@pytest.fixture(scope="module")
def photos():
    """Twelve cuttings of two photographs that come with scikit-learn."""
    images = pytest.importorskip("sklearn.datasets").load_sample_images().images
    cuttings = [image[y : y + 32, 96:128] for image in images for y in range(0, 384, 64)]
    return np.stack(cuttings)


def difference(predictor: Predictor, images: Any, expected: Any) -> float:
    inputs = ((images / np.float32(255) - MEAN) / STD).transpose(0, 3, 1, 2)
    found = predictor.predict(np.ascontiguousarray(inputs, np.float32))
    assert found.shape == expected.shape
    assert found.dtype == np.float32
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("name", ["mindir", "onnx"])
@pytest.mark.parametrize(
    ("model", "options", "mode"),
    [
        ("resnet18", ResNetOptions(max_pool_padding="end"), "graph"),
        ("resnet18", ResNetOptions(), "pynative"),
        pytest.param("mobilenet_v2", MobileNetOptions(), "graph", marks=pytest.mark.slow),
    ],
)
def test_an_export_has_the_logits_of_the_engine(
    make_spec, make_engine, photos, folder, name, model, options, mode, capfd
):
    what = {"model": model, "model_options": options, "optimizer": None}
    engine, spec = make_engine(mode=mode, **what), make_spec(**what)
    expected = engine.predict(photos)
    capfd.readouterr()
    info = EXPORTERS[name](engine, spec, NoOptions(), folder)
    assert [path.name for path in folder.iterdir()] == [info.file] == [f"model.{name}"]
    assert (folder / info.file).stat().st_mode & 0o777 == 0o644
    assert (info.format, info.input_name, info.output_name) == (name, "input", "logits")
    assert info.input_shape == ("batch", 3, 32, 32)
    json.dumps(info.details)
    predictor = LOADERS[name](folder, info)
    for images in (1, 3, 5, 12):
        assert difference(predictor, photos[:images], expected[:images]) < 1e-5
    assert capfd.readouterr() == ("", "")
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize("name", ["mindir", "onnx"])
def test_the_average_is_exported(make_spec, make_engine, make_batches, photos, folder, name):
    engine = make_engine(ema_decay=0.5)
    engine.train_step(make_batches(1)[0], 1.0).read()
    info = EXPORTERS[name](engine, make_spec(ema_decay=0.5), NoOptions(), folder)
    predictor = LOADERS[name](folder, info)
    assert difference(predictor, photos, engine.predict(photos)) < 1e-5
    weights = make_engine(optimizer=None)
    weights.load_weights(engine.weights())
    assert difference(predictor, photos, weights.predict(photos)) > 1e-3


def test_onnx_is_valid_for_any_batch_every_time(make_spec, make_engine, folder):
    import onnx  # after MindSpore 2.8, which cannot be imported behind it

    engine = make_engine(optimizer=None)
    for _ in range(2):  # MindSpore itself cannot export one net twice
        info = EXPORTERS["onnx"](engine, make_spec(), NoOptions(), folder)
        assert info.details["opset"] == 11
        model = onnx.load(folder / info.file)
        onnx.checker.check_model(model, full_check=True)
        for value, length in ((model.graph.input[0], 4), (model.graph.output[0], 2)):
            sizes = value.type.tensor_type.shape.dim
            assert (sizes[0].dim_param, len(sizes)) == ("batch", length)


def test_mindir_is_compiled_once_and_says_what_ran(make_spec, make_engine, folder):
    info = EXPORTERS["mindir"](make_engine(optimizer=None), make_spec(), NoOptions(), folder)
    predictor: Any = LOADERS["mindir"](folder, info)
    first = predictor.predict(np.zeros((1, 3, 32, 32), np.float32))
    kept = first.copy()
    for images in (5, 2):
        predictor.predict(np.ones((images, 3, 32, 32), np.float32))
    assert len(predictor._cell.compile_cache) == 1
    assert np.array_equal(first, kept)
    expected = {"runtime": "mindspore", "version": mindspore.__version__, "device": "cpu"}
    assert predictor.describe() == expected


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["graph", "pynative"])
def test_exporting_does_not_disturb_training(
    make_spec, make_engine, make_tiny, make_batches, folder, mode
):
    def process():
        random: Any = np.random.get_state()
        settings = [mindspore.get_context(key) for key in ("mode", "jit_syntax_level")]
        return [random[1].tolist(), random[2], mindspore.get_seed(), settings]

    model = make_tiny(dropout=0.5)
    ends = []
    for exporting in (False, True):
        engine = make_engine(model=model, mode=mode)
        for batch in make_batches(3):
            engine.train_step(batch, 0.1).read()
            before = process()
            if exporting:
                for name in ("mindir", "onnx"):
                    info = EXPORTERS[name](engine, make_spec(model=model), NoOptions(), folder)
                    LOADERS[name](folder, info).predict(np.zeros((1, 3, 32, 32), np.float32))
                assert process() == before
        ends.append(engine.weights())
    assert all(np.array_equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_air_is_refused_elsewhere_before_anything_is_computed(device, make_spec, folder):
    untouched: Any = object()
    with pytest.raises(ArtifactError, match=r"runs on device cpu; .* export: mindir or onnx"):
        EXPORTERS["air"](untouched, make_spec(), NoOptions(), folder)
    assert list(folder.iterdir()) == []


def test_a_model_that_cannot_be_exported(make_spec, make_engine, folder, monkeypatch):
    from runner_mindspore.autoload import nn, ops

    class Unusual(nn.Cell):
        """Asks for what no tensor has."""

        def construct(self, images):
            return ops.erfinv(images).mean((2, 3)) * images.unknown

    engine = make_engine(optimizer=None)
    monkeypatch.setattr("runner_mindspore.exporters.evaluation_model", lambda *given: Unusual())
    syntax = mindspore.get_context("jit_syntax_level")
    for name, other in (("mindir", "onnx"), ("onnx", "mindir")):
        with pytest.raises(ArtifactError) as caught:
            EXPORTERS[name](engine, make_spec(), NoOptions(), folder)
        message = str(caught.value)
        assert f"cannot export tiny to {name.upper()}: " in message
        assert message.endswith(f"try export: {other}")
        assert "\n" not in message
    assert mindspore.get_context("jit_syntax_level") == syntax
    assert list(Path.cwd().iterdir()) == []


def test_a_model_that_mindspore_would_split(make_spec, make_engine, folder, monkeypatch, capfd):
    engine = make_engine(optimizer=None)
    monkeypatch.setattr("mindspore.train.serialization.TOTAL_SAVE", 0)
    with pytest.raises(ArtifactError, match=r"wrote model_graph\.mindir, model_variables in place"):
        EXPORTERS["mindir"](engine, make_spec(), NoOptions(), folder)


@pytest.mark.parametrize(("name", "error"), [("mindir", OSError), ("onnx", StorageError)])
def test_a_full_disk(make_spec, make_engine, folder, name, error):
    engine = make_engine(optimizer=None, num_classes=100_000)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(error, match="File too large"):
            EXPORTERS[name](engine, make_spec(num_classes=100_000), NoOptions(), folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_damaged_mindir(make_spec, make_engine, folder):
    info = EXPORTERS["mindir"](make_engine(optimizer=None), make_spec(), NoOptions(), folder)
    (folder / info.file).write_bytes(b"not a graph")
    with pytest.raises(ArtifactError, match="export the model again"):
        LOADERS["mindir"](folder, info)

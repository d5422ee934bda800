"""The converter ``om``: the files it writes, and what it makes of the compiler's answer."""

from __future__ import annotations

import json
import os
import shlex
from dataclasses import replace

import numpy as np
import pytest

from runner import ArtifactInfo, ModelEntry
from runner.data.transforms.options import CenterCrop, Resize
from runner.entries import ConversionRequest, EngineSpec, ExportPlan
from runner.errors import ArtifactError, MissingRuntimeError
from runner.options import NoOptions
from runner.recipe.schema import LossSection, PrecisionSection
from runner_ascend.om import convert
from runner_ascend.om_options import OmOptions
from runner_ascend.om_predictor import load_om
from runner_ascend.plugin import runner_register_exporters, runner_register_predictors

onnx = pytest.importorskip("onnx")
STEPS = (
    Resize(name="resize", shorter_side=256),
    CenterCrop(name="center_crop", size=224),
)


@pytest.fixture
def request_for(tmp_path):
    """Provide requests to convert a model whose logits are the means of the channels."""

    def make(options, *, steps=STEPS, name="resnet50"):
        source, folder = tmp_path / "source", tmp_path / "om"
        source.mkdir()
        folder.mkdir()
        size = (steps[-1].size,) * 2
        graph = onnx.helper.make_graph(
            [
                onnx.helper.make_node("GlobalAveragePool", ["actual_input_1"], ["means"]),
                onnx.helper.make_node("Flatten", ["means"], ["output1"], axis=1),
            ],
            "means",
            [
                onnx.helper.make_tensor_value_info(
                    "actual_input_1", onnx.TensorProto.FLOAT, ["batch", 3, *size]
                )
            ],
            [onnx.helper.make_tensor_value_info("output1", onnx.TensorProto.FLOAT, ["batch", 3])],
        )
        onnx.save(
            onnx.helper.make_model(
                graph, opset_imports=[onnx.helper.make_opsetid("", 11)], ir_version=6
            ),
            source / "model.onnx",
        )
        return ConversionRequest(
            source=source,
            info=ArtifactInfo(
                format="onnx",
                file="model.onnx",
                input_name="actual_input_1",
                input_shape=("batch", 3, *size),
                output_name="output1",
                details={"opset": 11},
            ),
            spec=spec(name, size),
            transforms=steps,
            options=options,
            calibration=lambda count: iter(()),
            folder=folder,
        )

    return make


def spec(name, size):
    entry = ModelEntry(name=name, summary="", framework="torch", build=lambda *_: None)
    return EngineSpec(
        model=entry,
        model_options=NoOptions(),
        num_classes=3,
        image_size=size,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        precision=PrecisionSection(),
        framework_options=NoOptions(),
        seed=0,
        loss=LossSection(),
        optimizer=None,
        optimizer_options=None,
        weight_decay=0.0,
        no_weight_decay=(),
        micro_batch_size=1,
        clip_grad_norm=None,
        ema_decay=None,
    )


def commands(script):
    """Return the commands of a script, without its head, as a shell splits them."""
    lines = script.read_text().splitlines()
    assert lines[0] == "#!/bin/sh"
    return [
        shlex.split(line) for line in lines if line and not line.startswith(("#", "set", "here"))
    ]


R50 = OmOptions(soc_version="Ascend910A", onnx_file="resnet50_official.onnx")


def test_the_documented_commands_of_resnet50(request_for, without_atc):
    request = request_for(R50)
    info = convert(request)
    folder = request.folder
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "resnet50_official.onnx",
        "aipp_resnet50.aippconfig",
        "1_pixels.sh",
        "2_convert.sh",
        "3_infer.sh",
        "4_score.sh",
    }
    _, atc = commands(folder / "2_convert.sh")
    assert atc == shlex.split(
        "atc --model=resnet50_official.onnx --framework=5 --output=resnet50_bs64 "
        '--input_format=NCHW --input_shape="actual_input_1:64,3,224,224" '
        "--enable_small_channel=1 --log=error --soc_version=Ascend910A "
        "--insert_op_conf=aipp_resnet50.aippconfig $@"
    )
    [infer] = commands(folder / "3_infer.sh")
    assert infer == shlex.split(
        "python3 -m ais_bench --model $here/resnet50_bs64.om --input ./prep_dataset/ "
        "--output ./ --output_dirname result --outfmt TXT $@"
    )
    assert commands(folder / "1_pixels.sh") == [
        shlex.split("runner offline pixels $here --output prep_dataset $@"),
        shlex.split("runner offline labels $here --output val_label.txt $@"),
    ]
    assert commands(folder / "4_score.sh") == [
        shlex.split("runner offline score . --results result --labels val_label.txt $@")
    ]
    assert all(os.access(path, os.X_OK) for path in folder.glob("*.sh"))
    assert (info.format, info.file) == ("om", "resnet50_bs64.om")
    assert (info.input_type, info.input_shape) == ("uint8", (64, 256, 256, 3))
    assert info.details["compiled"] is False
    assert info.details["device_crop"] is True
    assert info.details["crop"] == {"top": 16, "left": 16, "height": 224, "width": 224}
    assert json.dumps(info.details)


def test_names_are_one_word_in_scripts(request_for, without_atc):
    """A plugin's model may be called anything, and arguments are what they are."""
    name = "a b$(touch made)'\"`touch made`"
    options = OmOptions(soc_version="Ascend310P3", infer_arguments=["$(touch made)", "x y"])
    request = request_for(options, name=name)
    convert(request)
    [infer] = commands(request.folder / "3_infer.sh")
    assert infer[4] == f"$here/{name}_bs{options.batch_size}.om"
    assert infer[-3:] == ["$(touch made)", "x y", "$@"]
    _, atc = commands(request.folder / "2_convert.sh")
    assert atc[1] == f"--model={name}.onnx"


def test_the_documented_commands_of_mobilenet_v2(request_for, without_atc):
    options = OmOptions(
        soc_version="Ascend310P3",
        batch_size=4,
        crop="host",
        csc_switch=False,
        enable_small_channel=False,
        infer_arguments=["--batchsize", "4"],
    )
    request = request_for(options, name="mobilenet_v2")
    info = convert(request)
    _, atc = commands(request.folder / "2_convert.sh")
    assert atc == shlex.split(
        "atc --model=mobilenet_v2.onnx --framework=5 --output=mobilenet_v2_bs4 "
        '--input_format=NCHW --input_shape="actual_input_1:4,3,224,224" --log=error '
        "--soc_version=Ascend310P3 --insert_op_conf=aipp_mobilenet_v2.aippconfig $@"
    )
    [infer] = commands(request.folder / "3_infer.sh")
    assert infer[-3:] == ["--batchsize", "4", "$@"]
    assert info.input_shape == (4, 224, 224, 3)
    assert info.details["device_crop"] is False
    config = (request.folder / "aipp_mobilenet_v2.aippconfig").read_text()
    assert "crop : false\n    csc_switch : false\n" in config


def test_the_compiler_runs_where_it_is(request_for, with_atc, ais_bench):
    pytest.importorskip("onnxruntime")
    request = request_for(replace(R50, batch_size=2))
    info = convert(request)
    assert info.details["compiled"] is True
    assert (request.folder / "resnet50_bs2.om").is_file()
    predictor = load_om(request.folder, info)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    # the pixels are put where the device cuts: only its arithmetic is left
    expected = (pixels / 255).mean(axis=(1, 2)) - (0.485, 0.456, 0.406)
    expected /= (0.229, 0.224, 0.225)
    assert np.abs(predictor.predict(pixels) - expected).max() < 1e-5
    assert predictor.describe()["runtime"] == "ais_bench"


def test_a_failure_of_the_compiler_has_its_words(request_for, with_atc):
    with pytest.raises(ArtifactError) as caught:
        convert(request_for(replace(R50, soc_version="Ascend000")))
    text = str(caught.value)
    assert "atc left with 255" in text
    assert "--soc_version=Ascend000" in text
    assert "E10001: Value [Ascend000] for parameter [--soc_version] is invalid" in text


def test_further_arguments_reach_the_compiler(request_for, with_atc):
    with pytest.raises(ArtifactError, match="unknown or repeated argument --precision_mode=x"):
        convert(request_for(replace(R50, atc_arguments=["--precision_mode=x"])))


def test_a_compiler_that_writes_nothing(request_for, monkeypatch, tmp_path):
    (tmp_path / "atc").write_text("#!/bin/sh\nexit 0\n")
    (tmp_path / "atc").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(
        ArtifactError, match=r"succeeded, but wrote no resnet50_bs64.om; .* nothing"
    ):
        convert(request_for(R50))


def test_a_crop_that_the_device_would_do_otherwise(request_for, without_atc):
    steps = (Resize(name="resize", shorter_side=342), CenterCrop(name="center_crop", size=299))
    with pytest.raises(ArtifactError, match=r"no multiple of 4.*export om with crop: host"):
        convert(request_for(R50, steps=steps))
    (entry,) = runner_register_exporters()
    assert entry.refuses
    plan = ExportPlan(device="npu", options=R50, transforms=steps)
    assert "export om with crop: host" in entry.refuses(plan), "known before training"
    assert not entry.refuses(replace(plan, options=replace(R50, crop="host")))
    assert not entry.refuses(replace(plan, transforms=STEPS))


def test_what_is_missing_is_said(request_for, without_atc):
    request = request_for(R50)
    info = convert(request)
    with pytest.raises(MissingRuntimeError, match=r"atc was not found .* run .*2_convert.sh on a"):
        load_om(request.folder, info)
    (request.folder / info.file).touch()
    with pytest.raises(MissingRuntimeError, match="No module named 'ais_bench'"):
        load_om(request.folder, info)


def test_a_damaged_file_is_said(request_for, without_atc, ais_bench):
    pytest.importorskip("onnxruntime")
    request = request_for(R50)
    info = convert(request)
    (request.folder / info.file).touch()
    with pytest.raises(ArtifactError, match=r"ais_bench cannot load .*resnet50_bs64.om: File is"):
        load_om(request.folder, info)


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"soc_version": "910A"}, "such as Ascend910A"),
        ({"soc_version": "Ascend910A", "onnx_file": "model"}, "expected a name ending in .onnx"),
        ({"soc_version": "Ascend910A", "onnx_file": "../x.onnx"}, "cannot name a file"),
        ({"soc_version": "Ascend910A", "onnx_file": "..onnx"}, "cannot name a file"),
    ],
)
def test_options_that_cannot_be(keys, problem):
    with pytest.raises(ValueError, match=problem):
        OmOptions(**keys)


def test_what_the_exporter_is_asked_for():
    [entry] = runner_register_exporters()
    assert (entry.name, entry.source) == ("om", "onnx")
    assert entry.source_options is not None
    assert entry.source_options(R50) == {
        "opset": 11,
        "input_name": "actual_input_1",
        "output_name": "output1",
        "batch_size": None,
    }
    fixed = replace(R50, fixed_batch=True, input_name="images")
    assert entry.source_options(fixed)["batch_size"] == 64
    assert entry.source_options(fixed)["input_name"] == "images"
    assert [item.formats for item in runner_register_predictors()] == [("om",)]

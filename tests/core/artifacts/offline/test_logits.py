"""Raw logits in files: ``runner offline run`` writes them, ``runner offline score`` reads them."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from PIL import Image

from runner import ArtifactInfo
from runner.data.normalize import normalize
from runner.testing.fake import Colours, ColoursOptions
from runner.testing.fake_exports import NpzPredictor, load_npz

EXPORT = "export:\n  - {name: fake_npz, verify_images: 4}\n"


@pytest.fixture
def artifact(project):
    """Provide the artifact of a finished run."""
    assert project.run("--set", "train.epochs=1", extra=EXPORT).code == 0
    return project.run_folder() / "exports" / "fake_npz"


@pytest.fixture
def folders(project):
    """Provide the validation images as files in class folders, named as ImageNet names them."""
    dataset = Colours(ColoursOptions(), "val")
    for index, label in enumerate(dataset.labels):
        folder = project.path / "images" / "val" / dataset.classes[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(dataset.read(index)).save(folder / f"val_{index:08}.png")
    return project.path / "images"


def offline(project, artifact, *arguments):
    return project.runner(
        *("offline", "run", artifact, "--output", "out"),
        *("--set", "dataset.name=class_folders", "--set", "dataset.root=images"),
        *arguments,
    )


def logits_of(artifact, index):
    """Compute the logits of one validation image as the artifact does."""
    info = json.loads((artifact / "artifact.json").read_text())
    predictor = load_npz(artifact, ArtifactInfo(**info["info"]))
    pixels = Colours(ColoursOptions(), "val").read(index)
    return predictor.predict(normalize(pixels[None], info["mean"], info["std"]))[0]


@pytest.fixture
def results(tmp_path):
    """Provide results of three images as another program writes them: six classes, float16."""
    folder = tmp_path / "theirs"
    (folder / "result_Files").mkdir(parents=True)
    rows = {"a": [0, 1, 2, 3, 4, 5], "b": [5, 4, 3, 2, 1, 0], "c": [0, 9, 9, 1, 1, 1]}
    for stem, row in rows.items():
        np.array(row, "<f2").tofile(folder / "result_Files" / f"{stem}_0.bin")
    # right, only in the first five, beaten by the lower of two equal classes
    (folder / "imagenet_label.json").write_text('{"a.JPEG": 5, "b.JPEG": 4, "c.JPEG": 2}')
    return folder


def test_run_writes_every_file(project, artifact, folders):
    outcome = offline(project, artifact)
    assert outcome.code == 0, outcome.err
    out = project.path / "out"
    written = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    stems = [f"val_{index:08}" for index in range(32)]
    assert written == [
        "acc.log",
        "imagenet_label.json",
        "result.json",
        *(f"result_Files/{stem}_0.bin" for stem in stems),
        "time_Result/test_perform_static.txt",
    ]
    for index in (0, 7, 31):
        expected = logits_of(artifact, index).astype("<f2").tobytes()
        assert (out / "result_Files" / f"{stems[index]}_0.bin").read_bytes() == expected
    labels = json.loads((out / "imagenet_label.json").read_text())
    assert labels == {f"{stem}.png": index % 3 for index, stem in enumerate(stems)}
    time = (out / "time_Result" / "test_perform_static.txt").read_text()
    found = re.fullmatch(r"NN inference cost average time: ([\d.e-]+) ms of infer_count 32\n", time)
    assert found
    assert float(found[1]) > 0
    assert (out / "acc.log").read_text() + time == outcome.out


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_the_score_is_that_of_eval(project, artifact, folders, dtype):
    [expected] = project.runner("eval", artifact, "--json").json
    found = offline(project, artifact, "--dtype", dtype, "--batch-size", "5", "--json").json
    assert found["calls"] == 7
    assert found["runtime"] == {"runtime": "numpy"}
    for name in ("val.top1", "val.count"):
        assert found["metrics"][name] == expected["metrics"][name]
    assert found["metrics"]["val.loss"] == pytest.approx(expected["metrics"]["val.loss"], rel=1e-2)
    log = (project.path / "out" / "acc.log").read_bytes()
    (project.path / "out" / "acc.log").unlink()
    again = project.runner("offline", "score", "out", "--dtype", dtype, "--json")
    assert again.json["metrics"] == found["metrics"]
    assert (project.path / "out" / "acc.log").read_bytes() == log


def test_only_predict_is_timed_and_not_its_first_call(project, artifact, folders, monkeypatch):
    clock, calls = [0.0], []
    monkeypatch.setattr("runner.artifacts.offline.logits.time.perf_counter", lambda: clock[0])
    predict = NpzPredictor.predict

    def slow(self, inputs):
        calls.append(len(inputs))
        clock[0] += 1000.0 if len(calls) == 1 else 0.25
        return predict(self, inputs)

    monkeypatch.setattr(NpzPredictor, "predict", slow)
    outcome = offline(project, artifact, "--batch-size", "30")
    assert "average time: 250 ms of infer_count 2\n" in outcome.out
    assert calls == [30, 30, 2]


def test_a_fixed_batch_is_the_artifacts_own(project, artifact, folders):
    record = json.loads((artifact / "artifact.json").read_text())
    del record["checksum"]
    record["info"]["input_shape"][0] = 6
    (artifact / "artifact.json").write_text(json.dumps(record))
    refused = offline(project, artifact, "--batch-size", "5")
    assert refused.code == 2
    assert "takes batches of 6 images, not of 5" in refused.err
    found = offline(project, artifact, "--json").json
    assert (found["calls"], found["metrics"]["val.count"]) == (6, 32)


def test_scores_what_another_program_wrote(project, results):
    outcome = project.runner("offline", "score", results)
    line = "Total data: 3, top1 accuracy: 0.3333333333333333, top5 accuracy: 1.0.\n"
    assert (outcome.code, outcome.out) == (0, line)
    assert (results / "acc.log").read_text() == line


def test_results_and_labels_may_lie_elsewhere(project, results):
    (results / "result_Files").rename(project.path / "r")
    (results / "imagenet_label.json").rename(project.path / "l.json")
    missing = project.runner("offline", "score", results)
    assert missing.code == 5
    assert "name another file with --labels" in missing.err
    missing = project.runner("offline", "score", results, "--labels", "l.json")
    assert "name another with --results" in missing.err
    places = ("--labels", "l.json", "--results", "r")
    assert project.runner("offline", "score", results, *places).code == 0
    assert (results / "acc.log").exists()


def test_missing_and_extra_results_are_counted(project, results):
    (results / "result_Files" / "a_0.bin").rename(results / "result_Files" / "x_0.bin")
    (results / "result_Files" / "b_0.bin").rename(results / "result_Files" / "b_1.bin")
    outcome = project.runner("offline", "score", results)
    assert outcome.code == 5
    assert "2 missing (a_0.bin, b_0.bin)" in outcome.err
    assert "2 extra (b_1.bin, x_0.bin)" in outcome.err
    assert not (results / "acc.log").exists()


def test_a_file_of_another_size(project, results):
    (results / "result_Files" / "b_0.bin").write_bytes(b"123")
    outcome = project.runner("offline", "score", results)
    assert outcome.code == 5
    assert f"expected 12 bytes in each file of {results / 'result_Files'}" in outcome.err
    found = "for 6 logits in float16, found another size in 1 of 3 files: b_0.bin 3; run the"
    assert found in outcome.err


@pytest.mark.parametrize(
    ("arguments", "fix"),
    [
        (["--dtype", "float32"], "they have the size of float16: --dtype float16"),
        (["--classes", "12"], "run the inference again"),
    ],
)
def test_another_type_or_number_of_classes(project, results, arguments, fix):
    outcome = project.runner("offline", "score", results, *arguments)
    assert outcome.code == 5
    assert fix in outcome.err


def test_more_classes_than_the_labels_show(project, results):
    (results / "imagenet_label.json").write_text('{"a.JPEG": 2, "b.JPEG": 0, "c.JPEG": 3}')
    outcome = project.runner("offline", "score", results)
    assert "say --classes 6 --dtype float16" in outcome.err
    assert project.runner("offline", "score", results, "--classes", "6").code == 0
    outcome = project.runner("offline", "score", results, "--classes", "3")
    assert "has 1 label above 2: c: 3" in outcome.err


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_not_finite(project, results, value):
    np.array([0, 0, 0, 0, 0, value], "<f2").tofile(results / "result_Files" / "b_0.bin")
    outcome = project.runner("offline", "score", results)
    assert outcome.code == 8
    assert "logits that are not finite in 1 file: b_0.bin" in outcome.err


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '["a"]', '{"a.JPEG": "5"}', '{"a.JPEG": true}', '{"a.JPEG": -1}']
)
def test_labels_that_are_none(project, results, text):
    (results / "imagenet_label.json").write_text(text)
    outcome = project.runner("offline", "score", results)
    assert outcome.code == 5
    assert "imagenet_label.json is no" in outcome.err


@pytest.mark.parametrize("other", ["a.JPEG", "a.png"])
def test_labels_for_one_stem_twice(project, results, other):
    (results / "imagenet_label.json").write_text(f'{{"a.JPEG": 5, "{other}": 4}}')
    outcome = project.runner("offline", "score", results)
    assert outcome.code == 5
    assert f"a (a.JPEG and {other})" in outcome.err


def test_images_with_the_same_stem_are_refused(project, artifact, folders):
    image = folders / "val" / "colour_0" / "val_00000000.png"
    image.rename(folders / "val" / "colour_0" / "val_00000001.png")
    outcome = offline(project, artifact)
    assert outcome.code == 5
    assert "1 such names stand for several images: val_00000001 (" in outcome.err
    assert "colour_0/val_00000001.png and " in outcome.err
    assert not (project.path / "out").exists()


def test_a_folder_in_use_is_refused(project, artifact, folders):
    (project.path / "out").mkdir()
    (project.path / "out" / "mine.txt").touch()
    outcome = offline(project, artifact)
    assert outcome.code == 2
    assert "out is in the way" in outcome.err
    (project.path / "out" / "mine.txt").unlink()
    assert offline(project, artifact).code == 0


def test_damaged_images_are_left_out_where_the_recipe_says_so(project, artifact, folders):
    (folders / "val" / "colour_0" / "val_00000003.png").write_text("no image")
    outcome = offline(project, artifact)
    assert outcome.code == 5
    assert "val_00000003.png" in outcome.err
    (project.path / "out").rename(project.path / "stopped")
    skip = ("--set", "loader.damaged_images=skip", "--set", "loader.max_damaged=1")
    outcome = offline(project, artifact, *skip)
    assert outcome.code == 0
    assert "skipped" in outcome.err
    assert "Total data: 31," in outcome.out
    unfinished = project.runner("offline", "score", "stopped")
    assert unfinished.code == 5
    assert "imagenet_label.json" in unfinished.err


def test_logits_that_float16_cannot_hold(project, artifact, folders, monkeypatch):
    predict = NpzPredictor.predict
    monkeypatch.setattr(NpzPredictor, "predict", lambda *given: predict(*given) + 1e5)
    outcome = offline(project, artifact)
    assert outcome.code == 7
    assert "does not fit float16; write float32: --dtype float32" in outcome.err
    (project.path / "out").rename(project.path / "stopped")
    assert offline(project, artifact, "--dtype", "float32").code == 0


def test_a_model_whose_logits_are_not_finite(project, artifact, folders, monkeypatch):
    predict = NpzPredictor.predict
    monkeypatch.setattr(NpzPredictor, "predict", lambda *given: predict(*given) * np.nan)
    outcome = offline(project, artifact)
    assert outcome.code == 8
    assert "the logits of val_00000000.png are not finite" in outcome.err


def test_only_an_artifact_can_be_predicted(project, artifact, folders):
    outcome = offline(project, project.run_folder())
    assert outcome.code == 2
    assert "is no exported artifact" in outcome.err


def test_other_classes_than_the_model_has(project, artifact, folders):
    (folders / "val" / "colour_2").rename(folders / "val" / "colour_9")
    outcome = offline(project, artifact)
    assert outcome.code == 6
    assert "unknown colour_9 (1)" in outcome.err

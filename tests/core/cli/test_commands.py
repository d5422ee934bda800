"""The commands that use a finished run: eval, predict, export, verify, bench, list, doctor."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from runner.storage import checkpoint

EXPORT = "export:\n  - {name: fake_npz, verify_images: 4}\n"


@pytest.fixture
def finished(project):
    """Provide a finished run with an exported artifact."""
    assert project.run("--set", "checkpoint.keep=3", extra=EXPORT).code == 0
    return project.run_folder()


@pytest.fixture
def photos(project):
    """Provide three images of the dataset as files, and one that is none."""
    from runner.testing.fake import Colours, ColoursOptions

    folder = project.path / "photos"
    folder.mkdir()
    dataset = Colours(ColoursOptions(), "val")
    for index in range(3):
        Image.fromarray(dataset.read(index)).save(folder / f"{index}.png")
    (folder / "broken.png").write_text("no image")
    return folder


def test_eval_of_a_run_a_checkpoint_a_folder_and_an_artifact(project, finished):
    expected = json.loads((finished / "result.json").read_text())["metrics"]
    last = checkpoint.latest(finished / "checkpoints")
    [result] = project.runner("eval", last, "--json").json
    assert result["metrics"] == {name: expected[name] for name in result["metrics"]}
    assert result["metrics"]["val.count"] == 32
    [best] = project.runner("eval", finished, "--json").json
    [artifact] = project.runner("eval", finished / "exports" / "fake_npz", "--json").json
    assert artifact["metrics"]["val.loss"] == pytest.approx(best["metrics"]["val.loss"], rel=1e-5)
    every = project.runner("eval", finished / "checkpoints", "--json").json
    assert [item["path"][-2:] for item in every] == ["12", "24", "36"]


def test_an_artifact_is_evaluated_with_its_own_preprocessing(project, finished):
    artifact = finished / "exports" / "fake_npz"
    other = "transforms.eval=[{name: resize, exact: [4, 4]}]"
    ours, theirs = (
        project.runner("eval", artifact, "--json", *arguments).json[0]["metrics"]
        for arguments in ([], ["--set", other])
    )
    assert ours == theirs
    assert "has no effect" in project.runner("eval", artifact, "--device", "fake_cpu").err


def test_eval_of_a_weights_file_outside_a_run_needs_a_recipe(project, finished):
    weights = project.path / "w.safetensors"
    shutil.copy(checkpoint.latest(finished / "checkpoints") / checkpoint.WEIGHTS, weights)
    outcome = project.runner("eval", weights)
    assert outcome.code == 2
    assert "name the recipe with --recipe" in outcome.err
    outcome = project.runner("eval", weights, "--recipe", "colours.yaml", "--json")
    assert outcome.json[0]["metrics"]["val.top1"] == 1.0


def test_eval_of_a_folder_of_weights_files_takes_them_in_the_order_of_their_numbers(
    project, finished
):
    folder = project.path / "files"
    folder.mkdir()
    values: dict[str, Any] = load_file(
        checkpoint.latest(finished / "checkpoints") / checkpoint.WEIGHTS
    )
    for name in ("0-10_12.npz", "0-2_12.npz"):
        np.savez(folder / name, **values)
    (folder / "graph.meta").write_text("of no use")
    outcome = project.runner("eval", folder, "--recipe", "colours.yaml", "--json")
    assert outcome.code == 0, outcome.err
    assert [Path(item["path"]).name for item in outcome.json] == ["0-2_12.npz", "0-10_12.npz"]
    assert [item["metrics"]["val.top1"] for item in outcome.json] == [1.0, 1.0]


def test_eval_refuses_other_classes(project, finished):
    outcome = project.runner("eval", finished, "--set", "dataset.classes=4")
    assert outcome.code == 6
    assert "unknown colour_3 (1)" in outcome.err


@pytest.mark.parametrize("artifact", [False, True])
def test_predict_names_classes_and_keeps_going_after_a_damaged_file(
    project, finished, photos, artifact
):
    model = finished / "exports" / "fake_npz" if artifact else finished
    outcome = project.runner("predict", model, photos, "--format", "json", "--top", "2")
    assert outcome.code == 5
    assert "1 of 4 images could not be read" in outcome.err
    found = {item["image"].rsplit("/")[-1]: item for item in outcome.json}
    for index in range(3):
        choices = found[f"{index}.png"]["choices"]
        assert choices[0]["name"] == f"colour_{index}"
        assert choices[0]["probability"] > choices[1]["probability"]
    assert "broken.png" in found["broken.png"]["error"]


def test_predict_writes_csv_and_tables(project, finished, photos):
    (photos / "broken.png").unlink()
    outcome = project.runner("predict", finished, photos, "--format", "csv", "--output", "p.csv")
    assert (outcome.code, outcome.out) == (0, "")
    rows = list(csv.DictReader(io.StringIO((project.path / "p.csv").read_text())))
    assert [row["class"] for row in rows] == ["colour_0", "colour_1", "colour_2"]
    table = project.runner("predict", finished, photos / "1.png").out
    assert "colour_1" in table


def test_predict_takes_the_format_from_the_ending_of_its_output(project, finished, photos):
    for name in ("p.csv", "p.json", "p.txt"):
        assert project.runner("predict", finished, photos, "--output", name).code == 5
    files = {name: (project.path / name).read_text() for name in ("p.csv", "p.json", "p.txt")}
    assert files["p.csv"].startswith("image,rank,label,class,probability,error\n")
    assert [len(item["choices"]) for item in json.loads(files["p.json"])].count(1) == 3
    [broken] = [line for line in files["p.txt"].splitlines() if "broken" in line]
    assert broken.count("broken.png") == 1
    printed = project.runner("predict", finished, photos, "--json")
    assert printed.json == json.loads(files["p.json"])
    outcome = project.runner("predict", finished, photos, "--json", "--format", "csv")
    assert outcome.code == 2
    assert "--json and --format csv are two formats" in outcome.err


def test_export_of_a_checkpoint_equals_the_one_of_the_run(project, finished):
    outcome = project.runner(
        "export", finished, "--format", "fake_npz", "--output", "out", "--json"
    )
    assert outcome.json[0]["verified"], outcome.err
    ours, theirs = (
        np.load(folder / "fake_npz" / "model.npz")
        for folder in (project.path / "out", finished / "exports")
    )
    assert all((ours[name] == theirs[name]).all() for name in theirs.files)


def test_export_keeps_what_is_no_artifact(project, finished):
    (project.path / "out" / "fake_npz").mkdir(parents=True)
    (project.path / "out" / "fake_npz" / "mine.txt").write_text("mine")
    outcome = project.runner("export", finished, "--output", "out")
    assert outcome.code == 2
    assert "is in the way and is no artifact" in outcome.err
    assert (project.path / "out" / "fake_npz" / "mine.txt").exists()


def test_verify_tells_a_damaged_file_from_another_result(project, finished):
    artifact = finished / "exports" / "fake_npz"
    outcome = project.runner("verify", artifact)
    assert (outcome.code, "agrees with the live model on 4 stored images" in outcome.out) == (0, 1)
    image = next((artifact / "golden").iterdir())
    pixels = np.asarray(Image.open(image)).copy()
    pixels[0, 0] ^= 255
    Image.fromarray(pixels).save(image)
    outcome = project.runner("verify", artifact)
    assert outcome.code == 7
    assert f"{image.name} is damaged: its SHA-256 differs" in outcome.err
    record = json.loads((artifact / "artifact.json").read_text())
    del record["checksum"]
    from runner.storage.files import sha256

    record["files"][f"golden/{image.name}"] = sha256(image)
    (artifact / "artifact.json").write_text(json.dumps(record))
    outcome = project.runner("verify", artifact)
    assert outcome.code == 7
    assert "the pre-processing here gives other pixels" in outcome.err


def test_bench_reports_every_rate(project):
    outcome = project.runner("bench", project.write_recipe(), "--steps", "2", "--json")
    rates = outcome.json["images_per_s"]
    assert set(rates) == {
        "loader",
        "train.fixed_batch",
        "train.from_loader",
        "inference.fixed_batch",
    }
    assert all(rate["low"] <= rate["median"] <= rate["high"] for rate in rates.values())


def test_bench_measures_one_device(project):
    outcome = project.runner("bench", project.write_recipe(), "--devices", "2")
    assert outcome.code == 4
    assert "bench measures one: add --devices 1" in outcome.err


def test_list_and_schema(project):
    models = project.runner("list", "models", "--json").json
    assert {"linear"} <= {item["name"] for item in models}
    assert "quickstart" in project.runner("list", "recipes").out
    assert project.runner("schema").json["properties"]["train"]


def test_doctor_probes_devices(project, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", __import__("sys").path[0])
    findings = project.runner("doctor", "--json").json
    assert {"topic": "device", "ok": True, "text": "fake fake_cpu: available"} in findings


@pytest.mark.parametrize("command", ["eval", "export", "verify", "resume"])
def test_a_path_that_is_nothing_is_said(project, command):
    outcome = project.runner(command, "nowhere")
    assert outcome.code in {2, 7}
    assert outcome.err.startswith("error: ")
    assert "nowhere" in outcome.err


def test_predict_writes_through_links_and_devices(project, finished, photos):
    (photos / "broken.png").unlink()
    (project.path / "target.csv").write_text("old")
    (project.path / "link.csv").symlink_to("target.csv")
    for output in ("link.csv", "/dev/null"):
        arguments = ("--format", "csv", "--output", output)
        assert project.runner("predict", finished, photos, *arguments).code == 0
    assert (project.path / "link.csv").is_symlink()
    assert (project.path / "target.csv").read_text().startswith("image,")
    assert project.runner("predict", finished, photos, "--output", ".").code == 9


@pytest.mark.parametrize(
    "command",
    [
        ("bench", "LONG"),
        ("verify", "LONG"),
        ("relabel", "LONG", "names"),
        ("relabel", ".", "LONG"),
        ("predict", ".", "LONG"),
        ("predict", "LONG", "names"),
        ("doctor", "--runs-dir", "LONG"),
        *(("offline", name, "LONG", "--output", "x") for name in ("pixels", "labels", "info")),
        ("offline", "score", "LONG"),
    ],
    ids=" ".join,
)
def test_a_name_that_no_file_can_have_is_refused_in_words(project, monkeypatch, command):
    monkeypatch.chdir(project.path)
    (project.path / "names").write_text("ant\nbee\n")
    outcome = project.runner(*("n" * 256 if word == "LONG" else word for word in command))
    assert outcome.code in {2, 5}
    assert "File name too long" in outcome.err

"""Artifacts from strangers: what they say is checked, and what they would execute is refused."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from typing import Any

import pytest

from runner import hookimpl
from runner.artifacts import artifact as artifacts
from runner.artifacts.artifact import GOLDEN, INFO, KIND
from runner.errors import ArtifactError
from runner.storage import records
from runner.storage.files import sha256
from runner.testing import fake


@pytest.fixture
def artifact(project):
    assert project.run(extra="export: [{name: fake_npz, verify_images: 2}]\n").code == 0
    return project.run_folder() / "exports" / "fake_npz"


@pytest.fixture
def executing(monkeypatch):
    """Let the predictor say that its files hold code."""
    entries = fake.runner_register_predictors

    @hookimpl
    def runner_register_predictors():
        return [
            replace(item, executes=lambda _folder, info: f"the code in {info.file}")
            for item in entries()
        ]

    monkeypatch.setattr(fake, "runner_register_predictors", runner_register_predictors)


def change(artifact, **values):
    records.change(artifact / INFO, KIND, **values)


def content(artifact):
    return records.read(artifact / INFO, KIND).content


def commands(artifact, project):
    image = next((artifact / "golden").iterdir())
    return [
        ("verify", artifact),
        ("predict", artifact, image),
        ("eval", artifact),
        ("bench", artifact, "--steps", "1", "--warmup", "1"),
        ("offline", "run", artifact, "--output", project.path / "logits"),
    ]


def test_every_command_refuses_what_executes_code(project, artifact, executing):
    for command in commands(artifact, project):
        outcome = project.runner(*command)
        assert outcome.code == 7, command
        assert "loading it executes the code in model.npz" in outcome.err
        assert "trust who did with all that you may do on this machine, add --trust" in outcome.err
        assert project.runner(*command, "--trust").code == 0, command


def test_an_export_trusts_what_it_has_written(project, executing):
    outcome = project.run(extra="export: [{name: fake_rounded, verify_images: 2}]\n")
    assert outcome.code == 0, outcome.err
    assert outcome.json["exports"][0]["verified"] is True


def test_a_file_that_is_used_must_be_listed(project, artifact):
    listed = content(artifact)["files"]
    change(artifact, files={})
    outcome = project.runner("verify", artifact)
    assert outcome.code == 7
    assert "it uses golden.safetensors, golden/00.png, golden/01.png" in outcome.err
    change(artifact, files={name: item for name, item in listed.items() if name != "model.npz"})
    outcome = project.runner("verify", artifact)
    assert outcome.code == 7
    assert "model.npz is not among the files that artifact.json lists" in outcome.err
    assert project.runner("verify", artifact, "--trust").code == 0


def test_paths_that_lead_elsewhere_are_refused(artifact):
    os.mkfifo(artifact / "pipe")
    (artifact / "link").symlink_to(artifact / GOLDEN)
    before = content(artifact)
    for name in ("../../recipe.yaml", "/etc/passwd", "golden", "pipe", "link"):
        change(artifact, golden=[name], files={**before["files"], name: "0"})
        with pytest.raises(ArtifactError, match=r"artifact\.json is damaged"):
            artifacts.read(artifact)


def test_a_model_outside_the_folder_is_refused(project, artifact):
    info = content(artifact)["info"]
    outside = "../../checkpoints/best.json"
    change(artifact, info={**info, "file": outside})
    outcome = project.runner("verify", artifact, "--trust")
    assert outcome.code == 7
    assert f"'{outside}' leaves the folder" in outcome.err


def older(artifact, **values):
    """Change a record as an older one, which nothing but its schema protects."""
    record = {**json.loads((artifact / INFO).read_text()), **values}
    record.pop("checksum", None)
    (artifact / INFO).write_text(json.dumps(record))


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"classes": []}, "classes"),
    ({"classes": "cat"}, "classes"),
    ({"mean": [0.5, 0.5]}, "mean"),
    ({"mean": [0.5, 0.5, "NaN"]}, "mean"),
    ({"std": [0.5, 0.5, 0.0]}, "std must be larger than 0"),
    ({"transforms": []}, "do not end at a fixed size"),
    ({"transforms": [{"name": "resize", "exact": [30000, 30000]}]}, "8192"),
    ({"transforms": [{"name": "random_crop", "size": 8}]}, "random"),
    ({"tolerance": -1.0}, "tolerance"),
    ({"unknown": 1}, "unknown"),
]


def test_what_no_exporter_writes_is_refused(artifact):
    text = (artifact / INFO).read_text()
    for values, reason in WRONG:
        (artifact / INFO).write_text(text)
        older(artifact, **values)
        with pytest.raises(ArtifactError, match=reason):
            artifacts.read(artifact)


def test_sizes_of_the_input_are_bounded(project, artifact):
    info = content(artifact)["info"]
    for shape in ([10**9, 3, 224, 224], [0, 3, 8, 8], [3, 8, 8], ["b", 3, 8, 1.5]):
        older(artifact, info={**info, "input_shape": shape})
        outcome = project.runner("bench", artifact, "--steps", "1", "--warmup", "1")
        assert outcome.code == 7
        assert "input_shape" in outcome.err


def test_stored_answers_of_another_shape_are_refused(project, artifact):
    from safetensors.numpy import load_file, save_file

    golden = load_file(artifact / GOLDEN)
    save_file({**golden, "logits": golden["logits"][:1]}, artifact / GOLDEN)
    change(artifact, files={**content(artifact)["files"], GOLDEN: sha256(artifact / GOLDEN)})
    outcome = project.runner("verify", artifact)
    assert outcome.code == 7
    assert "holds {" in outcome.err
    assert "expected {" in outcome.err


def test_a_tolerance_beyond_the_exporters_is_given_by_the_caller(project, artifact):
    change(artifact, tolerance=1e9)
    outcome = project.runner("verify", artifact)
    assert outcome.code == 7
    assert "allows a difference of 1e+09, and fake_npz declares 0.0001" in outcome.err
    assert project.runner("verify", artifact, "--tolerance", "0.001").code == 0
    assert project.runner("verify", artifact, "--tolerance", "0").code in {0, 7}


def test_an_older_artifact_is_used_and_said_to_be_unchecked(project, artifact):
    older(artifact)
    outcome = project.runner("verify", artifact)
    assert outcome.code == 0
    assert outcome.err.count("written before records had a checksum") == 1
    assert str(artifact / INFO) in outcome.err

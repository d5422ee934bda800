"""A dataset that is read by its framework's own loader."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

DISTRIBUTION = Path(__file__).parents[2] / "data" / "third_party" / "own_loader"


@pytest.fixture
def opened(project, monkeypatch):
    """Return the loaders that were opened, oldest first."""
    monkeypatch.syspath_prepend(DISTRIBUTION)
    monkeypatch.setenv("RUNNER_PLUGINS", "fake,data,acme_loader")
    module = importlib.import_module("acme_loader")
    monkeypatch.setattr(module, "OPENED", [])
    return module.OPENED


def run(project, *arguments):
    return project.run("--set", "dataset=acme_colours", *arguments)


def test_a_run_reads_through_it_and_closes_it(project, opened):
    outcome = run(project, "--set", "seed=7")
    assert outcome.code == 0, outcome.err
    train, val = opened
    # 3 epochs of 96 / 8 and 32 / 5, and the one that is read before the first step
    assert (train.batches, val.batches) == (36, 3 * 7 + 1)
    assert train.closed
    assert val.closed
    assert train.request.seed == 7
    assert train.request.options.images == 96
    assert [step.name for step in train.request.transforms] == ["random_crop"]
    assert [step.name for step in val.request.transforms] == ["resize"]


def test_the_result_is_that_of_cores_loader(project, opened):
    own = run(project).json
    core = project.run("--runs-dir", "others").json
    assert own["metrics"]["train.loss"] == core["metrics"]["train.loss"]
    assert own["metrics"]["val.loss"] == core["metrics"]["val.loss"]


def test_it_is_closed_when_the_run_fails(project, opened):
    outcome = run(project, "--set", "framework.non_finite_at_step=3")
    assert outcome.code == 8
    assert [loader.closed for loader in opened] == [True, True]


def test_what_it_reports_is_logged_and_in_the_manifest(project, opened):
    run(project)
    manifest = json.loads((project.run_folder() / "manifest.json").read_text())
    assert manifest["loader"] == {"train.readers": 1, "val.readers": 1}
    opening = [event for event in project.events() if event["event"] == "data.opened"]
    assert [event["readers"] for event in opening] == [1, 1]


def test_a_resume_under_another_report_says_so(project, opened, monkeypatch):
    run(project)
    folder = project.run_folder()
    (folder / "result.json").unlink()
    monkeypatch.setenv("ACME_READERS", "2")
    outcome = project.runner("resume", folder)
    assert outcome.code == 0, outcome.err
    [warning] = [event for event in project.events() if event["event"] == "warning"]
    assert "loader.train.readers: 1 -> 2; loader.val.readers: 1 -> 2" in warning["message"]


def test_evaluation_uses_it_as_well(project, opened):
    run(project)
    opened.clear()
    outcome = project.runner("eval", project.run_folder(), "--json")
    assert outcome.code == 0, outcome.err
    assert [loader.batches for loader in opened] == [7]
    assert opened[0].closed


def test_a_decoding_that_it_does_not_know_is_refused(project, opened):
    outcome = run(project, "--set", "dataset.exif_orientation=apply")
    assert outcome.code == 2
    assert "dataset 'acme_colours' decodes images with a pipeline of its own" in outcome.err
    assert "dataset.name: class_folders" in outcome.err
    assert opened == []

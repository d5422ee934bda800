"""``runner bench``: of a recipe, and of a trained model."""

from __future__ import annotations

import json

import numpy as np
import pytest

from runner.testing.fake_engine import FakeEngine
from runner.testing.fake_exports import NpzPredictor

EXPORT = "export: [{name: fake_npz, verify_images: 4}]\n"


@pytest.fixture
def artifact(project):
    """Provide the artifact of a finished run."""
    assert project.run("--set", "train.epochs=1", extra=EXPORT).code == 0
    return project.run_folder() / "exports" / "fake_npz"


@pytest.fixture
def clock(monkeypatch):
    """Make every call of the model take one of a series of times, in milliseconds."""
    now = [0.0]
    shapes: list[tuple[str, tuple[int, ...]]] = []
    monkeypatch.setattr("runner.benchmark.model.time.perf_counter", lambda: now[0])

    def take(durations):
        def predict(self, inputs):
            now[0] += durations[len(shapes)] / 1000
            shapes.append((inputs.dtype.name, inputs.shape))
            return np.zeros((len(inputs), 3), np.float32)

        monkeypatch.setattr(NpzPredictor, "predict", predict)
        monkeypatch.setattr(FakeEngine, "predict", predict)
        return shapes

    return take


def test_warm_up_is_left_out_of_the_rate(project, artifact, clock):
    shapes = clock([5000.0] * 3 + [10.0, 20.0, 30.0, 100.0])
    arguments = ("--batch-size", "8", "--warmup", "3", "--steps", "4", "--json")
    record = project.runner("bench", artifact, *arguments).json
    assert shapes == [("float32", (8, 3, 8, 8))] * 7
    assert record["images_per_s"] == pytest.approx(
        {"mean": 200, "median": 320, "low": 80, "high": 800}
    )
    assert record["latency_ms"] == pytest.approx(
        {"mean": 40, "p50": 25, "p90": 79, "p95": 89.5, "p99": 97.9}
    )
    assert (record["batch_size"], record["steps"], record["warmup_steps"]) == (8, 4, 3)
    assert record["runtime"] == {"runtime": "numpy"}


def test_a_model_is_warmed_up_with_200_calls(project, artifact, clock):
    shapes = clock([1.0] * 300)
    outcome = project.runner("bench", artifact)
    assert len(shapes) == 300
    assert "batch 1 / 1.000 ms, the mean of 100 calls after 200 of warm-up" in outcome.out
    assert outcome.out.startswith("1000.0 images/s")


def test_a_fixed_batch_is_the_artifacts_own(project, artifact, clock):
    record = json.loads((artifact / "artifact.json").read_text())
    del record["checksum"]
    record["info"]["input_shape"][0] = 4
    (artifact / "artifact.json").write_text(json.dumps(record))
    shapes = clock([1.0] * 600)
    assert project.runner("bench", artifact, "--json").json["batch_size"] == 4
    assert {shape for _, (shape, *_) in shapes} == {4}
    assert project.runner("bench", artifact, "--batch-size", "4", "--steps", "1").code == 0
    outcome = project.runner("bench", artifact, "--batch-size", "8")
    assert outcome.code == 2
    assert "takes batches of 4 images, not of 8" in outcome.err


def test_a_run_is_measured_on_its_device(project, artifact, clock):
    shapes = clock([2.0] * 12)
    arguments = ("--batch-size", "5", "--warmup", "2", "--steps", "4", "--json")
    record = project.runner("bench", project.run_folder(), *arguments).json
    assert shapes == [("uint8", (5, 8, 8, 3))] * 6
    assert record["device"] == {"device": "fake_cpu"}
    assert record["images_per_s"]["mean"] == pytest.approx(2500)
    checkpoint = project.checkpoints()[-1]
    assert project.runner("bench", checkpoint, *arguments).json["batch_size"] == 5


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["ARTIFACT", "--device", "fake_cpu"], "--set and --device have no effect"),
        (["ARTIFACT", "--set", "seed=1"], "--set and --device have no effect"),
        (["ARTIFACT", "--smoke"], "--smoke shortens a recipe"),
        (["colours.yaml", "--batch-size", "8"], "--batch-size is for a trained model"),
    ],
)
def test_options_without_effect_are_refused(project, artifact, arguments, problem):
    given = [artifact if item == "ARTIFACT" else item for item in arguments]
    outcome = project.runner("bench", *given)
    assert outcome.code == 2
    assert problem in outcome.err


def test_a_missing_device_names_the_command_that_works_here(project, artifact, monkeypatch):
    monkeypatch.delenv("RUNNER_FAKE_CARDS", raising=False)
    run = project.run_folder()
    outcome = project.runner("bench", run, "--device", "fake_card")
    assert outcome.code == 4
    assert outcome.err.endswith(f"to try it here: runner bench {run} --device fake_cpu\n")


def test_a_recipe_that_only_evaluates(project):
    text = project.write_recipe().read_text()
    kept = [
        line
        for line in text.splitlines()
        if not line.startswith(
            ("optimizer", "schedule", "train:", "  train:", "    - {name: random")
        )
    ]
    (project.path / "only.yaml").write_text("\n".join(kept))
    outcome = project.runner("bench", "only.yaml", "--steps", "2", "--json")
    assert outcome.code == 0, outcome.err
    record = outcome.json
    assert set(record["images_per_s"]) == {
        "loader",
        "inference.fixed_batch",
        "inference.from_loader",
    }
    assert (record["batch_size"], record["eval_batch_size"]) == (None, 5)
    table = project.runner("bench", "only.yaml", "--steps", "2").out
    assert "inference from the loader reaches" in table

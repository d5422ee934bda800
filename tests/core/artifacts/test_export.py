"""Conversions of exported models, and artifacts with a fixed batch or another input."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from runner import ArtifactInfo, ConverterEntry, ExporterEntry
from runner.artifacts import artifact as artifacts
from runner.artifacts.artifact import Artifact, ArtifactModel
from runner.artifacts.calibration import spread
from runner.artifacts.verification import declared_tolerance
from runner.errors import MissingRuntimeError, UsageError
from runner.planning.sources import find_source
from runner.plugins.registry import PluginInfo, Registered, Registry
from runner.recipe.schema import PrecisionSection
from runner.testing import fake
from runner.testing.fake_engine import FakeEngine
from runner.testing.fake_exports import (
    NpzOptions,
    NpzPredictor,
    RoundedOptions,
    export_npz,
    read_npz,
)

if TYPE_CHECKING:
    from tests.core.conftest import Project

ROUNDED = "export:\n  - {{name: fake_rounded, verify_images: 4{}}}\n"


def rounded(**keys: object) -> str:
    return ROUNDED.format("".join(f", {key}: {json.dumps(value)}" for key, value in keys.items()))


def export_of(project: Project, **keys: object) -> dict[str, Any]:
    outcome = project.run(extra=rounded(**keys))
    assert outcome.code == 0, outcome.err
    record: dict[str, Any]
    [record] = outcome.json["exports"]
    return record


def result_of(project: Project) -> dict[str, Any]:
    record: dict[str, Any]
    [record] = json.loads((project.run_folder() / "result.json").read_text())["exports"]
    return record


def test_a_conversion_is_verified_and_evaluated_beside_its_source(project):
    record = export_of(project, decimals=1)
    assert record["verified"] is True
    assert record["source"]["name"] == "fake_npz"
    assert record["source"]["verified"] is True
    assert record["source"]["verification"]["max_difference"] < 1e-6
    assert 1e-4 < record["verification"]["max_difference"] < 0.1
    assert record["verification"]["tolerance"] == 0.1, "the entry's, where the recipe has none"
    assert record["metrics"]["val.count"] == record["source_metrics"]["val.count"] == 32
    comparison = record["comparison"]
    assert comparison["images"] == 32
    assert comparison["top1_agreement"] == 1.0
    assert comparison["top1_drop"] == 0.0
    assert 1e-4 < comparison["max_difference"] < 0.1
    assert record == result_of(project)


def test_the_record_is_in_the_log_and_on_the_console(project):
    outcome = project.runner("run", project.write_recipe(rounded(decimals=1)))
    assert outcome.code == 0, outcome.err
    events = [event for event in project.events() if event["event"].startswith("export.")]
    assert [event["event"] for event in events] == [
        "export.begun",
        "export.written",
        "export.verified",
    ]
    record = result_of(project)
    assert events[-1]["comparison"] == record["comparison"]
    assert events[-1]["source_metrics"] == record["source_metrics"]
    for text in (outcome.err, outcome.out):
        assert "fake_npz      top-1 100.00 %" in text
        assert "fake_rounded  top-1 100.00 %" in text
        assert "same class for 100.00 % of 32 images, top-1 +0.00 points" in text


def test_two_exports_of_one_format_are_both_reported(project):
    items = "  - {name: fake_rounded, decimals: 1}\n  - {name: fake_rounded, decimals: 4}\n"
    outcome = project.runner("run", project.write_recipe(f"export:\n{items}"))
    assert "exports/fake_rounded, agrees to" in outcome.out
    assert "exports/fake_rounded-2, agrees to" in outcome.out


def test_the_converted_file_is_an_artifact_like_any_other(project):
    export_of(project, decimals=0, tolerance=10.0)
    artifact = project.run_folder() / "exports" / "fake_rounded"
    assert sorted(path.name for path in artifact.parent.iterdir()) == ["fake_rounded"]
    weights = read_npz(artifact / "model.npz")["head.weight"]
    assert np.array_equal(weights, np.round(weights))
    [result] = project.runner("eval", artifact, "--json").json
    assert result["metrics"] == result_of(project)["metrics"]
    assert project.runner("verify", artifact, "--tolerance", "10").code == 0
    image = artifact / "golden" / "00.png"
    [prediction] = project.runner("predict", artifact, image, "--top", "3", "--format", "json").json
    assert len(prediction["choices"]) == 3
    assert json.loads((artifact / "artifact.json").read_text())["source"] == "fake_npz"


def test_export_makes_a_conversion_of_a_checkpoint(project):
    project.run()
    outcome = project.runner("export", project.run_folder(), "--format", "fake_rounded", "--json")
    assert outcome.code == 0, outcome.err
    [record] = outcome.json
    assert record["verified"] is True
    assert "comparison" in record


def test_an_artifact_of_a_source_in_the_recipe_stays(project):
    extra = "export:\n  - {name: fake_npz, error: 0.5, tolerance: 9}\n  - {name: fake_rounded}\n"
    outcome = project.run(extra=extra)
    first, second = outcome.json["exports"]
    assert first["verification"]["max_difference"] > 1e-2
    assert second["source"]["verification"]["max_difference"] < 1e-6, "exported for itself"
    exports = project.run_folder() / "exports"
    assert sorted(path.name for path in exports.iterdir()) == ["fake_npz", "fake_rounded"]


def test_options_of_a_converter_reach_its_source(project):
    outcome = project.run(extra=rounded(source_error=5.0))
    assert outcome.code == 7
    record = result_of(project)
    assert record["verified"] is False
    assert record["source"]["verified"] is False
    assert "fake_npz, which fake_rounded is made from" in record["error"]
    assert not list((project.run_folder() / "exports").iterdir())


@pytest.mark.parametrize(
    ("keys", "allowed"),
    [({}, 1e-4), ({"tolerance": 0.3}, 0.3), ({"tolerance": 1e-5, "decimals": 9}, 1e-4)],
)
def test_what_the_source_may_differ(project, keys, allowed):
    assert export_of(project, **keys)["source"]["verification"]["tolerance"] == allowed


def test_a_live_model_in_a_reduced_precision_is_not_near_its_export(project, monkeypatch):
    opened = FakeEngine.__init__

    def open_anyway(self, spec, device):
        opened(self, replace(spec, precision=PrecisionSection()), device)

    monkeypatch.setattr(FakeEngine, "__init__", open_anyway)
    monkeypatch.delitem(fake.REFUSED, "bf16")
    outcome = project.run("--precision", "bf16", extra=rounded())
    assert outcome.code == 0, outcome.err
    [record] = outcome.json["exports"]
    assert record["source"]["verification"]["tolerance"] == 0.1


def test_a_conversion_that_differs_too_much_is_an_error(project):
    outcome = project.run(extra=rounded(decimals=0, tolerance=0.01))
    assert outcome.code == 7
    assert "allowed 1.00e-02" in outcome.err
    record = result_of(project)
    assert record["verified"] is False
    assert record["metrics"]["val.count"] == 32, "the accuracy is told all the same"


def test_a_conversion_that_loses_accuracy_is_an_error(project, monkeypatch):
    predict = NpzPredictor.predict

    def worse(self, inputs):
        logits = predict(self, inputs)
        return logits if self.info.details.get("calibration_batches") is None else -logits

    monkeypatch.setattr(NpzPredictor, "predict", worse)
    outcome = project.run(extra=rounded(tolerance=100.0, max_top1_drop=0.25))
    assert outcome.code == 7
    assert (
        "top-1 is 100.00 points lower than that of the fake_npz artifact it was made from, on the "
        "same 32 images; max_top1_drop allows 25.00"
    ) in outcome.err
    record = result_of(project)
    assert record["comparison"]["top1_drop"] == 1.0
    assert record["comparison"]["top1_agreement"] == 0.0


def test_a_conversion_within_the_limit_passes(project):
    assert export_of(project, max_top1_drop=0.0)["verified"] is True


def test_an_artifact_that_gives_no_numbers_is_an_error(project, monkeypatch):
    predict = NpzPredictor.predict
    monkeypatch.setattr(NpzPredictor, "predict", lambda *given: predict(*given) * np.nan)
    outcome = project.run(extra=rounded())
    assert outcome.code == 7
    assert "the logits of 4 of 4 stored images are not finite" in outcome.err


def test_where_nothing_runs_the_converted_file_its_source_is_judged(project):
    outcome = project.runner("run", project.write_recipe(rounded(runs_here=False)))
    assert outcome.code == 0, outcome.err
    record = result_of(project)
    assert record["verified"] is None
    assert "no predictor runs artifacts of the format 'fake_card_npz'" in record["reason"]
    assert record["source"]["verified"] is True
    assert record["source_metrics"]["val.top1"] == 1.0
    assert "metrics" not in record
    assert "is not verified: no predictor" in outcome.err
    assert "fake_npz      top-1 100.00 %" in outcome.err
    assert "NOT VERIFIED" in outcome.out
    last = [event for event in project.events() if event["event"] == "export.verified"][-1]
    assert last["source_metrics"] == record["source_metrics"]


def test_calibration_images_are_spread_over_the_classes(project):
    record = export_of(project, calibration_images=12)
    assert record["details"]["calibration_batches"] == [5, 5, 2], "batches of eval.batch_size"
    assert abs(record["details"]["calibration_mean"]) < 2, "normalised"
    folder = project.run_folder() / "exports" / "fake_rounded"
    from runner.data.normalize import normalize
    from runner.testing.fake import Colours, ColoursOptions

    colours = Colours(ColoursOptions(), "val")
    chosen = spread(colours.labels)[:12]
    assert np.bincount(colours.labels[chosen]).tolist() == [4, 4, 4]
    pixels = np.stack([colours.read(int(index)) for index in chosen])
    assert (record["calibration"]["images"], record["calibration"]["classes"]) == (12, 3)
    artifact = artifacts.read(folder)
    expected = normalize(pixels, artifact.mean, artifact.std).mean()
    assert record["details"]["calibration_mean"] == pytest.approx(float(expected), rel=1e-5)


def test_every_beginning_of_the_calibration_images_covers_the_classes():
    labels = np.repeat(np.arange(10), 30)
    for images in (10, 20, 50):
        counts = np.bincount(labels[spread(labels)[:images]], minlength=10)
        assert counts.tolist() == [images // 10] * 10
    first = np.sort(labels[spread(labels)[:5]])
    assert np.diff(first).max() <= 4, "five images of ten classes are spread over them"
    assert sorted(spread(labels).tolist()) == list(range(300))


def test_classes_without_a_calibration_image_are_named(project):
    outcome = project.runner(
        "run", project.write_recipe(rounded(calibration_images=2)), "--set", "dataset.classes=4"
    )
    assert outcome.code == 0, outcome.err
    assert "fake_rounded was calibrated on 2 images of 2 of 4 classes, without " in outcome.err


def test_a_conversion_that_chooses_other_classes_is_an_error(project, monkeypatch):
    predict = NpzPredictor.predict

    def worse(self, inputs):
        logits = predict(self, inputs)
        is_source = self.info.details.get("calibration_batches") is None
        return logits if is_source else np.roll(logits, 1, axis=1)

    monkeypatch.setattr(NpzPredictor, "predict", worse)
    outcome = project.run(extra=rounded(tolerance=100.0, min_agreement=0.75))
    assert outcome.code == 7
    assert "expected a share of 0.75" in outcome.err
    assert "set min_agreement in this item of export" in outcome.err
    assert result_of(project)["verified"] is False
    outcome = project.run(extra=rounded(tolerance=100.0, min_agreement=0.0))
    assert outcome.code == 0, outcome.err


def test_the_whole_split_decides_whether_a_conversion_agrees(project, monkeypatch):
    """Four stored images may agree by chance; all 32 do not."""
    predict = NpzPredictor.predict
    calls = []

    def worse_later(self, inputs):
        logits = predict(self, inputs)
        if self.info.details.get("calibration_batches") is None:
            return logits
        calls.append(len(inputs))
        return logits if len(calls) == 1 else np.roll(logits, 1, axis=1)

    monkeypatch.setattr(NpzPredictor, "predict", worse_later)
    outcome = project.run(extra=rounded(tolerance=100.0, min_agreement=0.75))
    assert outcome.code == 7
    assert "made from for 0.00 % of 32 images, expected at least 75 %" in outcome.err
    assert result_of(project)["verified"] is False


@pytest.mark.parametrize(
    ("compute", "tolerance"), [("fp32", 1e-4), ("fp16", 0.05), ("bf16", 0.1), ("tf32", 1e-4)]
)
def test_a_tolerance_follows_the_precision_of_the_live_model(compute, tolerance):
    [exporter, converter] = fake.runner_register_exporters()
    assert declared_tolerance(exporter, compute) == tolerance
    assert declared_tolerance(converter, compute) == 0.1


@pytest.mark.parametrize("size", [1, 4, 7, 64])
def test_a_fixed_batch_scores_every_image_once(project, size):
    record = export_of(project, batch_size=size, decimals=6)
    assert record["input_shape"] == [size, 3, 8, 8]
    assert record["metrics"] == pytest.approx(record["source_metrics"], rel=1e-4)
    assert record["comparison"]["images"] == 32
    artifact = project.run_folder() / "exports" / "fake_rounded"
    images = sorted((artifact / "golden").iterdir())
    assert len(project.runner("predict", artifact, *images, "--format", "json").json) == 4
    outcome = project.runner("offline", "run", artifact, "--output", "offline")
    assert outcome.code == 0, outcome.err
    assert len(list((project.path / "offline" / "result_Files").iterdir())) == 32


@pytest.mark.parametrize(("kind", "close"), [("uint8", 1e-5), ("float16", 1e-2)])
def test_a_file_with_another_input(project, kind, close):
    record = export_of(project, input_type=kind, decimals=6)
    assert record["input_type"] == kind
    assert record["verification"]["max_difference"] < close
    assert record["metrics"]["val.top1"] == 1.0


class Repeats:
    """Gives the mean of each image, and keeps what it was given."""

    def __init__(self) -> None:
        self.given: list[Any] = []

    def predict(self, inputs):
        self.given.append(inputs)
        return inputs.reshape(len(inputs), -1).mean(axis=1, keepdims=True).astype(np.float32)

    def describe(self):
        return {}


def model_of(predictor: Repeats, batch: int | str) -> ArtifactModel:
    info = ArtifactInfo(
        format="any",
        file="file",
        input_name="input",
        input_shape=(batch, 3, 2, 2),
        output_name="logits",
    )
    artifact = Artifact(
        folder=Path(),
        info=info,
        classes=(),
        transforms=[],
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        tolerance=1.0,
        golden=(),
    )
    return ArtifactModel(artifact, predictor)


def test_a_short_batch_is_filled_with_copies_of_its_first_image():
    images = np.arange(5 * 12, dtype=np.float32).reshape(5, 3, 2, 2)
    predictor = Repeats()
    logits = model_of(predictor, 3).predict(images)
    assert np.array_equal(logits[:, 0], images.reshape(5, -1).mean(axis=1))
    first, second = predictor.given
    assert np.array_equal(first, images[:3])
    assert np.array_equal(second, images[[3, 4, 3]])


def test_a_free_batch_is_left_alone():
    images = np.zeros((5, 3, 2, 2), np.float32)
    predictor = Repeats()
    model_of(predictor, "batch").predict(images)
    assert [len(given) for given in predictor.given] == [5]


def test_artifacts_from_before_the_type_of_the_input_was_stated(project):
    project.run(extra="export: [{name: fake_npz}]\n")
    folder = project.run_folder() / "exports" / "fake_npz"
    record = json.loads((folder / "artifact.json").read_text())
    del record["checksum"]
    assert record["format"] == 1
    del record["info"]["input_type"]
    del record["source"]
    (folder / "artifact.json").write_text(json.dumps(record))
    assert artifacts.read(folder).info.input_type == "float32"
    assert project.runner("verify", folder).code == 0


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (
            "{name: fake_npz, max_top1_drop: 0.1}",
            "export.0.max_top1_drop has no effect on fake_npz, which does not convert another",
        ),
        (
            "{name: fake_rounded, max_top1_drop: 0.1, evaluate: false}",
            "export.0.max_top1_drop has no effect with evaluate: false",
        ),
    ],
)
def test_a_limit_without_effect_is_refused(project, item, reason):
    file = project.write_recipe(f"export:\n  - {item}\n")
    outcome = project.runner("run", file)
    assert outcome.code == 2
    assert reason in outcome.err
    assert f"{file.name}:16:" in outcome.err


def test_a_smoke_run_converts_without_the_limit(project):
    extra = rounded(max_top1_drop=0.0, tolerance=100.0)
    outcome = project.runner("run", project.write_recipe(extra), "--smoke", "--json")
    assert outcome.code == 0, outcome.err
    [record] = outcome.json["exports"]
    assert "comparison" in record


def test_explain_names_the_source(project):
    extra = "export:\n  - {name: fake_rounded}\n  - {name: fake_rounded, decimals: 1}\n"
    out = project.runner("explain", project.write_recipe(extra)).out
    assert out.count("exporter   fake_rounded") == 2
    assert out.count("exporter   fake_npz") == 1
    assert "which fake_rounded starts from" in out


def converter(**changes: object) -> ConverterEntry:
    keys: dict[str, Any] = {
        "name": "small",
        "summary": "Small",
        "source": "archive",
        "convert": lambda request: request.info,
    }
    return ConverterEntry(**(keys | changes))


def registry(*entries: ConverterEntry | ExporterEntry, missing: str = "") -> Registry:
    plugin = PluginInfo(name="p", module="p", state="ready")
    return Registry(
        [plugin],
        [Registered(entry=entry, plugin=plugin, reason=missing) for entry in entries],
    )


ARCHIVE = ExporterEntry(
    name="archive", framework="f", summary="Archive", config=NpzOptions, export=export_npz
)


def test_the_source_gets_what_the_converter_asks_for():
    entry = converter(source_options=lambda options: {"error": float(options.decimals)})
    source = find_source(entry, RoundedOptions(decimals=3), "f", registry(ARCHIVE, entry))
    assert source.entry is ARCHIVE
    assert source.options == NpzOptions(error=3.0)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (converter(source="absent"), "exporter 'small' converts what exporter 'absent' of f"),
        (converter(source="small"), "'small' writes, which is itself a conversion"),
        (
            converter(source_options=lambda _: {"opset": 11}),
            r'asks exporter \'archive\' of f for {"opset": 11}, which that cannot do \(opset: ',
        ),
    ],
)
def test_a_source_that_cannot_be_had(entry, reason):
    with pytest.raises(UsageError, match=reason):
        find_source(entry, RoundedOptions(), "f", registry(ARCHIVE, entry))


def test_what_the_source_needs_is_checked_before_anything_runs(project, monkeypatch):
    from runner.testing import fake

    file = project.write_recipe(rounded())
    entries = fake.runner_register_exporters
    from runner import hookimpl

    @hookimpl
    def runner_register_exporters():
        archive, rounding = entries()
        return [replace(archive, requires=("no_such_module",), install="pip install it"), rounding]

    monkeypatch.setattr(fake, "runner_register_exporters", runner_register_exporters)
    outcome = project.runner("run", file)
    assert outcome.code == 3
    assert "exporter 'fake_npz' cannot be used: no_such_module is not installed" in outcome.err
    assert not (project.path / "runs").exists()


def test_a_runtime_for_the_result_but_not_for_the_source(project, monkeypatch):
    """The result is verified; what it loses cannot be told."""
    from runner.artifacts import export

    def missing(artifact, registry):
        if artifact.folder.name.startswith("."):
            raise MissingRuntimeError("nothing runs the source")
        return opened(artifact, registry)

    opened = artifacts.open_predictor
    monkeypatch.setattr(export, "open_predictor", missing)
    record = export_of(project)
    assert record["verified"] is True
    assert record["source"]["verified"] is None
    assert "comparison" not in record
    outcome = project.run(extra=rounded(max_top1_drop=0.5))
    assert outcome.code == 7
    assert "max_top1_drop cannot be checked" in outcome.err

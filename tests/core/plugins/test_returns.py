"""What plugins return is checked where it enters: an offender is named with its plugin and key."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from runner import hookimpl
from runner.contracts import ArtifactInfo, Batch, EngineState, EvalCounts, StepResult
from runner.errors import ArtifactError, PluginError
from runner.plugins.guards import CheckedLoader
from runner.plugins.returns import arrays, artifact_info, as_json, checked_dataset, image, logits
from runner.testing import fake, fake_exports
from runner.testing.fake_engine import FakeEngine, Ready

SHORT = ("--set", "train.epochs=1", "--set", "dataset.images=24")
NAMED = "of plugin 'fake'"


class Odd:
    """A fake engine of which some methods are replaced."""

    def __init__(self, engine: FakeEngine, **methods: Any) -> None:
        self._engine = engine
        self._methods = methods

    def __getattr__(self, name: str) -> Any:
        method = self._methods.get(name, getattr(self._engine, name))
        if method is None:
            raise AttributeError(name)
        return method


@pytest.fixture
def run(project, monkeypatch):
    """Run a recipe on an engine of which some methods are replaced."""

    def run_it(*arguments: str, extra: str = "", **methods: Any) -> Any:
        def build(spec, device):
            engine = FakeEngine(spec, device)
            bound = {
                name: (lambda *a, m=method: m(engine, *a)) if method else None
                for name, method in methods.items()
            }
            return Odd(engine, **bound)

        monkeypatch.setattr(fake, "open_engine", build)
        return project.run(*SHORT, *arguments, extra=extra)

    return run_it


@pytest.mark.parametrize("key", ["time", "event", "elapsed_s", "model"])
def test_a_report_does_not_replace_what_the_event_says_itself(run, key):
    outcome = run(report=lambda engine: {**engine.report(), key: "x"})
    assert outcome.code == 3
    assert f"framework 'fake' {NAMED}" in outcome.err
    assert f"report() returned the key '{key}'" in outcome.err


def test_numbers_of_numpy_are_taken_for_numbers(run, project):
    outcome = run(
        report=lambda engine: {"parameters": np.int64(7), "scale": np.float32(0.5), "on": np.True_},
        train_step=lambda engine, batch, rate: Ready(
            StepResult(loss=np.float32(engine.train_step(batch, rate).read().loss))  # type: ignore[arg-type]
        ),
        state=lambda engine: EngineState(
            tensors=engine.state().tensors,
            values={**engine.state().values, "steps": np.int64(engine.state().values["steps"])},
        ),
    )
    assert outcome.code == 0, outcome.err
    opened = next(event for event in project.events() if event["event"] == "engine.opened")
    assert (opened["parameters"], opened["scale"], opened["on"]) == (7, 0.5, True)
    assert run("--runs-dir", "more").code == 0


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ({"report": lambda engine: {"a": {"b": {1, 2}}}}, "report(): a.b is set, which JSON"),
        ({"report": lambda engine: [1]}, "report() returned list where a mapping is expected"),
        ({"train_step": lambda engine, *_: Ready(0.5)}, "train_step() returned float where a Step"),
        ({"train_step": lambda engine, *_: 0.5}, "where an object with read() is expected"),
        (
            {"train_step": lambda engine, *_: Ready(StepResult(loss="low"))},  # type: ignore[arg-type]
            "train_step() returned str as the loss, expected a number",
        ),
        (
            {"eval_step": lambda *_: Ready(EvalCounts(top1=3, top5=2, loss_sum=1.0, count=5))},
            "eval_step() counted 3 images in top-1, 2 in top-5, and 5 in all",
        ),
        ({"weights": lambda engine: {"w": [1, 2]}}, "weights() returned list under 'w'"),
        (
            {"state": lambda engine: EngineState(values={"pattern": np.zeros(2)})},
            "state(): values.pattern is numpy.ndarray, which JSON cannot hold",
        ),
        ({"state": lambda engine: {}}, "state() returned dict where a EngineState is expected"),
        ({"agree": None}, "has no method agree()"),
        ({"synchronize": None, "predict": None}, "has no method predict(); has no method synchr"),
    ],
)
def test_what_is_wrong_is_named_with_its_plugin(run, methods, message):
    outcome = run(**methods)
    assert outcome.code == 3, outcome.err
    assert NAMED in outcome.err
    assert message in outcome.err


def test_a_method_that_takes_other_arguments_is_found_before_the_first_step(project, monkeypatch):
    class Narrow(Odd):
        def train_step(self, batch):
            raise AssertionError("never called")

    monkeypatch.setattr(fake, "open_engine", lambda *given: Narrow(FakeEngine(*given)))
    outcome = project.run(*SHORT)
    assert outcome.code == 3
    assert "train_step() does not take (self, batch" in outcome.err


EXPORT = "export: [{name: fake_npz}]\n"


def test_logits_in_fortran_order_are_stored_as_they_are(run, project):
    """One that stores the memory as it lies finds other logits than the model's."""
    outcome = run(
        predict=lambda engine, images: np.asfortranarray(engine.predict(images)), extra=EXPORT
    )
    assert outcome.code == 0, outcome.err
    assert outcome.json["exports"][0]["verification"]["max_difference"] < 1e-6


def test_weights_and_state_in_fortran_order_are_stored_as_they_are(run, project):
    def turned(mapping):
        return {name: np.array(array, order="F") for name, array in mapping.items()}

    outcome = run(
        "--runs-dir",
        "turned",
        weights=lambda engine: turned(engine.weights()),
        state=lambda engine: replace(engine.state(), tensors=turned(engine.state().tensors)),
    )
    assert outcome.code == 0, outcome.err
    assert run("--runs-dir", "plain").code == 0
    files = [sorted(project.path.glob(f"{name}/*/*/checkpoints/*/*.safetensors"))
             for name in ("turned", "plain")]  # fmt: skip
    assert [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]]
    assert len(files[0]) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda info: None, "export() returned NoneType where a ArtifactInfo is expected"),
        (lambda info: replace(info, file="other.bin"), "wrote no file 'other.bin'"),
        (lambda info: replace(info, input_shape=("batch", 3)), "input_shape ('batch', 3)"),
        (lambda info: replace(info, input_type="int4"), "input_type 'int4', expected float32"),
        (lambda info: replace(info, details={"opset": {1}}), "details: opset is set"),
    ],
)
def test_what_an_exporter_tells_is_checked_and_the_run_is_kept(
    project, monkeypatch, change, message
):
    write = fake_exports.export_npz
    monkeypatch.setattr(fake, "export_npz", lambda *given: change(write(*given)))
    outcome = project.run(*SHORT, extra=EXPORT)
    assert outcome.code == 7
    assert f"exporter 'fake_npz' {NAMED}" in outcome.err
    assert message in outcome.err
    assert project.checkpoints()
    assert (project.run_folder() / "result.json").is_file()


def test_an_exporter_that_raises_is_named_and_the_run_is_kept(project, monkeypatch):
    def fail(*_: object) -> ArtifactInfo:
        raise KeyError("opset")

    monkeypatch.setattr(fake, "export_npz", fail)
    outcome = project.run(*SHORT, extra=EXPORT)
    assert outcome.code == 7
    assert f"exporter 'fake_npz' {NAMED}" in outcome.err
    assert "failed in export(): KeyError: 'opset'" in outcome.err
    assert (project.run_folder() / "result.json").is_file()


@pytest.mark.parametrize("shape", [(5,), (3, 2), (2, 3, 1)])
def test_logits_of_a_predictor_have_one_row_for_each_image(shape):
    with pytest.raises(
        PluginError, match=r"p returned logits float32 .* expected float32 \[2, 3\]"
    ):
        logits(np.zeros(shape, np.float32), 2, 3, "p")


def test_logits_are_float32():
    with pytest.raises(PluginError, match="p returned logits float64"):
        logits(np.zeros((2, 3)), 2, 3, "p")


def test_an_array_in_the_other_order_of_bytes_becomes_the_machines():
    found = arrays({"a": np.array([[1, 2], [3, 4]], ">f4"), "b": np.float32(2)}, "p")
    assert found["a"].dtype.isnative
    assert found["a"].tolist() == [[1, 2], [3, 4]]
    assert found["b"].shape == ()


class Images:
    """A dataset of two classes, as a plugin might write it."""

    classes: Any = ("a", "b")
    labels: Any = np.array([0, 1])

    def read(self, index):
        return b""

    def describe(self, index):
        return str(index)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"labels": [0, 1]}, "labels is list, expected a NumPy array of integers"),
        ({"labels": np.array([0.0, 1.0])}, r"labels is float64 \[2\]"),
        ({"labels": np.array([1, 2])}, "labels are 1 to 2, expected 0 to 1, of 2 classes"),
        ({"labels": np.array([-1, 0])}, "labels are -1 to 0"),
        ({"classes": "ab"}, "classes is str, expected a sequence of names"),
        ({"classes": (1, 2)}, "classes holds 1, expected names"),
        ({"read": None}, r"has no method read\(\)"),
    ],
)
def test_a_dataset_has_labels_that_index_its_classes(attributes, message):
    broken = type("Broken", (Images,), attributes)()
    with pytest.raises(PluginError, match=f"d.*{message}"):
        checked_dataset(broken, "d")


@pytest.mark.parametrize("pixels", [np.zeros((4, 4)), np.zeros((4, 4, 4), np.uint8), "path.png"])
def test_an_image_is_bytes_or_rgb_pixels(pixels):
    with pytest.raises(
        PluginError, match=r"d returned .*expected bytes or pixels uint8 \[H, W, 3]"
    ):
        image(pixels, "d")


def test_keys_of_a_report_are_text():
    with pytest.raises(PluginError, match=r"p\.a has the key 1, expected text"):
        as_json({"a": {1: 2}}, "p")


def test_a_file_that_is_not_written_is_no_artifact(tmp_path):
    info = ArtifactInfo(
        format="f", file="m", input_name="i", input_shape=("batch", 3, 2, 2), output_name="o"
    )
    with pytest.raises(ArtifactError, match="e wrote no file 'm'"):
        artifact_info(info, tmp_path, "e")


class Loader:
    """Yields one batch, whatever is asked for."""

    transforms: tuple[Any, ...] = ()
    stops_at_damage = True

    def __init__(self, batch: Any) -> None:
        self._batch = batch

    def train_batches(
        self,
        epoch: int,
        *,
        batch_size: int,
        steps: int,
        first_step: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> Any:
        yield self._batch

    def eval_batches(self, batch_size: int, *, rank: int = 0, world_size: int = 1) -> Any:
        yield self._batch

    def report(self) -> dict[str, Any]:
        return {}

    def close(self) -> None:
        """Nothing is open."""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": np.zeros(2, np.int32)}, "labels are a int32 array, expected int64"),
        ({"images": np.zeros((2, 3, 4, 4))}, "images are a float64 array, expected uint8"),
        ({"labels": np.zeros(3, np.int64)}, "2 images, 3 labels and 2 indices"),
        ({"indices": [0, 1]}, "indices are a list"),
    ],
)
def test_a_batch_of_a_plugins_loader_is_checked(changes, message):
    whole = Batch(
        images=np.zeros((2, 4, 4, 3), np.uint8),
        labels=np.zeros(2, np.int64),
        indices=np.arange(2),
    )
    batches = CheckedLoader(Loader(replace(whole, **changes)), "l").eval_batches(2)
    with pytest.raises(PluginError, match=f"l yielded a batch .*{message}"):
        next(batches)
    assert next(CheckedLoader(Loader(whole), "l").eval_batches(2)) is whole


def test_a_model_that_cannot_be_built_is_named(project, monkeypatch):
    monkeypatch.setattr(fake, "build_linear", lambda *_: None)
    outcome = project.run(*SHORT)
    assert outcome.code == 3
    assert f"model 'linear' {NAMED}" in outcome.err
    assert "build() returned None" in outcome.err


def test_an_export_that_cannot_work_is_refused_before_training(project, monkeypatch):
    """The reason is known from the plan: nothing is trained, and explain lists it."""
    first, second = fake.runner_register_exporters()
    refusing = replace(first, refuses=lambda plan: f"not on {plan.device}, with {plan.options}")
    monkeypatch.setattr(fake, "runner_register_exporters", fake_hook(lambda: [refusing, second]))
    outcome = project.run(*SHORT, extra=EXPORT)
    assert outcome.code == 2
    assert "export 'fake_npz' cannot work here: not on fake_cpu, with NpzOptions(" in outcome.err
    assert not project.checkpoints()
    recipe = project.write_recipe(EXPORT)
    assert "cannot work here: not on fake_cpu" in project.runner("explain", recipe).out
    assert project.runner("train", recipe, *SHORT).code == 0, "which exports nothing"


def test_an_export_is_refused_for_its_data_or_its_source_before_training(project, monkeypatch):
    first, second = fake.runner_register_exporters()
    small = "fewer than 99 validation images"
    refusing = replace(first, refuses=lambda plan: small if (plan.val_images or 99) < 99 else "")
    monkeypatch.setattr(fake, "runner_register_exporters", fake_hook(lambda: [refusing, second]))
    converted = f"export: [{{name: {second.name}}}]\n"
    for extra, name in ((EXPORT, first.name), (converted, second.name)):
        said = f"export {name!r} cannot work here: {small}"
        outcome = project.run(*SHORT, extra=extra)
        assert outcome.code == 2
        assert said in outcome.err
        assert not project.checkpoints()
        assert said in project.runner("explain", project.write_recipe(extra)).out


def fake_hook(function):
    return hookimpl(specname="runner_register_exporters")(function)

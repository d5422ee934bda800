"""``runner.api``: results, recipes and overrides of Python, listeners, errors."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import runner
from runner.distributed.signals import SIGNALS
from runner.errors import (
    ArtifactError,
    InterruptedRunError,
    NonFiniteError,
    RecipeError,
    UsageError,
)
from runner.recipe.overrides import as_texts


def events_of(seen):
    return [event for event, _ in seen]


@pytest.fixture
def recipe(project):
    return project.write_recipe("export: [fake_npz]\n")


def test_a_run_tells_what_its_folder_holds(recipe, project):
    seen = []
    run = runner.run(recipe, folder="here", listeners=lambda *event: seen.append(event))
    assert run.folder.parent == Path("here/colours").absolute()
    assert run.finished
    assert run.recipe == "colours"
    assert [epoch["epoch"] for epoch in run.history] == [1, 2, 3]
    assert run.history[-1]["val.top1"] == run.metrics["val.top1"] == run.result["best_top1"]
    assert [step["step"] for step in run.steps] == sorted({step["step"] for step in run.steps})
    assert run.best in run.checkpoints
    assert run.artifacts[0].verified
    assert [name for name in events_of(seen) if name.startswith("run.")] == [
        "run.started",
        "run.finished",
    ]
    assert runner.load_run(run.folder) == run
    with pytest.raises(dataclasses.FrozenInstanceError):
        run.folder = Path()  # type: ignore[misc]  # which is what is tried


def test_the_command_line_gives_the_same(recipe, project):
    run = runner.run(recipe, {"train.epochs": 1})
    out = project.runner("resume", run.folder, "--json")
    assert out.json == json.loads(json.dumps(run.result))
    [evaluated] = project.runner("eval", run.folder, "--json").json
    found = runner.evaluate(run)
    assert evaluated == {
        "path": str(found.path),
        "metrics": found.metrics,
        "reference": found.reference,
    }


def test_nothing_is_printed(recipe, project):
    project.capture.readouterr()
    run = runner.train(recipe, {"train.epochs": 1})
    runner.evaluate(run)
    assert project.capture.readouterr() == ("", "")


def test_results_show_themselves(recipe, project):
    run = runner.run(recipe, {"train.epochs": 1})
    name = run.folder.rename(run.folder.with_name("<b>"))
    moved = runner.load_run(name)
    assert repr(moved).splitlines()[0] == f"Run {name}"
    assert "val.top1" in repr(moved)
    assert "&lt;b&gt;" in moved._repr_html_()
    assert "<b>" not in moved._repr_html_()


def test_a_recipe_may_be_a_mapping(recipe, project):
    given = {"extends": "colours.yaml", "train": {"epochs": 1}}
    run = runner.train(given, {"optimizer.learning_rate": 0.01, "eval": {"batch_size": 4}})
    assert run.recipe == "recipe"
    resolved = runner.load_recipe(run.folder / "recipe.yaml").values
    assert resolved["train"]["epochs"] == 1
    assert resolved["optimizer"]["learning_rate"] == 0.01
    assert resolved["eval"]["batch_size"] == 4
    with pytest.raises(RecipeError, match=r"^mine: unknown key 'epoch' in train; did you mean"):
        runner.load_recipe({"extends": "colours.yaml", "train": {"epoch": 1}}, name="mine")


def test_errors_are_those_of_the_command_line(recipe, project):
    with pytest.raises(RecipeError) as error:
        runner.run(recipe, {"train.epochs": "many"})
    printed = project.runner("run", recipe, "--set", "train.epochs=many")
    assert printed.err == f"error: {error.value}\n"
    with pytest.raises(UsageError, match=r"^no kind 'shoes'; expected one of frameworks, "):
        runner.list_entries("shoes")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3, "a.b=3"),
        (True, "a.b=true"),
        (None, "a.b=null"),
        (0.5, "a.b=0.5"),
        (float("inf"), "a.b=.inf"),
        (np.float32(0.5), "a.b=0.5"),
        ("cpu", "a.b=cpu"),
        ("3", 'a.b="3"'),
        ("", 'a.b=""'),
        ("[x] y", 'a.b="[x] y"'),
        (Path("/x"), "a.b=/x"),
        ([1, "2"], 'a.b=[1, "2"]'),
        ({"name": "cosine", "steps": (1, 2)}, 'a.b={"name": "cosine", "steps": [1, 2]}'),
    ],
)
def test_values_become_texts_that_mean_the_same(value, text):
    assert as_texts({"a.b": value}) == [text]


def test_values_that_no_recipe_has_are_refused():
    with pytest.raises(UsageError, match=r"^a\.b\.0: found a set; expected None, True or False"):
        as_texts({"a.b": [{1}]})
    with pytest.raises(UsageError, match=r"^overrides is the text 'a=1'; expected values by key"):
        as_texts("a=1")


def test_a_listener_stops_a_run_which_saves(recipe, project):
    def stop(event, fields):
        if event == "train.step" and fields["step"] >= 8:
            raise runner.StopRun

    whole = runner.train(recipe)
    stopped = runner.train(recipe, listeners=[stop])
    assert not stopped.finished
    assert stopped.checkpoints[-1].name == f"step_{8:08}"
    [event] = [e for e in project.events(stopped.folder) if e["event"] == "run.interrupted"]
    assert event["signal"] == 0
    finished = runner.resume(stopped)
    assert finished.metrics["val.loss"] == whole.metrics["val.loss"]


def test_a_listener_stops_at_once_where_nothing_is_to_be_saved(recipe, project):
    def stop(event, fields):
        if event == "export.begun":
            raise runner.StopRun("no export")

    with pytest.raises(runner.StopRun, match="no export"):
        runner.run(recipe, {"train.epochs": 1}, listeners=stop)


def test_signals_are_left_alone_unless_they_are_to_be_heard(recipe, project):
    before = signal.getsignal(signal.SIGTERM)
    during = []

    def look(event, fields):
        if event == "train.step":
            during.append(signal.getsignal(signal.SIGTERM))

    runner.train(recipe, {"train.epochs": 1}, listeners=look)
    assert set(during) == {before}
    during.clear()
    runner.train(recipe, {"train.epochs": 1}, listeners=look, signals=True)
    assert before not in during
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_run_that_a_signal_stopped_leaves_handlers_as_they_were(recipe, project):
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def stop(event, fields):
        if event == "train.step":
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(InterruptedRunError, match="runner resume"):
        runner.train(recipe, signals=True, listeners=stop)
    assert {number: signal.getsignal(number) for number in SIGNALS} == before


def test_signals_are_for_the_main_thread(recipe, project):
    with ThreadPoolExecutor() as pool:
        task = pool.submit(runner.train, recipe, signals=True)
        with pytest.raises(UsageError, match="another thread than the main one"):
            task.result()


def test_results_answer_wherever_the_program_goes(recipe, project, monkeypatch):
    run = runner.run(recipe, {"train.epochs": 1})
    monkeypatch.chdir("/")
    assert len(run.history) == 1
    assert run.artifacts[0].folder.is_dir()
    assert runner.load_run(run.folder).metrics == run.metrics


def test_listeners_do_not_see_what_others_make_of_an_event(recipe, project):
    seen = []

    def clear(event, fields):
        fields.clear()
        if event == "run.finished":
            raise runner.StopRun

    run = runner.train(recipe, listeners=[clear, lambda *event: seen.append(event)])
    assert run.finished
    assert all(fields for _, fields in seen)


ANY: Any = runner  # what type checkers would refuse


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda run: ANY.predict(run, "a.png", top=0), "top is 0; expected a whole number"),
        (lambda run: ANY.predict(run, "a.png", batch_size=-3), "batch_size is -3; expected"),
        (lambda run: ANY.predict(run, []), "expected image files or folders"),
        (lambda run: ANY.predict(run, ""), "expected image files or folders"),
        (lambda run: ANY.evaluate(None), "got None; expected a run"),
        (lambda run: ANY.load_run("a\0b"), "expected a run"),
        (lambda run: ANY.bench(run, steps=-1), "steps is -1; expected a whole number from 1"),
        (lambda run: ANY.verify("x", tolerance=float("nan")), "tolerance is nan; expected"),
        (lambda run: ANY.evaluate(run, recipe={"extends": "x"}), "expected its name or path"),
        (lambda run: ANY.evaluate(run, [3]), r"overrides is \[3\]; expected values by key"),
        (lambda run: ANY.evaluate(run, None), "overrides is None; expected values by key"),
        (lambda run: ANY.train("quickstart", listeners=3), "listeners is 3; expected functions"),
        (lambda run: ANY.train("quickstart", listeners=runner.Console), "expected functions"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(recipe, project, call, message):
    with pytest.raises(UsageError, match=message):
        call("a run")


def test_images_are_predicted_and_artifacts_verified(recipe, project):
    run = runner.run(recipe, {"train.epochs": 1})
    Image.new("RGB", (8, 8), (255, 0, 0)).save("red.png")
    of_run, of_artifact = (
        runner.predict(model, "red.png", top=2)[0] for model in (run, run.artifacts[0])
    )
    assert of_run.choices[0].label == of_artifact.choices[0].label
    assert of_run.choices[0].name in repr(of_run)
    assert runner.verify(run.artifacts[0]).passed
    with pytest.raises(ArtifactError, match=r"failed|differ"):
        runner.export(run, {"export.0.error": 1.0}, output="bad")
    [bad] = runner.export(run, {"export.0.error": 1.0}, output="bad", check=False)
    assert bad.verified is False


def test_a_recipe_and_a_model_are_measured(recipe, project):
    run = runner.train(recipe, {"train.epochs": 1})
    of_recipe = runner.bench(recipe, steps=1, warmup=1)
    assert of_recipe.images_per_s["train.fixed_batch"]["median"] > 0
    of_model = runner.bench(run, steps=2, warmup=1)
    assert of_model.images_per_s["mean"] > 0
    assert "images/s" in repr(of_model)


def test_several_models_are_evaluated_one_by_one(recipe, project):
    run = runner.train(recipe, {"checkpoint.keep": 3})
    folder = run.checkpoints[0].parent
    assert [item.path for item in runner.evaluate_all(folder)] == list(run.checkpoints)
    with pytest.raises(UsageError, match="holds several models; name one, or use evaluate_all"):
        runner.evaluate(folder)


def test_the_plan_is_explained_and_entries_are_listed(recipe, project):
    assert "steps per epoch" in runner.explain(recipe)
    assert "linear" in [item.name for item in runner.list_entries("models")]
    assert "quickstart" in [item.name for item in runner.list_entries("recipes")]


def test_the_interface_costs_nothing_until_it_is_used():
    code = (
        "import sys; before = set(sys.modules); import runner\n"
        "heavy = ('numpy', 'pydantic', 'yaml', 'typer', 'PIL', 'pluggy', 'torch', 'runner.api')\n"
        "print([name for name in heavy if name in sys.modules])\n"
        "runner.run\n"
        "print([name for name in ('torch', 'mindspore', 'onnx') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[]", "[]"]


@pytest.fixture
def two(recipe, project, monkeypatch):
    """Have the processes of several devices find the fake framework."""
    monkeypatch.setenv("PYTHONPATH", project.environment["PYTHONPATH"])
    return {"device.count": 2, "train.epochs": 1, "export": []}


def test_several_devices_work_from_python(recipe, two):
    told = []
    run = runner.run({"extends": "colours.yaml"}, two, listeners=lambda *event: told.append(event))
    assert run.result["world_size"] == 2
    assert run.finished
    assert run.history[0]["val.top1"] == run.metrics["val.top1"]
    assert events_of(told)[0] == "run.launched"
    [asked] = run.folder.parent.glob("*.launch/attempt_0/request.json")
    assert json.loads(asked.read_text())["name"] == "recipe"
    further = runner.resume(run, {"train.epochs": 2})
    assert [epoch["epoch"] for epoch in further.history] == [1, 2]
    assert further.result["world_size"] == 2


def test_several_devices_work_where_signals_cannot_be_heard(recipe, two):
    """As in a notebook, whose cells may be carried out by another thread than the main one."""
    with ThreadPoolExecutor(1) as other:
        run = other.submit(runner.train, recipe, two).result()
    assert run.result["world_size"] == 2


def test_a_script_needs_no_guard_for_several_devices(recipe, two, project):
    script = Path("script.py")
    script.write_text(f"import runner\nprint(runner.train('colours.yaml', {two!r}).finished)\n")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.stdout == "True\n", done.stderr


def test_an_error_of_several_devices_is_raised(recipe, two, project):
    changes = {**two, "optimizer.learning_rate": 1e300}
    with pytest.raises(NonFiniteError, match=r"^the loss is .* at step ") as error:
        runner.train(recipe, changes)
    assert f"error: {error.value}\n" in project.capture.readouterr().err
    printed = project.runner("train", recipe, *(f"--set={key}={changes[key]}" for key in changes))
    assert printed.code == 8
    assert printed.err.count("error: ") == 1


def test_a_framework_that_hands_out_no_models_says_so(recipe, project):
    run = runner.train(recipe, {"train.epochs": 1})
    with pytest.raises(runner.RunnerError, match=r"^fake does not hand out its models$"):
        runner.load_model(run)

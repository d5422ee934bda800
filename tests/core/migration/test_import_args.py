"""Command lines of made-up programs become recipes and commands."""

from __future__ import annotations

import importlib
import shlex
from pathlib import Path
from typing import Any

import pytest

from runner import recipe
from runner.errors import PluginError, UsageError
from runner.migration.command_line import (
    Option,
    environment_of,
    parse,
    split,
    split_text,
    starts,
    truth,
)
from runner.planning.loading import load

IMPORTERS = Path(__file__).parents[2] / "data" / "third_party" / "importers"


@pytest.fixture
def project(project, monkeypatch):
    monkeypatch.syspath_prepend(IMPORTERS)
    monkeypatch.setenv("RUNNER_PLUGINS", "fake,data,acme_import")
    return project


def resolved(name: str, *overrides: str) -> Any:
    return recipe.resolved(load(name, overrides, allow_unset=True).plan.recipe)


def test_only_what_differs_is_written(project):
    outcome = project.runner("import-args", "python paint.py --epochs 5 -b8 --fast")
    assert outcome.code == 0, outcome.err
    assert outcome.out.splitlines() == [
        "# What this command line does:",
        "#   python paint.py --epochs 5 -b8 --fast",
        "",
        "extends: acme_colours",
        "train:",
        "  epochs: 5",
        "",
        "# runner train acme_colours --set train.epochs=5",
        "# warning: --fast: had no effect there",
    ]


@pytest.mark.parametrize(
    "line",
    [
        "python paint.py",
        "python paint.py --batch-size=16 --rate 1e-3",
        "python paint.py --smoothing 0 --crop 4",
        "python paint.py --data '1e3'",
        "python paint.py --data '/my data/: [x] # y'",
        "python paint.py --data 'true'",
    ],
)
def test_the_file_and_the_command_do_the_same(project, line):
    file = project.path / "imported.yaml"
    printed = project.runner("import-args", line, "--json").json
    written = project.runner("import-args", line, "--output", str(file))
    assert written.code == 0, written.err
    assert written.out.splitlines()[-1] == "# runner train imported.yaml".replace(
        "imported.yaml", str(file)
    )
    words = shlex.split(printed["command"])
    assert words[:3] == ["runner", "train", "acme_colours"]
    assert words[3::2] == ["--set"] * len(words[4::2])
    assert resolved(str(file)) == resolved("acme_colours", *words[4::2])
    # what is printed is a recipe as well
    file.write_text(project.runner("import-args", line).out)
    assert resolved(str(file)) == resolved("acme_colours", *words[4::2])


def test_values_arrive(project):
    words = ["python", "paint.py", "--smoothing", "0", "--crop", "4", "--rate", "1e-3", "--data"]
    printed = project.runner("import-args", "--json", "--", *words, "a ${b}").json
    assert printed["importer"] == "acme_paint"
    assert printed["overrides"] == {
        "optimizer.learning_rate": 0.001,
        "loss.label_smoothing": 0.0,
        "loss.smooth_over": None,
        "transforms.train": [{"name": "random_crop", "size": 4, "padding": 1}],
        "model.weights": "a ${b}",
    }
    found = resolved("acme_colours", *shlex.split(printed["command"])[4::2])
    assert found["model"]["weights"] == "a ${b}"
    assert found["loss"]["label_smoothing"] == 0


def test_a_command_line_may_have_several_lines(project):
    text = "python paint.py \\\n    --epochs 5 \\\n    --data 'a b'\n"
    outcome = project.runner("import-args", text)
    assert outcome.code == 0, outcome.err
    file = project.path / "imported.yaml"
    file.write_text(outcome.out)
    found = resolved(str(file))
    assert (found["train"]["epochs"], found["model"]["weights"]) == (5, "a b")


def test_words_behind_two_dashes_are_the_command_line(project):
    whole = project.runner("import-args", "python paint.py --epochs 5", "--json").json
    words = project.runner(
        "import-args", "--json", "--", "python", "paint.py", "--epochs", "5"
    ).json
    assert whole == words


def test_variables_arguments_and_redirections(project):
    line = "ACME='a b' nohup python -u src/paint.py --evaluate w.npz > log.txt 2>&1 &"
    printed = project.runner("import-args", line, "--json").json
    assert printed["command"] == "ACME='a b' runner eval w.npz --recipe acme_colours"
    assert printed["notes"] == ["> log.txt 2>&1 &: is for the shell, and not taken over"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("python paint.py --epoch 5 --speed 3", "paint.py: unknown: --speed 3; understood: --ba"),
        ("python paint.py --epochs five", "argument --epochs: invalid int value: 'five'; underst"),
        ("python other.py", "no script that is understood; there are importers for: acme_paint (A"),
        ("ls -l", "no script that is understood"),
        (
            "bash both.sh",
            "2 programs have a script of this name; name its folder as well, or choose",
        ),
        ("bash both.sh", "--importer acme_other: runner run acme_colours"),
        ("python paint.py 'a", "the command line cannot be split into words: No closing quotation"),
        ("python paint.py --data $(pwd)", "takes a command's output; write its value instead"),
        ("python paint.py --data ${NO_SUCH}/x", "the variable NO_SUCH has no value: put NO_SUCH="),
        ("python broken.py", "--set train.epoch=1: unknown key 'epoch' in train; did you mean 'ep"),
    ],
)
def test_what_is_not_understood_is_an_error(project, line, message):
    outcome = project.runner("import-args", line)
    assert outcome.code == 2
    assert message in outcome.err


def test_an_importer_can_be_chosen(project):
    outcome = project.runner("import-args", "bash both.sh", "--importer", "acme_other")
    assert outcome.code == 0
    assert "# runner run acme_colours" in outcome.out
    unknown = project.runner("import-args", "bash both.sh", "--importer", "acme_othr")
    assert unknown.code == 2
    assert "did you mean 'acme_other'?" in unknown.err


def test_an_importer_that_fails_is_named(project, monkeypatch):
    plugin = importlib.import_module("acme_import.plugin")

    def broken(_words):
        raise KeyError("paint")

    monkeypatch.setattr(plugin, "split", broken)
    outcome = project.runner("import-args", "python paint.py")
    assert outcome.code == PluginError.exit_code
    assert "importer 'acme_paint' of plugin 'acme_import' (acme-import 1.0.0) failed" in outcome.err


def test_a_file_that_cannot_be_written_is_an_error(project):
    outcome = project.runner("import-args", "python paint.py", "--output", "none/x.yaml")
    assert outcome.code == 9


def test_lists_show_the_importers(project):
    listed = project.runner("list", "importers", "--json").json
    assert {row["name"] for row in listed} == {"acme_paint", "acme_other"}


# the words of a command line


def test_a_command_line_is_taken_apart():
    line = split(shlex.split("A=1 env B='x y' mpirun -n 8 python -u src/t.py -a b=c > log 2>&1"))
    assert line is not None
    assert line.environment == {"A": "1", "B": "x y"}
    assert line.launcher == ("mpirun", "-n", "8", "python", "-u")
    assert (line.script, line.name, line.arguments) == ("src/t.py", "t.py", ("-a", "b=c"))
    assert line.rest == (">", "log", "2>&1")
    assert split(["python", "-m", "runner"]) is None
    assert starts(["./t.sh"], ("t.sh",))
    assert not starts(["./t.sh"], lambda name: name.endswith(".py"))


def test_variables_are_filled_in():
    text = "A=/a B=$A/b python ${S}/t.py --data $B/x '--name=y'"
    words = split_text(text, {"S": "src", "A": "no"})
    assert words == ["A=/a", "B=/a/b", "python", "src/t.py", "--data", "/a/b/x", "--name=y"]


def test_variables_in_front_are_kept_used_or_noted():
    line = split(["A=1", "B=2", "C=3", "t.py"])
    assert line is not None
    assert environment_of(line, kept=("A",), used=("B",)) == (
        {"A": "1"},
        ("C: is not taken over",),
    )


def test_options_are_read_as_argparse_does():
    options = (
        Option(names=("-j", "--workers"), default=4, type=int),
        Option(names=("--learning-rate", "--lr"), default=0.1, type=float),
        Option(names=("--device",), default="cpu", choices=("cpu", "npu")),
        Option(names=("--amp",), default=False, type=None, note="is always on"),
    )
    given = parse("t.py", options, ["-j8", "--learn", "0.2", "--amp", "--device=npu"])
    assert given.values == {"workers": 8, "learning_rate": 0.2, "device": "npu", "amp": True}
    assert given.notes == ("--amp: is always on",)
    left_out = parse("t.py", options, [])
    assert left_out.values == {"workers": 4, "learning_rate": 0.1, "device": "cpu", "amp": False}
    assert not left_out.written
    assert parse("t.py", options, ["-x", "1"], ignores_unknown=True).unknown == ("-x", "1")
    with pytest.raises(UsageError, match="understood: --amp, --device, --learning-rate, --work"):
        parse("t.py", options, ["--device", "gpu"])
    with pytest.raises(UsageError, match="unknown: --learn 1"):
        parse("t.sh", options, ["--learn", "1"], abbreviations=False)


@pytest.mark.parametrize(("text", "value"), [("True", True), ("0", False), ("false", False)])
def test_truth(text, value):
    assert truth(text) is value
    with pytest.raises(ValueError, match="maybe"):
        truth("maybe")

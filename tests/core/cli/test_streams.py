"""What is printed when nobody, or somebody else, is there to read it; and what others print."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

FAKE_DISTRIBUTION = Path(__file__).parents[2] / "data" / "third_party" / "fake_framework"
FULL = "{command} >/dev/full 2>/dev/full"
CLOSED = "{command} <&- >&- 2>&-"
HOSTILE = "x\x1b]0;title\x07\x9b31m\u202e\nerror: forged"
ONE_EPOCH = "--set=train.epochs=1"

PLUGIN = """\
import os
from runner import LoggerEntry, hookimpl
from runner.contracts import RunLogger

def speak(what):
    print("plugin says", what)
    os.system("echo a program says " + what)  # as a C library would: to descriptor 1

speak("import")

class Talks(RunLogger):
    def __init__(self, run, options):
        speak("started")

    def event(self, name, fields):
        if name == "run.finished":
            speak("finished")

@hookimpl
def runner_register_loggers():
    yield LoggerEntry(name="talks", summary="Prints", always=True, open=Talks)
"""


def shell(project: Any, form: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command line in a shell, with streams as ``form`` says."""
    command = '"$PYTHON" -m runner "$@"'
    process = subprocess.Popen(
        ["sh", "-c", form.format(command=command), "runner", *map(str, arguments)],
        env=environment(project),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    out, err = process.communicate(timeout=200)
    return subprocess.CompletedProcess(form, process.returncode, out, err)


def environment(project: Any, **more: str) -> dict[str, str]:
    paths = f"{FAKE_DISTRIBUTION}:{project.path / 'site'}"
    return {**os.environ, "PYTHONPATH": paths, "PYTHON": sys.executable, **more}


@pytest.mark.parametrize("form", [FULL, CLOSED])
def test_a_run_does_not_depend_on_anybody_who_reads(project, form):
    done = shell(project, form, "run", project.write_recipe(), ONE_EPOCH)
    assert done.returncode == 0
    result = json.loads((project.run_folder() / "result.json").read_text())
    assert result["epochs"] == 1
    assert project.events()[-1]["event"] == "run.finished"


def test_several_processes_do_not_depend_on_anybody_who_reads(project):
    done = shell(project, CLOSED, "run", project.write_recipe(), ONE_EPOCH, "--devices", "2")
    assert done.returncode == 0
    assert json.loads((project.run_folder() / "result.json").read_text())["world_size"] == 2


def test_a_terminal_that_hangs_up_ends_no_run_that_ignores_it(project):
    master, slave = pty.openpty()
    file = project.write_recipe("checkpoint: {every_steps: 4}\n")
    slow = "--set=framework.seconds_per_step=0.05"
    process = subprocess.Popen(
        [
            *("sh", "-c", "trap '' HUP; exec \"$@\"", "sh", sys.executable),
            *("-m", "runner", "run", str(file), ONE_EPOCH, slow),
        ],
        env=environment(project),
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    project.wait_for(project.checkpoints)
    os.close(master)
    assert process.wait(timeout=200) == 0
    assert (project.run_folder() / "result.json").is_file()


@pytest.mark.parametrize("redirection", [">/dev/full", ">&-", "| true"])
@pytest.mark.parametrize("arguments", [["schema"], ["list", "models"], ["list-plugins", "--json"]])
def test_a_document_that_cannot_be_written_is_an_error(project, arguments, redirection):
    form = f"trap '' PIPE; {{{{ {{command}}; echo $? >&2; }}}} {redirection}"
    done = shell(project, form, *arguments)
    if redirection == "| true" and "9" not in done.stderr.split():
        assert done.stderr == "0\n"  # the pipe took it before its reader had left
        return
    assert "error: cannot write to standard output: " in done.stderr
    assert done.stderr.splitlines()[-1] == "9"


def test_json_of_a_run_that_cannot_be_written_is_an_error_and_the_result_is_kept(project):
    form = "{command} >/dev/full"
    done = shell(project, form, "run", project.write_recipe(), ONE_EPOCH, "--json")
    assert done.returncode == 9
    assert (project.run_folder() / "result.json").is_file()


def test_nothing_but_json_is_on_standard_output(project):
    site = project.path / "site" / "talkative-1.0.dist-info"
    site.mkdir(parents=True)
    (site / "METADATA").write_text("Metadata-Version: 2.1\nName: talkative\nVersion: 1.0\n")
    (site / "entry_points.txt").write_text("[runner.plugins]\ntalkative = talkative\n")
    (site.parent / "talkative.py").write_text(PLUGIN)
    file = project.write_recipe()
    form = "RUNNER_PLUGINS=fake,data,talkative {command}"
    done = shell(project, form, "run", file, ONE_EPOCH, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["epochs"] == 1
    for what in ("import", "started", "finished"):
        assert f"plugin says {what}\n" in done.stderr
        assert f"a program says {what}\n" in done.stderr
    done = shell(project, form, "list-plugins", "--json")
    assert {"talkative", "fake"} <= {plugin["name"] for plugin in json.loads(done.stdout)}


def make_folders(root: Path, names: list[str]) -> None:
    for split in ("train", "val"):
        for label, name in enumerate(names):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(4):
                pixels = np.full((8, 8, 3), 60 * label + number, np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}{name}.png")


def write_folders_recipe(project: Any) -> Path:
    file: Path = project.write_recipe()
    text = file.read_text().replace("fake_colours", "{name: class_folders, root: data}")
    file.write_text(text.replace("epochs: 3", "epochs: 1"))
    return file


def is_safe(text: str) -> bool:
    """Say whether nothing in a text steers a terminal or looks like an error of ours."""
    lines = text.split("\n")
    return all(line.isprintable() and not line.startswith("error: forged") for line in lines)


def test_names_of_others_do_not_steer_the_terminal_and_files_keep_them(project):
    names = ["=HYPERLINK(1)", HOSTILE]
    make_folders(project.path / "data", names)
    file = write_folders_recipe(project)
    done = project.runner("run", file)
    assert done.code == 0, done.err
    assert is_safe(done.out + done.err)
    folder, val = project.run_folder(), project.path / "data" / "val"
    (val / HOSTILE / f"0{HOSTILE}.png").write_bytes(b"broken")
    table = project.runner("predict", folder, val)
    assert table.code == 5
    assert is_safe(table.out + table.err)
    exact = json.loads(project.runner("predict", folder, val, "--format", "json").out)
    assert {item["image"].split("/")[-2] for item in exact} == set(names)
    assert {choice["name"] for item in exact for choice in item["choices"]} <= set(names)
    sheet = project.runner("predict", folder, val, "--format", "csv")
    assert "\x1b" not in sheet.out
    assert "'=HYPERLINK(1)" in sheet.out
    skipping = ["--set=loader.damaged_images=skip", "--set=loader.max_damaged=1"]
    evaluated = project.runner("eval", folder, *skipping)
    assert evaluated.code == 0
    assert "skipped " in evaluated.err
    assert is_safe(evaluated.out + evaluated.err)


def test_names_that_are_no_text_are_kept_in_files_and_replaced_on_the_terminal(project):
    names = [os.fsdecode("狗".encode("gbk")), os.fsdecode("été".encode("latin-1"))]
    root = project.path / os.fsdecode("数据".encode("gbk"))
    make_folders(root, names)
    done = project.runner("run", write_folders_recipe(project), f"--set=dataset.root={root}")
    assert done.code == 0, done.err
    folder, val = project.run_folder(), root / "val"
    assert project.runner("eval", folder).code == 0
    table = project.runner("predict", folder, val)
    assert table.code == 0, table.err
    assert "\\xb9\\xb7" in table.out
    exact = json.loads(project.runner("predict", folder, val, "--format", "json").out)
    assert {item["image"].split("/")[-2] for item in exact} == set(names)
    sheet = project.path / "predicted.csv"
    written = project.runner("predict", folder, val, "--format", "csv", "--output", sheet)
    assert written.code == 0, written.err
    assert os.fsencode(val / names[0]) in sheet.read_bytes()


@pytest.mark.parametrize(
    "variables",
    [
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"LC_ALL": "C.UTF-8", "PYTHONIOENCODING": "ascii"},
    ],
    ids=["no UTF-8 mode", "ascii output"],
)
def test_a_run_does_not_depend_on_the_locale(project, variables):
    make_folders(project.path / "data", ["été", "猫"])
    file = write_folders_recipe(project)
    done = subprocess.run(
        [sys.executable, "-m", "runner", "run", file, "--set=summary=Cats: 猫"],
        env=environment(project, **variables),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    folder, val = project.run_folder(), project.path / "data" / "val" / "猫"
    assert project.runner("eval", folder).code == 0  # the classes are those of another locale
    shown = subprocess.run(
        [sys.executable, "-m", "runner", "predict", folder, val],
        env=environment(project, **variables),
        capture_output=True,
        check=False,
    )
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.isascii()
    assert b"\\u732b" in shown.stdout

"""A run writes into its own folder only, whatever somebody has put there."""

from __future__ import annotations

import copy
import errno
import json
import math
import os
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from runner.artifacts.artifact import INFO
from runner.artifacts.predict import find_images
from runner.errors import CheckpointError, UsageError
from runner.storage import checkpoint, records, rundir

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def interrupted(project):
    """A run with checkpoints and an artifact that lacks its result."""
    assert project.run(extra="export: [{name: fake_npz, verify_images: 2}]\n").code == 0
    folder = project.run_folder()
    (folder / "result.json").unlink()
    return folder


@pytest.mark.parametrize("name", ["events.jsonl", "checkpoints", "exports", "other.csv"])
def test_a_link_in_the_run_folder_is_refused(project, interrupted, name):
    victim = project.path / "victim"
    if (interrupted / name).exists():
        (interrupted / name).rename(victim)
    else:
        victim.write_text("mine")
    before = sorted(victim.rglob("*")) if victim.is_dir() else victim.read_bytes()
    (interrupted / name).symlink_to(victim)
    outcome = project.runner("resume", interrupted)
    assert outcome.code == 9
    assert f"passes the link {interrupted / name}" in outcome.err.replace("\n", " ")
    assert before == (sorted(victim.rglob("*")) if victim.is_dir() else victim.read_bytes())


WRONG: dict[str, Callable[[dict[str, Any]], object]] = {
    "reference": lambda result: result.update(reference="x"),
    "reference.0.value": lambda result: result["reference"][0].update(value="x"),
    "exports": lambda result: result.update(exports=2**63 - 1),
    "exports.0.metrics": lambda result: result["exports"][0].update(metrics="NaN"),
    "exports.0.metrics.val.top1": lambda result: result["exports"][0]["metrics"].update(
        {"val.top1": "x"}
    ),
    "'val.loss' is missing": lambda result: result["metrics"].pop("val.loss"),
    "exports.0.verification.max_difference": lambda result: result["exports"][0][
        "verification"
    ].update(max_difference="x"),
    "'verification' is missing": lambda result: result["exports"][0].pop("verification"),
    "'reason' is missing": lambda result: result["exports"][0].update(verified=None),
    "'reached_target' is missing": lambda result: result.pop("reached_target"),
    "'best_epoch' is missing": lambda result: result.pop("best_epoch"),
    "epochs": lambda result: result.update(epochs="3"),
    "folder_lost.0.missing": lambda result: result.update(folder_lost=[{}]),
}


def test_a_result_that_the_summary_cannot_be_written_from_is_damaged(project):
    published = "reference: [{metric: val.top1, value: 0.9, source: a paper}]\n"
    exports = "export: [{name: fake_npz, verify_images: 2}]\n"
    assert project.run(extra=exports + published).code == 0
    folder = project.run_folder()
    good = rundir.RunDir(folder).read_result()
    assert good is not None
    needed = "recipe folder model framework device precision metrics exports reference seconds"
    changes = list(WRONG.items())
    changes += [(name, partial(_without, name)) for name in needed.split()]
    for found, change in changes:
        result = copy.deepcopy(good)
        change(result)
        anything = replace(rundir.RESULT, schema=dict)
        text = records.as_text(anything, records.seal(anything, result))
        (folder / "result.json").write_text(text)
        outcome = project.runner("resume", folder)
        said = outcome.err.replace("\n", " ")
        assert outcome.code == 6, (found, said)
        assert "result.json is damaged: " in said
        assert found in said
        assert "remove it, and `runner resume` writes it again" in said


def _without(name: str, result: dict[str, Any]) -> None:
    del result[name]


def test_a_finished_run_that_was_copied_says_where_it_is(project, interrupted):
    assert project.runner("resume", interrupted).code == 0
    copied = project.path / "elsewhere"
    shutil.copytree(interrupted, copied)
    result = project.runner("resume", copied, "--json").json
    assert result["folder"] == str(copied)
    assert result["exports"][0]["folder"] == str(copied / "exports" / "fake_npz")
    shown = project.runner("resume", copied).out
    assert f"{copied}/result.json" in shown
    assert str(interrupted) not in shown


def test_an_export_follows_no_link(project, interrupted):
    victim = project.path / "victim"
    (interrupted / "exports").rename(victim)
    (interrupted / "exports").symlink_to(victim)
    before = (victim / "fake_npz" / INFO).stat().st_ino
    assert project.runner("export", interrupted).code == 9
    assert (victim / "fake_npz" / INFO).stat().st_ino == before


def test_a_pipe_in_the_run_folder_is_not_waited_for(project, interrupted):
    (interrupted / "events.jsonl").unlink()
    os.mkfifo(interrupted / "events.jsonl")
    outcome = project.runner("resume", interrupted)
    assert outcome.code == 9
    assert "'events.jsonl' is a named pipe" in outcome.err


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
@pytest.mark.parametrize("command", ["resume", "eval", "export"])
def test_the_recipe_of_a_checkpoint_is_checked_before_it_is_read(
    project, interrupted, command, make
):
    saved = checkpoint.latest(interrupted / "checkpoints")
    (saved / checkpoint.RECIPE).unlink()
    make(saved / checkpoint.RECIPE)
    outcome = project.runner(command, interrupted if command == "resume" else saved)
    assert outcome.code == 6
    assert "'recipe.yaml' is a named pipe" in outcome.err or "passes the link" in outcome.err


@pytest.mark.parametrize("name", ["recipe.yaml", "manifest.json"])
def test_a_run_whose_recipe_or_manifest_is_a_pipe_is_refused(project, interrupted, name):
    (interrupted / name).unlink()
    os.mkfifo(interrupted / name)
    outcome = project.runner("resume", interrupted)
    assert outcome.code == 2
    assert f"{name} is a named pipe; expected a regular file" in outcome.err.replace("\n", " ")


def test_reading_leaves_a_run_as_it_is_and_continuing_mends_it(project, interrupted, monkeypatch):
    folder = interrupted / "checkpoints"
    (folder / checkpoint.BEST).unlink()
    latest = checkpoint.latest(folder)
    aside = latest.rename(folder / f".{latest.name}.old")
    before = sorted(interrupted.rglob("*"))
    outcome = project.runner("eval", interrupted, "--json")
    assert outcome.code == 0, outcome.err
    assert [item["path"] for item in outcome.json] == [str(aside)]
    assert sorted(interrupted.rglob("*")) == before
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", _read_only)
        outcome = project.runner("resume", interrupted)
    assert outcome.code == 9
    assert f"cannot rename {aside}" in outcome.err
    assert "Read-only file system" in outcome.err
    assert project.runner("resume", interrupted).code == 0
    assert latest.is_dir()


def test_a_result_that_cannot_be_removed_is_one_error(project, interrupted, monkeypatch):
    monkeypatch.setattr(Path, "unlink", _read_only)
    outcome = project.runner("resume", interrupted)
    assert outcome.code == 9
    assert "result.json: Read-only file system" in outcome.err.replace("\n", " ")


def _read_only(path, *_, **__):
    raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))


def test_retention_removes_nothing_through_a_link(tmp_path):
    from tests.core.storage.test_checkpoint import save

    elsewhere = [save(tmp_path / "elsewhere", step) for step in (1, 2)]
    own = tmp_path / "own"
    kept = [save(own, step) for step in (3, 4)]
    (own / "step_00000001").symlink_to(elsewhere[0])
    assert checkpoint.remove_old(own, keep=1, keep_best=True) == [kept[0]]
    assert checkpoint.load(elsewhere[0]).info.position.step == 1
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for remove in (
        lambda: checkpoint.remove_old(tmp_path / "link", keep=1, keep_best=False),
        lambda: checkpoint.remove_later(tmp_path / "link", 0),
        lambda: save(tmp_path / "link", 5),
    ):
        with pytest.raises(Exception, match="is a link to"):
            remove()
    assert checkpoint.listing(tmp_path / "elsewhere") == elsewhere


@pytest.mark.parametrize("name", ["../../victim", "/etc", "a/b", "..", "link"])
def test_the_best_is_a_checkpoint_in_its_folder(tmp_path, name):
    (tmp_path / "victim").mkdir()
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "link").symlink_to(tmp_path / "victim")
    records.write(
        folder / checkpoint.BEST, checkpoint.BEST_KIND, {"checkpoint": name, "val.top1": 0.5}
    )
    with pytest.raises(CheckpointError, match=r"best\.json cannot be used"):
        checkpoint.best(folder)


@pytest.mark.parametrize("name", ["...yaml", "..yaml", "-x.yaml"])
def test_the_name_of_a_recipe_is_that_of_a_folder(project, name):
    file = project.write_recipe()
    file.rename(project.path / name)
    outcome = project.runner("run", "--", f"./{name}")
    assert outcome.code == 2
    assert "cannot name a file or folder" in outcome.err
    assert sorted(item.name for item in project.path.iterdir()) == [name]


def test_an_image_that_is_a_pipe_is_reported_and_not_waited_for(project, interrupted):
    images = project.path / "images"
    images.mkdir()
    os.mkfifo(images / "a.png")
    (images / "b.png").symlink_to("/dev/zero")
    outcome = project.runner("predict", interrupted, images)
    assert outcome.code == 5
    assert "a named pipe, expected a regular file" in outcome.out
    assert "a device, expected a regular file" in outcome.out


@pytest.mark.parametrize(("path", "kind"), [("/dev/zero", "a device"), ("pipe", "a named pipe")])
def test_what_cannot_be_an_image_or_a_recipe_is_named(project, path, kind):
    os.mkfifo(project.path / "pipe")
    with pytest.raises(UsageError, match=f"{path} is {kind}; expected an image file or a folder"):
        find_images([Path(path)])
    outcome = project.runner("run", path)
    assert outcome.code == 2
    assert f"'{path}' is {kind}; expected a recipe" in outcome.err


def test_a_link_that_leads_out_of_the_run_is_named(project, interrupted):
    saved = checkpoint.latest(interrupted / "checkpoints")
    shutil.copytree(saved, project.path / "copy")
    link = saved.parent / "link"
    link.symlink_to(project.path / "copy")
    said = _refused(project, 2, "resume", link)
    assert f"{link} leads out of the run {interrupted}, to {project.path / 'copy'}" in said
    outside = project.path / "outside"
    outside.symlink_to(project.path / "copy")
    said = _refused(project, 2, "resume", outside)
    assert f"{outside}, a link to {project.path / 'copy'}, is not a run" in said


def test_a_link_in_a_run_to_a_checkpoint_of_another_is_refused(project, interrupted):
    other = project.path / "other"
    shutil.copytree(interrupted, other)
    before = _content(other)
    saved = checkpoint.latest(other / "checkpoints")
    (interrupted / "checkpoints" / "link").symlink_to(saved)
    for command in ("resume", "export"):
        said = _refused(project, 2, command, interrupted / "checkpoints" / "link")
        assert f"leads out of the run {interrupted}, to {saved}" in said
    (interrupted / "checkpoints" / "link").rename(interrupted / "checkpoints" / "step_00000099")
    (interrupted / "checkpoints" / checkpoint.BEST).unlink()
    earlier = checkpoint.listing(interrupted / "checkpoints")[0]
    for command, path in (
        ("resume", interrupted),
        ("resume", earlier),
        ("eval", interrupted),
        ("export", interrupted),
    ):
        said = _refused(project, 6, command, path)
        assert f"step_00000099, is a link to {saved}" in said
    (project.path / "names").write_text("a\nb\nc\n")
    said = _refused(project, 9, "relabel", interrupted, project.path / "names")
    assert f"passes the link {interrupted / 'checkpoints' / 'step_00000099'}" in said
    assert before == _content(other)


def _refused(project, code, *arguments):
    outcome = project.runner(*arguments)
    said = outcome.err.replace("\n", " ")
    assert outcome.code == code, (arguments, said)
    return said


def _content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_links_to_a_run_and_within_it_are_followed(project, interrupted):
    (project.path / "latest").symlink_to(interrupted)
    link = interrupted / "checkpoints" / "newest"
    link.symlink_to(checkpoint.latest(interrupted / "checkpoints").name)
    outcome = project.runner("resume", project.path / "latest" / "checkpoints" / "newest", "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["folder"] == str(interrupted)


def test_an_older_run_continues_and_is_said_to_be_unchecked(project, interrupted):
    saved = [path / checkpoint.INFO for path in checkpoint.listing(interrupted / "checkpoints")]
    for record in (interrupted / "manifest.json", *saved):
        content = json.loads(record.read_text())
        del content["checksum"]
        if record.name == "manifest.json":
            del content["format"]
        record.write_text(json.dumps(content))
    image = next((interrupted / "exports" / "fake_npz" / "golden").iterdir())
    for command in (("resume",), ("eval",), ("predict", image)):
        outcome = project.runner(command[0], interrupted, *command[1:])
        assert outcome.code == 0, outcome.err
        assert outcome.err.count("written before records had a checksum") == 1, command
    assert rundir.RunDir(interrupted).read_result() is not None


def test_a_result_that_is_made_again_counts_in_whole_numbers(project, interrupted):
    result = project.runner("resume", interrupted, "--json").json
    assert isinstance(result["metrics"]["val.count"], int)


def test_what_lies_next_to_a_wrong_path_is_named(project, interrupted):
    runs, artifact = interrupted.parent, interrupted / "exports" / "fake_npz"
    error = project.runner("resume", runs).err
    assert f"{runs} is a folder of runs; name one of them, the latest is {interrupted}" in error
    for path in (interrupted, artifact.parent, artifact / "artifact.json"):
        error = project.runner("verify", path).err
        assert f"is not a complete artifact: {path / 'artifact.json'}: " in error
        assert f"expected {artifact}\n" in error


def test_classes_are_renamed_on_purpose(project, interrupted):
    names = project.path / "names.txt"
    names.write_text("Rot\nGrün\nBlau\n")
    outcome = project.runner("relabel", interrupted, names)
    assert outcome.code == 0, outcome.err
    saved = checkpoint.load(checkpoint.latest(interrupted / "checkpoints"))
    assert saved.info.classes == ("Rot", "Grün", "Blau")
    artifact = interrupted / "exports" / "fake_npz"
    assert project.runner("verify", artifact).code == 0
    outcome = project.runner("eval", artifact)
    assert outcome.code == 6
    assert f"if they are the same under other names: runner relabel {artifact} N" in outcome.err
    image = next((artifact / "golden").iterdir())
    [found] = project.runner("predict", artifact, image, "--format", "json").json
    assert found["choices"][0]["name"] in {"Rot", "Grün", "Blau"}
    names.write_text("one\ntwo\n")
    outcome = project.runner("relabel", artifact, names)
    assert outcome.code == 5
    assert "names.txt has 2 names, and" in outcome.err
    assert "3 classes" in outcome.err
    names.write_text("a\nb\x1b[31m\nc\n")
    assert "names.txt:2: the name" in project.runner("relabel", artifact, names).err
    names.write_text("a\na\nb\n")
    assert "names.txt:2: has 'a' more than once" in project.runner("relabel", artifact, names).err
    error = project.runner("relabel", artifact, "none.txt").err
    assert "none.txt does not exist\n" in error
    names.write_text("a\nb\nc\n")
    assert "is neither a checkpoint, nor" in project.runner("relabel", project.path, names).err


def test_a_result_that_is_not_a_number_is_printed(project, monkeypatch):
    from runner.session.metrics import Evaluation

    found = Evaluation.as_metrics
    monkeypatch.setattr(Evaluation, "as_metrics", lambda own: {**found(own), "val.loss": math.nan})
    outcome = project.runner("run", project.write_recipe())
    assert outcome.code == 0, outcome.err
    assert "loss nan" in outcome.out
    result = json.loads((project.run_folder() / "result.json").read_text())
    assert result["metrics"]["val.loss"] == "NaN"
    assert json.loads(project.runner("resume", project.run_folder(), "--json").out) == result

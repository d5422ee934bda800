"""Checkpoints are complete, checked, and comparable."""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from runner.contracts import EngineState
from runner.errors import CheckpointError, NonFiniteError, StorageError
from runner.storage import checkpoint, records
from runner.storage.checkpoint import CheckpointInfo, Position


def save(folder, step, weights=None, kind="raw"):
    info = CheckpointInfo(
        position=Position(step=step, epoch=1, step_in_epoch=2, loss_sum=0.1 + 0.2, loss_count=2),
        classes=("cat", "dog"),
        weights_kind=kind,
        metrics={"val.top1": 0.5},
        state_values={"scale": 2.0},
    )
    state = EngineState(
        tensors={"momentum": np.ones(2, np.float32), "ema/w": np.full(3, 7, np.float32)},
        values=info.state_values,
    )
    return checkpoint.save(
        folder,
        info,
        weights={"w": np.arange(3, dtype=np.float32)} if weights is None else weights,
        state=state,
        recipe_text="summary: x\n",
    )


def test_everything_comes_back(tmp_path):
    loaded = checkpoint.load(save(tmp_path, 3))
    assert loaded.info.position == Position(
        step=3, epoch=1, step_in_epoch=2, loss_sum=0.1 + 0.2, loss_count=2
    )
    assert loaded.info.classes == ("cat", "dog")
    assert loaded.state.values == {"scale": 2.0}
    np.testing.assert_array_equal(loaded.weights["w"], [0, 1, 2])
    np.testing.assert_array_equal(loaded.state.tensors["momentum"], [1, 1])


def test_evaluation_uses_the_average_where_there_is_one(tmp_path):
    assert checkpoint.load(save(tmp_path, 1)).evaluation_weights["w"].tolist() == [0, 1, 2]
    averaged = checkpoint.load(save(tmp_path, 2, kind="ema"))
    assert averaged.evaluation_weights["w"].tolist() == [7, 7, 7]


@pytest.mark.parametrize("file", [checkpoint.WEIGHTS, checkpoint.STATE, checkpoint.RECIPE])
def test_damage_is_found_and_the_way_out_named(tmp_path, file):
    good, bad = save(tmp_path, 1), save(tmp_path, 2)
    data = bytearray((bad / file).read_bytes())
    data[-1] ^= 1
    (bad / file).write_bytes(data)
    with pytest.raises(CheckpointError, match=f"SHA-256 differs.*runner resume {good}"):
        checkpoint.load(bad)
    (bad / file).write_bytes(data[:-4])
    with pytest.raises(CheckpointError, match=f"{file} is damaged: it has .* bytes, expected"):
        checkpoint.load(bad)
    (bad / file).unlink()
    with pytest.raises(CheckpointError, match=f"{file} is missing"):
        checkpoint.load(bad)


def test_a_damaged_record_is_named(tmp_path):
    path = save(tmp_path, 1)
    (path / checkpoint.INFO).write_text('{"format": 1,')
    with pytest.raises(CheckpointError, match=r"checkpoint\.json is damaged"):
        checkpoint.load(path)


def test_a_record_that_leaves_out_a_file_is_damaged(tmp_path):
    path = save(tmp_path, 1)
    listed = records.read(path / checkpoint.INFO, checkpoint.INFO_KIND).content["files"]
    del listed[checkpoint.WEIGHTS]
    records.change(path / checkpoint.INFO, checkpoint.INFO_KIND, files=listed)
    with pytest.raises(CheckpointError, match=r"checkpoint\.json is damaged: it lists"):
        checkpoint.load(path)


def test_a_checkpoint_moved_aside_by_a_killed_process_counts_and_is_put_back(tmp_path):
    earlier, path = save(tmp_path, 1), save(tmp_path, 2)
    checkpoint.mark_best(tmp_path, path, 0.5)
    aside = path.rename(tmp_path / ".step_00000002.old")
    assert checkpoint.listing(tmp_path) == [earlier, aside]
    assert checkpoint.of_run(tmp_path) == aside
    assert checkpoint.load(aside).info.position.step == 2
    assert aside.is_dir(), "reading has changed the folder"
    checkpoint.put_back(tmp_path)
    assert checkpoint.listing(tmp_path) == [earlier, path]
    save(tmp_path, 2).rename(aside)  # left by a process that had put another in its place
    save(tmp_path, 2)
    assert checkpoint.listing(tmp_path) == [earlier, path]


def test_a_folder_left_aside_is_not_in_the_way_of_saving(tmp_path):
    aside = tmp_path / ".step_00000002.old"
    shutil.copytree(save(tmp_path, 2), aside)  # killed before it had removed that
    path = save(tmp_path, 2)
    assert checkpoint.load(path).info.position.step == 2
    assert list(tmp_path.iterdir()) == [path]
    shutil.copytree(path, aside)
    (path / checkpoint.INFO).unlink()  # and another one while it removed this
    assert checkpoint.listing(tmp_path) == [aside]
    checkpoint.put_back(tmp_path)
    assert checkpoint.listing(tmp_path) == [path]
    (tmp_path / ".step_00000002.tmp").symlink_to(tmp_path)
    aside.symlink_to("nowhere")
    saved = save(tmp_path, 2)
    assert list(tmp_path.iterdir()) == [saved]


def test_a_checkpoint_that_cannot_be_replaced_stays(tmp_path, monkeypatch):
    path = save(tmp_path, 2)
    rename = Path.rename

    def refuse(self, target):
        if self.suffix == ".tmp":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(StorageError, match="cannot write the checkpoint"):
        save(tmp_path, 2)
    assert list(tmp_path.iterdir()) == [path]
    assert checkpoint.load(path).info.position.step == 2


def test_advice_does_not_name_a_checkpoint_that_was_moved_aside(tmp_path):
    earlier, path, aside = (save(tmp_path, step) for step in (1, 2, 3))
    aside.rename(tmp_path / ".step_00000003.old")
    (path / checkpoint.INFO).write_text("{")
    with pytest.raises(CheckpointError, match=f"runner resume {earlier}$"):
        checkpoint.read_info(path)


@pytest.mark.parametrize("top1", [1e30, float(2**63), -0.1, 2**63])
def test_an_accuracy_is_a_share(tmp_path, top1):
    path = save(tmp_path, 1)
    content = records.read(path / checkpoint.INFO, checkpoint.INFO_KIND).content
    position = {**content["position"], "best_top1": top1}
    seal_as(path / checkpoint.INFO, {**content, "position": position})
    with pytest.raises(CheckpointError, match=r"best_top1.*should be (less|greater) than"):
        checkpoint.load(path)
    seal_as(tmp_path / checkpoint.BEST, {"checkpoint": path.name, "val.top1": top1})
    with pytest.raises(CheckpointError, match=r"val\.top1.*should be (less|greater) than"):
        checkpoint.best(tmp_path)


def seal_as(path, content):
    """Write a record as somebody would who has computed its checksum anew."""
    anything = replace(checkpoint.INFO_KIND, schema=dict)
    path.write_text(records.as_text(anything, records.seal(anything, content)))


def test_a_later_format_is_refused(tmp_path):
    path = save(tmp_path, 1)
    text = (path / checkpoint.INFO).read_text()
    (path / checkpoint.INFO).write_text(text.replace('"format": 1', '"format": 99'))
    with pytest.raises(CheckpointError, match="format 99; this version of runner reads format 1"):
        checkpoint.load(path)


def test_what_is_no_checkpoint_is_said(tmp_path):
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        checkpoint.load(tmp_path)


def test_weights_that_are_not_finite_are_never_written(tmp_path):
    with pytest.raises(NonFiniteError, match="weight 'w' holds NaN or infinity"):
        save(tmp_path, 1, weights={"w": np.array([1, np.nan], np.float32)})
    assert checkpoint.listing(tmp_path) == []


def test_a_step_can_be_saved_twice(tmp_path):
    save(tmp_path, 1)
    path = save(tmp_path, 1, weights={"w": np.full(3, 9, np.float32)})
    assert checkpoint.load(path).weights["w"].tolist() == [9, 9, 9]
    assert sorted(item.name for item in tmp_path.iterdir()) == [path.name]


def test_what_a_killed_process_left_is_removed(tmp_path):
    (tmp_path / ".step_00000009.tmp").mkdir()
    save(tmp_path, 1)
    checkpoint.remove_old(tmp_path, keep=1, keep_best=True)
    assert [item.name for item in tmp_path.iterdir()] == ["step_00000001"]


def test_classes_are_compared_by_name_and_position():
    checkpoint.check_classes(("a", "b"), ["a", "b"], "here")
    with pytest.raises(CheckpointError, match=r"missing b \(1\); unknown c \(1\)"):
        checkpoint.check_classes(("a", "b"), ("a", "c"), "here")
    with pytest.raises(CheckpointError, match="class 0 is 'b', expected 'a'"):
        checkpoint.check_classes(("a", "b"), ("b", "a"), "here")

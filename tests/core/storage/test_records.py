"""Records hold what was written, or are refused by name."""

from __future__ import annotations

import json
import math
import os

import pytest

from runner.errors import CheckpointError, PluginError
from runner.storage import checkpoint, files, records, rundir

BEST = {"checkpoint": "step_00000003", "val.top1": 0.1 + 0.2}
RESULT = {
    "recipe": "r",
    "folder": "runs/r/1",
    "model": "linear",
    "framework": "fake",
    "device": "fake_cpu",
    "precision": "fp32",
    "metrics": {},
    "exports": [],
    "reference": [],
    "seconds": 1.0,
}


def write(tmp_path, content=BEST, kind=checkpoint.BEST_KIND):
    records.write(tmp_path / kind.file, kind, content)
    return tmp_path / kind.file


def rewrite(path, **values):
    """Write a record as other programs do, which know nothing of checksums."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_what_is_written_comes_back(tmp_path):
    record = records.read(write(tmp_path), checkpoint.BEST_KIND)
    assert record.content == BEST
    assert record.checked


def test_names_in_no_encoding_come_back(tmp_path):
    named = {**BEST, "checkpoint": os.fsdecode(b"caf\xe9")}
    assert records.read(write(tmp_path, named), checkpoint.BEST_KIND).content == named


def test_another_layout_of_the_same_content_is_the_same_record(tmp_path):
    path = write(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()), sort_keys=True))
    assert records.read(path, checkpoint.BEST_KIND).content == BEST


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"val.top1": 0.31}, "its checksum differs"),
        ({"checksum": None}, "its checksum differs"),
        ({"format": 0}, "its format is 0, expected 1"),
        ({"format": "1"}, "its format is '1', expected 1"),
        ({"format": True}, "its format is True, expected 1"),
        ({"more": math.nan}, "not JSON compliant"),
    ],
)
def test_a_changed_record_is_refused(tmp_path, values, reason):
    path = write(tmp_path)
    rewrite(path, **values)
    with pytest.raises(CheckpointError, match=reason) as caught:
        records.read(path, checkpoint.BEST_KIND)
    assert str(path) in str(caught.value)
    assert "remove it, or name a checkpoint" in str(caught.value)


def test_a_record_of_later_is_said_to_be(tmp_path):
    path = write(tmp_path)
    rewrite(path, format=2)
    with pytest.raises(CheckpointError, match="format 2; this version of runner reads format 1"):
        records.read(path, checkpoint.BEST_KIND)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        '{"checkpoint": 3, "val.top1": 0.5}',
        '{"checkpoint": "a"}',
        '{"checkpoint": "a", "val.top1": "0.5"}',
        '{"checkpoint": "a", "val.top1": true}',
        '{"checkpoint": "a", "checkpoint": "b", "val.top1": 0.5}',
        '{"checkpoint": "a", "val.top1": 0.5, "unknown": 1}',
        '{"checkpoint": "a", "val.top1": 0.5, "format": 1}',
        '{"checkpoint": "a", "val.top1": ' + "9" * 5000 + "}",
        "[" * 100_000,
        "\udcff",
    ],
)
def test_what_is_no_such_record_is_refused(tmp_path, text):
    path = tmp_path / checkpoint.BEST
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(CheckpointError, match=r"best\.json is damaged"):
        records.read(path, checkpoint.BEST_KIND)


def test_an_older_record_is_readable_and_known_to_be_unchecked(tmp_path):
    path = tmp_path / checkpoint.BEST
    path.write_text(json.dumps(BEST))
    record = records.read(path, checkpoint.BEST_KIND)
    assert record.content == BEST
    assert not record.checked


def test_numbers_that_are_not_finite_are_written_as_strings(tmp_path):
    path = write(tmp_path, {**RESULT, "metrics": {"val.loss": math.nan}}, rundir.RESULT)
    written = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert written["metrics"] == {"val.loss": "NaN"}
    content = records.read(path, rundir.RESULT).content
    assert content["metrics"] == {"val.loss": "NaN"}
    assert math.isnan(records.floats(content)["metrics"]["val.loss"])


def test_what_a_record_cannot_hold_is_not_written(tmp_path):
    with pytest.raises(PluginError, match=r"best\.json cannot hold what it is given: val\.top1"):
        write(tmp_path, {**BEST, "val.top1": "high"})
    with pytest.raises(PluginError, match="not JSON serializable"):
        write(tmp_path, {**BEST, "val.top1": object()})
    assert list(tmp_path.iterdir()) == []


def test_a_record_is_changed_on_purpose(tmp_path):
    path = write(tmp_path)
    records.change(path, checkpoint.BEST_KIND, checkpoint="step_00000009")
    record = records.read(path, checkpoint.BEST_KIND)
    assert record.content == {**BEST, "checkpoint": "step_00000009"}
    assert record.checked


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    path = tmp_path / checkpoint.BEST
    os.mkfifo(path)
    with pytest.raises(OSError, match="a named pipe, expected a regular file"):
        records.read(path, checkpoint.BEST_KIND)


def test_a_record_that_would_fill_the_memory_is_refused(tmp_path):
    path = tmp_path / checkpoint.BEST
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(OSError, match="expected at most"):
        records.read(path, checkpoint.BEST_KIND)


def test_every_one_bit_change_is_refused_or_means_the_same(tmp_path):
    path = write(tmp_path)
    data = path.read_bytes()
    accepted = 0
    for position in range(8 * len(data)):
        changed = bytearray(data)
        changed[position // 8] ^= 1 << position % 8
        path.write_bytes(changed)
        try:
            content = records.read(path, checkpoint.BEST_KIND).content
        except CheckpointError:
            continue
        accepted += 1
        assert content == BEST
    assert accepted < 0.02 * 8 * len(data), "white space and digits beyond a float's precision"


def test_a_link_in_the_place_of_the_temporary_file_is_not_written_through(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / ".x.json.tmp").symlink_to(victim)
    files.write_text(tmp_path / "x.json", "new")
    assert victim.read_text() == "mine"
    assert (tmp_path / "x.json").read_text() == "new"

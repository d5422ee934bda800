"""The event log stays readable line by line, whatever happened to the process before."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runner.errors import StorageError
from runner.storage.events import EventLog


def test_events_before_the_file_are_kept(tmp_path):
    heard = []
    log = EventLog(lambda event, fields: heard.append((event, dict(fields))))
    log.emit("first", a=1)
    log.write_to(tmp_path / "events.jsonl")
    log.emit("second")
    log.close()
    lines = (tmp_path / "events.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["first", "second"]
    assert heard == [("first", {"a": 1}), ("second", {})]


def test_a_line_that_was_cut_stays_alone(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_text('{"event": "cut')
    log = EventLog()
    log.write_to(path)
    log.emit("next")
    log.close()
    cut, whole = path.read_text().splitlines()
    assert cut == '{"event": "cut'
    assert json.loads(whole)["event"] == "next"


def test_a_full_disk_is_a_storage_error():
    log = EventLog()
    log.write_to(Path("/dev/full"))
    with pytest.raises(StorageError, match="No space left on device"):
        log.emit("any")
    log.close()

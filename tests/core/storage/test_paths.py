"""A name from a record stays inside its folder."""

from __future__ import annotations

import os

import pytest

from runner.storage import paths


def test_files_and_folders_inside(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "file").touch()
    assert paths.inside(tmp_path, "a/b") == tmp_path / "a" / "b"
    assert paths.file_in(tmp_path, "a/file") == tmp_path / "a" / "file"
    assert paths.inside(tmp_path, "not/there") == tmp_path / "not" / "there"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("..", "leaves the folder"),
        ("../x", "leaves the folder"),
        ("a/../../x", "leaves the folder"),
        ("/etc/passwd", "leaves the folder"),
        (".", "leaves the folder"),
        ("", "is not a path"),
        ("a\0b", "is not a path"),
        ("a\nb", "is not a path"),
        ("pipe", "is a named pipe"),
        ("link", "passes the link"),
        ("link/x", "passes the link"),
        ("dangling", "passes the link"),
    ],
)
def test_what_leads_elsewhere_is_refused(tmp_path, name, reason):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    with pytest.raises(ValueError, match=reason):
        paths.inside(tmp_path, name)


def test_a_folder_is_no_file(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(ValueError, match="is a folder; expected a regular file"):
        paths.file_in(tmp_path, "a")


@pytest.mark.parametrize("name", ["", ".", "..", ".x", "..onnx", "-x", "a/b", "a\nb", "a\x9bb"])
def test_names_that_are_not_made(name):
    with pytest.raises(ValueError, match="cannot name a file or folder"):
        paths.check_name(name)


def test_names_that_are_made():
    for name in ("a", "a.b", "a..b", "ä-b_c", os.fsdecode(b"\xe9")):
        assert paths.check_name(name) == name
    with pytest.raises(ValueError, match="256 bytes is too long"):
        paths.check_name("ä" * 128)

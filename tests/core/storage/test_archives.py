"""Archives are looked at before they are unpacked."""

from __future__ import annotations

import stat
import warnings
import zipfile

import pytest

from runner.storage import archives


def write(path, *members, compression=zipfile.ZIP_STORED):
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", compression) as archive:
        warnings.simplefilter("ignore")  # of names that are there already
        for name, data in members:
            archive.writestr(name, data)
    return path


def link(name):
    member = zipfile.ZipInfo(name)
    member.external_attr = (stat.S_IFLNK | 0o777) << 16
    return member


def test_what_is_no_archive_is_left_alone(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"anything")
    archives.check(path)


def test_usual_members(tmp_path):
    archives.check(write(tmp_path / "x", ("m/model.json", b"{}"), ("m/.data/version", b"1")))


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([("../x", b"")], "outside its folder"),
        ([("a/../../x", b"")], "outside its folder"),
        ([("/x", b"")], "outside its folder"),
        ([("..\\x", b"")], "outside its folder"),
        ([("C:\\x", b"")], "outside its folder"),
        ([(link("x"), b"/etc/passwd")], "holds the link 'x'"),
        ([("x", b"1"), ("x", b"2")], "'x' twice"),
        ([("m/x.json", b"1"), ("M/X.json", b"2")], "'M/X.json' twice"),
    ],
)
def test_members_that_lead_elsewhere_are_refused(tmp_path, members, reason):
    with pytest.raises(ValueError, match=reason.replace("\\", "\\\\")):
        archives.check(write(tmp_path / "x", *members))


def test_an_archive_that_unpacks_to_far_more_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "ALWAYS_ALLOWED", 1 << 20)
    path = write(tmp_path / "x", ("x", bytes(1 << 22)), compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match="would unpack to 4,194,304"):
        archives.check(path)


def test_an_archive_on_several_disks_is_refused(tmp_path):
    path = write(tmp_path / "x", ("name", bytes(100)))
    data = path.read_bytes()
    end = data.rindex(b"PK\5\6")
    path.write_bytes(data[:end] + b"PK\6\7" + bytes([1] * 16) + data[end:])
    with pytest.raises(ValueError, match="damaged archive"):
        archives.check(path)


def test_a_damaged_archive_is_refused(tmp_path):
    path = write(tmp_path / "x", ("name", bytes(100)))
    data = bytearray(path.read_bytes())
    data[data.rindex(b"PK\1\2")] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="damaged archive"):
        archives.check(path)

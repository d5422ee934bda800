"""Which files are taken for images."""

from __future__ import annotations

import pytest

from runner.artifacts.predict import find_images
from runner.errors import UsageError


def test_folders_are_searched_as_datasets_are(tmp_path):
    names = ("b/x.TIF", "a.jpg", ".hidden.jpg", ".cache/y.jpg", "notes.txt", "b/._x.tif")
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert find_images([tmp_path]) == [tmp_path / "a.jpg", tmp_path / "b/x.TIF"]
    assert find_images([tmp_path / ".hidden.jpg"]) == [tmp_path / ".hidden.jpg"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"no image in .*\.tiff"):
        find_images([tmp_path / "empty"])

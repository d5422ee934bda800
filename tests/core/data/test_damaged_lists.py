"""Lists that were damaged at random: read as what they say, or refused by name, and quickly."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from runner.data.layouts.options import (
    ClassFoldersWithListsOptions,
    FlatValLabelOptions,
    ListFileOptions,
)
from runner.data.plugin import runner_register_datasets
from runner.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

OPEN = {entry.name: entry.open for entry in runner_register_datasets()}
CONFIGS: dict[str, Any] = {
    "list_file": lambda root: ListFileOptions(root=str(root), train_list="t.txt", val_list="v.txt"),
    "class_folders_with_lists": lambda root: ClassFoldersWithListsOptions(
        root=str(root), train_list="t.txt", val_list="v.txt"
    ),
    "flat_val_label": lambda root: FlatValLabelOptions(root=str(root), labels="v.txt"),
}
PIECES = (
    *(b"\0", b"\r", b"\n", b"\t", b" ", b"  ", b"./", b"../", b"/", b"//", b"\\", b",", b'"', b"#"),
    *(b"\xff", b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf", b"\xc3", b"\xe2\x80\xae", b"\x1b[31m"),
    *(b"-", b".0", b"9" * 30, b"9" * 5000, b"x" * 5000, b"/" * 300, "é".encode(), b"\xed\xa0\x80"),
)


def damaged(content: bytes, random: np.random.Generator) -> bytes:
    """Return some bytes with one to three of them changed, cut, doubled, or put in between."""
    result = bytearray(content)
    for _ in range(random.integers(1, 4)):
        at, to = sorted(random.integers(0, len(result) + 1, 2))
        match random.integers(5):
            case 0 if at < len(result):
                result[at] ^= 1 << int(random.integers(8))
            case 1:
                del result[at : min(to, at + 30)]
            case 2:
                result[at:at] = result[at:to]
            case 3:
                del result[to:]
            case _:
                result[at:at] = PIECES[int(random.integers(len(PIECES)))]
    return bytes(result)


@pytest.mark.parametrize("layout", CONFIGS)
def test_a_damaged_list_is_read_or_refused(tmp_path: Path, layout: str) -> None:
    folders = [""] if layout == "flat_val_label" else ["cat/", "dog/"]
    lines = []
    for label, folder in enumerate(folders):
        for number in range(4):
            path = tmp_path / "val" / f"{folder}{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
            place = path.relative_to(tmp_path / ("val" if layout == "flat_val_label" else ""))
            lines.append(f"{place} {label if folder else number % 2}\n")
    content = "".join(lines).encode()
    (tmp_path / "train").mkdir()
    (tmp_path / "t.txt").write_bytes(content.replace(b"val/", b"train/"))
    refused: list[str] = []
    config, random = CONFIGS[layout](tmp_path), np.random.default_rng(20)
    for _ in range(400):
        (tmp_path / "v.txt").write_bytes(damaged(content, random))
        try:
            images = OPEN[layout](config, "val")
        except DataError as error:
            refused.append(str(error))
        else:
            assert all(images.read(index) == b"x" for index in range(len(images.labels)))
            assert int(images.labels.max()) < len(images.classes)
    assert 100 < len(refused) < 400
    assert [text for text in refused if not re.search(r"[tv]\.txt|the lists? ", text)] == []

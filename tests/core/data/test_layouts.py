"""Every layout, and what is said when the data is not as expected."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from runner.data.image_files import ImageFiles
from runner.data.plugin import (
    ClassFoldersOptions,
    ClassFoldersWithListsOptions,
    DigitsOptions,
    FlatValLabelOptions,
    ListFileOptions,
    SyntheticOptions,
    runner_register_datasets,
)
from runner.errors import DataError

if TYPE_CHECKING:
    from runner.contracts import Dataset

ENTRIES = {entry.name: entry for entry in runner_register_datasets()}


def open_dataset(name: str, config: object, split: str) -> Dataset:
    return ENTRIES[name].open(config, split)


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)


def contents(dataset: Dataset) -> list[tuple[object, int]]:
    return [(dataset.read(i), int(label)) for i, label in enumerate(dataset.labels)]


class TestClassFolders:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        touch(tmp_path, "train/cat/b.JPEG", "train/cat/a.jpg", "train/dog/more/c.PNG")
        touch(tmp_path, "val/cat/d.jpg", "val/dog/e.jpg")
        return tmp_path

    def open(self, root: Path, split: str = "train", **options: Any) -> Dataset:
        config = ClassFoldersOptions(root=str(root), **options)
        return open_dataset("class_folders", config, split)

    def test_labels_are_ranks_of_folder_names(self, root: Path) -> None:
        train = self.open(root)
        assert train.classes == ("cat", "dog")
        assert contents(train) == [
            (b"train/cat/a.jpg", 0),
            (b"train/cat/b.JPEG", 0),
            (b"train/dog/more/c.PNG", 1),
        ]
        assert train.describe(2) == str(root / "train/dog/more/c.PNG")
        assert contents(self.open(root, "val"))[1] == (b"val/dog/e.jpg", 1)

    def test_hidden_files_are_left_and_others_counted(self, root: Path) -> None:
        touch(root, "train/.cache/x.jpg", "train/cat/.a.jpg", "train/cat/notes.txt", "train/README")
        train = self.open(root)
        assert isinstance(train, ImageFiles)
        assert len(train.labels) == 3
        assert train.ignored_files == 2

    def test_the_home_folder_is_found(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(root.parent))
        assert len(self.open(Path("~") / root.name).labels) == 3

    def test_splits_with_different_classes_are_refused(self, root: Path) -> None:
        touch(root, "val/emu/x.jpg", "train/ant/x.jpg")
        for split in ("train", "val"):
            with pytest.raises(DataError, match="different classes, 3 and 3") as caught:
                self.open(root, split)
            assert f"{root}/train has ant, {root}/val has not" in str(caught.value)
            assert f"{root}/val has emu, {root}/train has not" in str(caught.value)

    def test_one_split_is_enough_to_open_it(self, tmp_path: Path) -> None:
        touch(tmp_path, "val/cat/d.jpg")
        assert len(self.open(tmp_path, "val").labels) == 1
        with pytest.raises(DataError, match=r"folder of the train images .*/train does not exist"):
            self.open(tmp_path)

    def test_an_empty_class_is_refused(self, root: Path) -> None:
        (root / "train/cow").mkdir()
        touch(root, "val/cow/x.jpg", "train/cow/x.txt")
        with pytest.raises(DataError, match=r"without images in .*: cow; expected .*\.jpg"):
            self.open(root)
        assert self.open(root, extensions=["txt", "jpg", "png", "jpeg"]).classes[1] == "cow"

    def test_folders_are_named_otherwise(self, root: Path) -> None:
        (root / "val").rename(root / "validation")
        assert len(self.open(root, "val", val="validation").labels) == 2

    def test_a_missing_root_says_where_and_how(self, tmp_path: Path) -> None:
        (tmp_path / "imagenet").mkdir()
        with pytest.raises(DataError) as caught:
            self.open(tmp_path / "imagnet")
        assert str(caught.value) == (
            f"dataset root {tmp_path}/imagnet does not exist ({tmp_path} has imagenet); "
            "set the folder with --set dataset.root=/path/to/images"
        )

    @pytest.mark.parametrize("closed", ["", "train", "train/dog/more"])
    def test_a_folder_that_cannot_be_listed_is_named(
        self, root: Path, monkeypatch: pytest.MonkeyPatch, closed: str
    ) -> None:
        scandir = os.scandir

        def guarded(folder: str) -> Any:
            if folder == str(root / closed):
                raise PermissionError(13, "Permission denied", folder)
            return scandir(folder)

        monkeypatch.setattr(os, "scandir", guarded)
        if closed:
            message = f"folder {root / closed} cannot be listed: Permission denied"
            with pytest.raises(DataError, match=re.escape(message)):
                self.open(root)
        else:  # the neighbours of a missing folder are only a hint
            with pytest.raises(DataError, match=r"folder of the train images .* does not exist;"):
                self.open(root, train="trian")

    @pytest.mark.parametrize("target", [".", "..", "../dog", "more"])
    def test_links_that_lead_to_a_folder_twice_are_refused(self, root: Path, target: str) -> None:
        touch(root, "train/cat/more/x.jpg")
        (root / "train/cat/link").symlink_to(target, target_is_directory=True)
        if target == "../dog":  # another folder is no repetition
            assert self.open(root).labels.tolist() == [0, 0, 0, 0, 1]
            return
        with pytest.raises(DataError, match=r"train/cat/link\S* leads to the same folder as "):
            self.open(root)

    def test_a_link_to_its_own_name_is_named(self, root: Path) -> None:
        (root / "train/cat/link").symlink_to("link")
        with pytest.raises(DataError, match=r"train/cat/link cannot be listed"):
            self.open(root)

    def test_a_split_without_class_folders_is_explained(self, tmp_path: Path) -> None:
        touch(tmp_path, "val/a.jpg")
        with pytest.raises(DataError, match=r"no class folders; .* flat_val_label"):
            self.open(tmp_path, "val")


class TestClassFoldersWithLists:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        touch(tmp_path, "train/cat/a.jpg", "train/dog/b c.jpg", "val/cat/d.jpg", "val/dog/e.jpg")
        (tmp_path / "train.txt").write_text("cat/a.jpg 1\ndog/b c.jpg 0\n\n")
        (tmp_path / "val.txt").write_text("val/dog/e.jpg 0\r\nval/cat/d.jpg 1\r\n")
        return tmp_path

    def open(self, root: Path, split: str = "train") -> Dataset:
        config = ClassFoldersWithListsOptions(root=str(root))
        return open_dataset("class_folders_with_lists", config, split)

    def test_labels_come_from_the_lists(self, root: Path) -> None:
        train, val = self.open(root), self.open(root, "val")
        assert train.classes == val.classes == ("dog", "cat")
        assert contents(train) == [(b"train/cat/a.jpg", 1), (b"train/dog/b c.jpg", 0)]
        assert contents(val) == [(b"val/dog/e.jpg", 0), (b"val/cat/d.jpg", 1)]

    def test_lists_that_disagree_are_refused(self, root: Path) -> None:
        (root / "val.txt").write_text("dog/e.jpg 1\ncat/d.jpg 0\n")
        with pytest.raises(
            DataError, match=r"val.txt gives label 1 to images of 'dog' and of 'cat'"
        ):
            self.open(root)

    def test_a_class_with_two_labels_is_refused(self, root: Path) -> None:
        (root / "val.txt").write_text("dog/e.jpg 0\ncat/d.jpg 2\n")
        with pytest.raises(DataError, match=r"images of 'cat' the labels \[1, 2\]"):
            self.open(root)

    def test_a_list_of_files_that_are_not_there_is_refused(self, root: Path) -> None:
        (root / "train.txt").write_text("a.jpg 0\n")
        (root / "val.txt").unlink()
        with pytest.raises(DataError, match=r"does not exist: tried .*/train/a.jpg and .*/a.jpg"):
            self.open(root)

    def test_a_missing_list_is_named(self, root: Path) -> None:
        (root / "train.txt").unlink()
        with pytest.raises(
            DataError, match=r"train.txt does not exist; .*--set dataset.train_list="
        ):
            self.open(root)


class TestListFile:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        touch(tmp_path, "x/a.jpg", "x/b.jpg", "c.jpg", "d.jpg")
        (tmp_path / "train.lst").write_text("x/a.jpg 0\nx/b.jpg 1\nx/b.jpg 2\n")
        (tmp_path / "val.lst").write_text("c.jpg 1\nd.jpg 0\nd.jpg 2\n")
        (tmp_path / "names").write_text("ant\nbee\ncat\n")
        return tmp_path

    def open(self, root: Path, split: str = "train", **options: str) -> Dataset:
        lists = {"train_list": "train.lst", "val_list": "val.lst", **options}
        return open_dataset("list_file", ListFileOptions(root=str(root), **lists), split)

    def test_classes_follow_from_both_lists(self, root: Path) -> None:
        train, val = self.open(root), self.open(root, "val")
        assert train.classes == val.classes == ("0", "1", "2")
        assert contents(train) == [(b"x/a.jpg", 0), (b"x/b.jpg", 1), (b"x/b.jpg", 2)]
        assert contents(val) == [(b"c.jpg", 1), (b"d.jpg", 0), (b"d.jpg", 2)]

    def test_lists_that_count_from_different_numbers_are_refused(self, root: Path) -> None:
        (root / "train.lst").write_text("x/a.jpg 1\nx/b.jpg 2\nx/b.jpg 3\n")
        message = r"train.lst has label 3, val.lst has not; val.lst has label 0, train.lst has not"
        for split in ("train", "val"):
            with pytest.raises(DataError, match="from 0 and the other from 1, use labels 0 to K-1"):
                self.open(root, split)
        with pytest.raises(DataError, match=message):
            self.open(root)

    def test_a_named_class_in_one_list_only_is_refused(self, root: Path) -> None:
        (root / "val.lst").write_text("c.jpg 1\nd.jpg 0\n")
        with pytest.raises(DataError, match=r"train.lst has label 2 \(cat\), val.lst has not"):
            self.open(root, "val", class_names="names")

    def test_one_list_is_enough_to_open_it(self, root: Path) -> None:
        (root / "val.lst").write_text("c.jpg 1\n")
        (root / "train.lst").unlink()
        assert len(self.open(root, "val", class_names="names").labels) == 1
        (root / "val.lst").write_text("c.jpg 0\n")
        config = ListFileOptions(root=str(root), val_list="val.lst")
        assert len(open_dataset("list_file", config, "val").labels) == 1

    def test_lists_may_lie_elsewhere(self, root: Path, tmp_path: Path) -> None:
        mine = tmp_path / "elsewhere" / "mine"
        touch(mine.parent, "mine")
        mine.write_text("c.jpg 0\nc.jpg 1\nc.jpg 2\n")
        assert len(self.open(root, "val", val_list=str(mine)).labels) == 3

    def test_classes_are_named_by_a_file(self, root: Path) -> None:
        assert self.open(root, class_names="names").classes == ("ant", "bee", "cat")

    @pytest.mark.parametrize(
        ("names", "message"),
        [
            ("ant\nbee\n", "train.lst has the label 2, but there are 2 class names"),
            ("ant\nbee\nant\n", "has ant more than once, expected one name per line"),
            ("", "is empty"),
        ],
    )
    def test_wrong_class_names(self, root: Path, names: str, message: str) -> None:
        (root / "names").write_text(names)
        with pytest.raises(DataError, match=message):
            self.open(root, class_names="names")

    @pytest.mark.parametrize(
        "line", ["a.jpg", "a.jpg cat", "a.jpg -1", "a.jpg 1.0", "a.jpg\t1", "7", "a.jpg 1_0", "a ²"]
    )
    def test_a_malformed_line_is_named(self, root: Path, line: str) -> None:
        (root / "train.lst").write_text(f"x/a.jpg 0\n\n{line}\n")
        with pytest.raises(DataError) as caught:
            self.open(root)
        assert f"train.lst:3: found {line!r}, expected `<path> <label>`" in str(caught.value)

    def test_labels_from_one_are_recognised(self, root: Path) -> None:
        (root / "train.lst").write_text("x/a.jpg 1\nx/b.jpg 2\n")
        (root / "val.lst").write_text("c.jpg 1\n")
        with pytest.raises(DataError, match=r"has label 0, .* without gaps .*seem to start at 1"):
            self.open(root)

    def test_a_huge_label_costs_nothing(self, root: Path) -> None:
        (root / "train.lst").write_text(f"x/a.jpg 0\nx/b.jpg {10**15}\n")
        (root / "val.lst").write_text("c.jpg 1\n")
        with pytest.raises(DataError, match=rf"has label 2, 3, 4, 5, 6 and {10**15 - 7} more, "):
            self.open(root)

    def test_an_empty_list_is_refused(self, root: Path) -> None:
        (root / "train.lst").write_text("\n")
        with pytest.raises(DataError, match=r"train.lst is empty"):
            self.open(root)

    def test_a_split_without_a_list_is_refused(self, root: Path) -> None:
        config = ListFileOptions(root=str(root), val_list="val.lst")
        with pytest.raises(DataError, match=r"no list of train images; set dataset.train_list"):
            open_dataset("list_file", config, "train")


class TestFlatValLabel:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        touch(tmp_path, "val/I_2.JPEG", "val/I_1.JPEG", "val/.hidden.jpg", "val/list.csv")
        (tmp_path / "val_label.txt").write_text("I_1.JPEG 65\nI_2.bin 970\n")
        return tmp_path

    def open(self, root: Path, split: str = "val", **options: Any) -> Dataset:
        config = FlatValLabelOptions(root=str(root), **options)
        return open_dataset("flat_val_label", config, split)

    def test_names_match_up_to_the_first_dot(self, root: Path) -> None:
        val = self.open(root)
        assert contents(val) == [(b"val/I_1.JPEG", 65), (b"val/I_2.JPEG", 970)]
        assert len(val.classes) == 971
        assert isinstance(val, ImageFiles)
        assert val.ignored_files == 1

    def test_class_names_say_how_many_classes_there_are(self, root: Path) -> None:
        (root / "names").write_text("\n".join(f"n{i}" for i in range(1000)))
        assert self.open(root, class_names="names").classes[970] == "n970"

    def test_a_huge_label_is_refused(self, root: Path) -> None:
        (root / "val_label.txt").write_text(f"I_1.JPEG 0\nI_2.JPEG {10**15}\n")
        with pytest.raises(DataError, match=rf"has the label {10**15}, but 2 lines; .*class_names"):
            self.open(root)

    def test_there_is_no_training_split(self, root: Path) -> None:
        with pytest.raises(
            DataError, match="validation images only, and the train split was asked"
        ):
            self.open(root, "train")

    def test_images_and_lines_must_match(self, root: Path) -> None:
        touch(root, "val/I_3.JPEG")
        with pytest.raises(DataError, match=r"without a line in .*val_label.txt: I_3"):
            self.open(root)
        (root / "val_label.txt").write_text("I_1.JPEG 1\nI_2.JPEG 1\nI_3.x 1\nI_4.x 1\n")
        with pytest.raises(DataError, match=r"1 images of .* are not in .*: I_4"):
            self.open(root)

    def test_an_image_with_two_labels_is_refused(self, root: Path) -> None:
        (root / "val_label.txt").write_text("I_1.JPEG 1\nI_1.png 2\n")
        with pytest.raises(DataError, match="gives 'I_1' the labels 1 and 2"):
            self.open(root)


def test_synthetic_images_are_a_function_of_seed_split_and_index() -> None:
    config = SyntheticOptions(train_count=7, val_count=3, size=(20, 30), class_count=4)
    train, val = (open_dataset("synthetic", config, split) for split in ("train", "val"))
    assert (len(train.labels), len(val.labels), len(train.classes)) == (7, 3, 4)
    assert train.labels.tolist() == [0, 1, 2, 3, 0, 1, 2]
    first = train.read(5)
    assert isinstance(first, np.ndarray)
    assert first.shape == (20, 30, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, open_dataset("synthetic", config, "train").read(5))
    assert not np.array_equal(first, train.read(1))
    assert not np.array_equal(val.read(0), train.read(0))
    other = SyntheticOptions(seed=1, size=(20, 30), class_count=4)
    assert not np.array_equal(first, open_dataset("synthetic", other, "train").read(5))


def test_digits_are_split_by_class() -> None:
    pytest.importorskip("sklearn")
    train, val = (open_dataset("digits", DigitsOptions(), split) for split in ("train", "val"))
    assert len(train.labels) + len(val.labels) == 1797
    assert abs(np.bincount(val.labels) / np.bincount(train.labels) - 0.25).max() < 0.01
    assert train.classes == tuple("0123456789")
    pixels = [np.asarray(s.read(i)) for s in (train, val) for i in range(len(s.labels))]
    assert {p.shape for p in pixels} == {(8, 8, 3)}
    assert np.max(pixels) == 255
    names = [s.describe(i) for s in (train, val) for i in range(len(s.labels))]
    assert len(set(names)) == 1797
    with pytest.raises(DataError, match=r"val_fraction is 0.999, which leaves no image"):
        open_dataset("digits", DigitsOptions(val_fraction=0.999), "train")


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("synthetic", SyntheticOptions()),
        ("list_file", ListFileOptions(root="/")),
        ("class_folders", ClassFoldersOptions(root="/")),
    ],
)
def test_an_unknown_split_is_refused(name: str, config: object) -> None:
    with pytest.raises(DataError, match="unknown split 'test', expected train or val"):
        open_dataset(name, config, "test")

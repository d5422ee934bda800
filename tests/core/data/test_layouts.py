"""Every layout, and what is said when the data is not as expected."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from runner.data.image_files import ImageFiles
from runner.data.layouts.options import (
    ClassFoldersOptions,
    ClassFoldersWithListsOptions,
    DigitsOptions,
    FlatValLabelOptions,
    ListFileOptions,
    SyntheticOptions,
)
from runner.data.plugin import runner_register_datasets
from runner.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable

    from runner.contracts import Dataset

COMPOSED, DECOMPOSED = "\u00e9", "e\u0301"
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

    @pytest.mark.parametrize(
        ("name", "says"),
        [
            (
                "my images ",
                "'my images ' differs from 'my images' in spaces only, which YAML keeps",
            ),
            ("My Images", "'My Images' differs from 'my images' in upper and lower case only"),
        ],
    )
    def test_a_root_that_is_written_otherwise_is_named(
        self, tmp_path: Path, name: str, says: str
    ) -> None:
        (tmp_path / name).mkdir()
        with pytest.raises(DataError, match=f"has {name}; {says}"):
            self.open(tmp_path / "my images")

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
        with pytest.raises(DataError, match=r"train/cat/link\S* leads to the same folder as "):
            self.open(root)

    def test_two_classes_that_are_one_folder_are_refused(self, root: Path) -> None:
        (root / "train/kitten").symlink_to("cat", target_is_directory=True)
        message = f"{root}/train/kitten leads to the same folder as {root}/train/cat"
        with pytest.raises(DataError, match=re.escape(message)):
            self.open(root)

    def test_a_link_to_images_elsewhere_is_a_class(self, root: Path) -> None:
        (root / "train/dog").rename(root / "dogs")
        (root / "train/dog").symlink_to("../dogs", target_is_directory=True)
        assert self.open(root).classes == ("cat", "dog")

    def test_names_that_look_the_same_are_told_apart(self, root: Path) -> None:
        touch(root, f"train/chien-{COMPOSED}/x.jpg", f"val/chien-{DECOMPOSED}/x.jpg")
        with pytest.raises(DataError, match=r"U\+00E9 in one and U\+0065 U\+0301 in the other"):
            self.open(root)
        touch(root, "train/Emu/x.jpg", "val/emu/x.jpg")
        (root / f"train/chien-{COMPOSED}").rename(root / "train/x")
        (root / f"val/chien-{DECOMPOSED}").rename(root / "val/x")
        with pytest.raises(DataError, match="'emu' differs from 'Emu' in upper and lower case"):
            self.open(root)

    def test_a_class_without_validation_images_is_allowed_by_a_key(self, root: Path) -> None:
        touch(root, "train/bee/x.jpg")
        for split in ("train", "val"):
            with pytest.raises(DataError, match=r"dataset\.missing_classes: true allows it"):
                self.open(root, split)
        train, val = (self.open(root, split, missing_classes=True) for split in ("train", "val"))
        assert train.classes == val.classes == ("bee", "cat", "dog")
        assert contents(val) == [(b"val/cat/d.jpg", 1), (b"val/dog/e.jpg", 2)]
        (root / "val/bee").mkdir()
        assert self.open(root, "val", missing_classes=True).labels.tolist() == [1, 2]
        touch(root, "val/cow/x.jpg")
        for split in ("train", "val"):
            with pytest.raises(DataError, match="val has cow, "):
                self.open(root, split, missing_classes=True)

    def test_a_class_without_training_images_is_refused(self, root: Path) -> None:
        touch(root, "val/cow/x.jpg")
        (root / "train/cow").mkdir()
        with pytest.raises(DataError, match=r"class folders without images in .*/train: cow"):
            self.open(root, missing_classes=True)

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

    def open(self, root: Path, split: str = "train", **options: Any) -> Dataset:
        config = ClassFoldersWithListsOptions(root=str(root), **options)
        return open_dataset("class_folders_with_lists", config, split)

    def test_labels_come_from_the_lists(self, root: Path) -> None:
        train, val = self.open(root), self.open(root, "val")
        assert train.classes == val.classes == ("dog", "cat")
        assert contents(train) == [(b"train/cat/a.jpg", 1), (b"train/dog/b c.jpg", 0)]
        assert contents(val) == [(b"val/dog/e.jpg", 0), (b"val/cat/d.jpg", 1)]

    def test_lists_that_disagree_are_refused(self, root: Path) -> None:
        (root / "val.txt").write_text("dog/e.jpg 1\ncat/d.jpg 0\n")
        with pytest.raises(
            DataError, match=r"val.txt:1 gives label 1 to images of 'dog' and of 'cat'"
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

    def test_a_file_that_is_not_there_is_named_with_its_line(self, root: Path) -> None:
        (root / "train.txt").write_text("cat/a.jpg 1\n\ndog/c.jpg 0\n")
        with pytest.raises(DataError, match=r"train.txt:3: the image 'dog/c.jpg' is not there"):
            self.open(root)

    @pytest.mark.parametrize("start", ["./", "./val/", ".//./", "{root}/val/"])
    def test_paths_begin_in_many_ways(self, root: Path, start: str) -> None:
        start = start.format(root=root)
        (root / "val.txt").write_text(f"{start}dog/e.jpg 0\n{start}cat/d.jpg 1\n")
        assert self.open(root).classes == ("dog", "cat")
        assert contents(self.open(root, "val")) == [(b"val/dog/e.jpg", 0), (b"val/cat/d.jpg", 1)]

    def test_an_image_in_no_class_folder_is_named(self, root: Path) -> None:
        touch(root, "val/e.jpg")
        (root / "val.txt").write_text("cat/d.jpg 1\ne.jpg 0\n")
        with pytest.raises(DataError, match=r"val.txt:2: the image 'e.jpg' lies in no class"):
            self.open(root, "val")

    def test_paths_elsewhere_have_no_class_folder(self, root: Path) -> None:
        (root / "val.txt").write_text("dog/e.jpg 0\n/elsewhere/cat/d.jpg 1\n")
        with pytest.raises(DataError, match=r"val.txt:2: /elsewhere/cat/d.jpg does not lie below"):
            self.open(root, "val")

    def test_labels_from_one_are_shifted_by_a_key(self, root: Path) -> None:
        (root / "train.txt").write_text("cat/a.jpg 2\ndog/b c.jpg 1\n")
        (root / "val.txt").write_text("dog/e.jpg 1\ncat/d.jpg 2\n")
        with pytest.raises(DataError, match=r"train.txt or val.txt has label 0.*first_label: 1"):
            self.open(root)
        train = self.open(root, first_label=1)
        assert (train.classes, train.labels.tolist()) == (("dog", "cat"), [1, 0])


class TestListFile:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        touch(tmp_path, "x/a.jpg", "x/b.jpg", "c.jpg", "d.jpg")
        (tmp_path / "train.lst").write_text("x/a.jpg 0\nx/b.jpg 1\nx/b.jpg 2\n")
        (tmp_path / "val.lst").write_text("c.jpg 1\nd.jpg 0\nd.jpg 2\n")
        (tmp_path / "names").write_text("ant\nbee\ncat\n")
        return tmp_path

    def open(self, root: Path, split: str = "train", **options: Any) -> Dataset:
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
        assert len(self.open(root, "val", class_names="names", first_label=0).labels) == 1
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
            ("ant\nbee\n\nant\n", r"names:4: has 'ant' more than once, first in line 1"),
            ("", "is empty"),
            ("ant\n", "but there is 1 class name; expected label 0; .* in line 2"),
            ("class\nant\nbee\ncat\n", r"names:1: found 'class' and 3 more names .* a header"),
            ("ant\nbee\ncat\ndog\n", r"names:4: found the name 'dog' for the label 3, which no"),
            ('{\n"ant": 0,\n"bee": 1\n', r"names:1: found '\{', expected one name per line"),
            ('["ant", "bee", "cat"]\n', r"names:1: .*; this seems to be JSON"),
            ("2 ant\n1 bee\n0 cat\n", r"names:1: found '2 ant', but this line names label 0"),
            ("1: bee\n3: cat\n2: ant\n", r"names:2: found '3: cat', but this line names label 2"),
            ("ant 0\nbee 2\ncat 1\n", r"names:2: found 'bee 2', but this line names label 1"),
        ],
    )
    def test_wrong_class_names(self, root: Path, names: str, message: str) -> None:
        (root / "names").write_text(names)
        with pytest.raises(DataError, match=message):
            self.open(root, class_names="names")

    @pytest.mark.parametrize(
        "names",
        ["0 ant\n1 bee\n2 cat\n", "1:a\n2:b\n3:c\n", "n 10\nn 2\nn 1\n", "7\n8\n2\n", "[a]\nb\nc"],
    )
    def test_names_with_numbers_that_say_nothing_else_are_kept(
        self, root: Path, names: str
    ) -> None:
        (root / "names").write_text(names)
        assert self.open(root, class_names="names").classes == tuple(names.split("\n"))[:3]

    def test_a_header_is_refused_where_classes_may_be_missing(self, root: Path) -> None:
        (root / "names").write_text("Name\nant\nbee\ncat\n")
        with pytest.raises(
            DataError, match="names:1: found 'Name' and 3 more names for as many labels"
        ):
            self.open(root, class_names="names", missing_classes=True)
        (root / "names").write_text("ant\nbee\ncat\ndog\n")
        assert len(self.open(root, class_names="names", missing_classes=True).classes) == 4

    def test_labels_are_named_as_the_list_has_them(self, root: Path) -> None:
        (root / "train.lst").write_text("x/a.jpg 1\nx/b.jpg 2\nx/b.jpg 3\n")
        (root / "val.lst").write_text("c.jpg 2\nd.jpg 1\nd.jpg 3\n")
        (root / "names").write_text("ant\nbee\n")
        with pytest.raises(DataError, match=r"has the label 3, .* expected labels 1 to 2"):
            self.open(root, class_names="names", first_label=1)
        (root / "train.lst").write_text("x/a.jpg 1\nx/b.jpg 3\n")
        (root / "val.lst").write_text("c.jpg 1\nd.jpg 3\n")
        with pytest.raises(DataError, match=r"has label 2, but there is label 3; .* 1 to 1\+K-1"):
            self.open(root, first_label=1)

    @pytest.mark.parametrize(
        ("line", "hint"),
        [
            ("a.jpg", ""),
            ("a.jpg cat", ""),
            ("a.jpg -1", "remove images without a class"),
            ("a.jpg 1.0", "write the label as a whole number"),
            ("7", ""),
            ("a.jpg 1_0", ""),
            ("a ²", ""),
            ("a.jpg,1", "there is a comma between them: change it with sed"),
            ("a.jpg, 1", "there is a comma between them: change it with sed"),
            ('"a.jpg" 1', "quotes would be taken as part of the name"),
            ("'a.jpg' 1", "quotes would be taken as part of the name"),
            ("# image label", "this seems to be a comment"),
            ("# list of version 1", "this seems to be a comment"),
            ("1 a.jpg", "the label seems to stand first: change it with sed"),
        ],
    )
    def test_a_malformed_line_is_named(self, root: Path, line: str, hint: str) -> None:
        (root / "train.lst").write_text(f"x/a.jpg 0\n\n{line}\n")
        with pytest.raises(DataError) as caught:
            self.open(root)
        assert f"train.lst:3: found {line!r}, expected `<path> <label>`" in str(caught.value)
        assert hint in str(caught.value)

    def test_a_header_is_named(self, root: Path) -> None:
        (root / "train.lst").write_text("path label\nx/a.jpg 0\n")
        with pytest.raises(DataError, match=r"train.lst:1: .*if this is a header, remove the line"):
            self.open(root)

    @pytest.mark.parametrize(
        "change",
        [
            lambda text: text.replace(" ", "\t"),
            lambda text: text.replace(" ", "\t "),
            lambda text: text.replace(" ", "   "),
            lambda text: text.replace("\n", "  \n"),
            lambda text: "\n" + text.replace("\n", "\n\n"),
            lambda text: "\ufeff" + text.replace("\n", "\r\n"),
            lambda text: text.replace("\n", "\r"),
            lambda text: "./" + text.replace("\n", "\n./").removesuffix("./"),
        ],
    )
    def test_what_is_harmless_is_read(self, root: Path, change: Callable[[str], str]) -> None:
        expected = contents(self.open(root))
        (root / "train.lst").write_bytes(change((root / "train.lst").read_text()).encode())
        assert contents(self.open(root)) == expected

    @pytest.mark.parametrize(
        "name", ["#1.jpg", "a, b.jpg", 'say "a".jpg', "a\tb.jpg", "日本 1.jpg"]
    )
    def test_odd_names_are_names(self, root: Path, name: str) -> None:
        touch(root, name)
        (root / "train.lst").write_text(f"{name} 0\nx/b.jpg 1\nx/b.jpg 2\n", encoding="utf-8")
        assert contents(self.open(root))[0] == (name.encode(), 0)

    def test_utf_16_is_read_where_it_says_so(self, root: Path) -> None:
        expected = contents(self.open(root))
        text = (root / "train.lst").read_text()
        (root / "train.lst").write_text(text, encoding="utf-16")
        assert contents(self.open(root)) == expected
        (root / "train.lst").write_text(text, encoding="utf-16-le")
        with pytest.raises(DataError, match=r"train.lst:1: found a zero byte.* iconv -f UTF-16LE"):
            self.open(root)

    def test_names_that_are_not_utf_8_are_read(self, root: Path) -> None:
        name = "猫.jpg".encode("gbk")
        (root / os.fsdecode(name)).write_text("x")
        (root / "train.lst").write_bytes(name + b" 0\nx/b.jpg 1\nx/b.jpg 2\n")
        assert contents(self.open(root))[0] == (b"x", 0)

    @pytest.mark.parametrize(
        ("line", "hint"),
        [
            ("x\\b.jpg 1", "paths are written with /: change them with sed"),
            ("c.jpg 0 1", "expected one label in a line"),
            ("X/B.jpg 1", "'x' differs from 'X' in upper and lower case only"),
            ("nowhere.jpg 1", "expected paths that start at"),
            ("x 1", "it is a folder, expected an image"),
            ("x/ 1", "it is a folder, expected an image"),
            (f"{'n' * 300}.jpg 1", "expected paths that start at"),
        ],
    )
    @pytest.mark.parametrize("split", ["train", "val"])
    def test_images_that_are_not_there_are_named(
        self, root: Path, split: str, line: str, hint: str
    ) -> None:
        (root / f"{split}.lst").write_text(f"c.jpg 0\nd.jpg 1\n\nd.jpg 2\n{line}\nmore.jpg 2\n")
        with pytest.raises(DataError, match=rf"{split}.lst:5: the image .* nor are 1 others") as e:
            self.open(root, split)
        assert hint in str(e.value)

    def test_many_images_of_a_folder_are_looked_for_at_once(self, root: Path) -> None:
        touch(root, *(f"many/{number}.jpg" for number in range(40)))
        lines = [f"many/{number}.jpg {number % 3}\n" for number in range(41)]
        (root / "train.lst").write_text("".join(lines))
        with pytest.raises(
            DataError, match=r"train.lst:41: the image 'many/40.jpg' is not there: "
        ):
            self.open(root)

    def test_names_in_another_form_are_told(self, root: Path) -> None:
        touch(root, f"{DECOMPOSED}.jpg")
        lines = f"{COMPOSED}.jpg 0\nx/b.jpg 1\nx/b.jpg 2\n"
        (root / "train.lst").write_text(lines, encoding="utf-8")
        with pytest.raises(DataError, match=r"lst:1: .* U\+00E9 in one and U\+0065 U\+0301 in "):
            self.open(root)

    def test_labels_from_one_are_shifted_by_a_key(self, root: Path) -> None:
        (root / "train.lst").write_text("x/a.jpg 1\nx/b.jpg 2\n")
        (root / "val.lst").write_text("c.jpg 1\nd.jpg 2\n")
        with pytest.raises(DataError, match=r"has label 0, .* without gaps .*seem to start at 1"):
            self.open(root)
        assert self.open(root, first_label=1).labels.tolist() == [0, 1]
        with pytest.raises(DataError, match=r"has the label 1, and dataset.first_label says .* 2"):
            self.open(root, first_label=2)
        with pytest.raises(DataError, match="has label 0, but there is label 2; expected"):
            self.open(root, first_label=0)

    def test_a_class_without_validation_images_is_allowed_by_a_key(self, root: Path) -> None:
        (root / "val.lst").write_text("c.jpg 1\nd.jpg 0\n")
        with pytest.raises(DataError, match=r"dataset\.missing_classes: true allows it"):
            self.open(root, "val")
        val = self.open(root, "val", missing_classes=True)
        assert (val.classes, val.labels.tolist()) == (("0", "1", "2"), [1, 0])
        (root / "train.lst").write_text("x/a.jpg 0\nx/b.jpg 2\n")
        with pytest.raises(DataError, match=r"val.lst has label 1, train.lst has not"):
            self.open(root, "val", missing_classes=True)

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

    def test_names_match_without_their_ending(self, root: Path) -> None:
        val = self.open(root, first_label=0)
        assert contents(val) == [(b"val/I_1.JPEG", 65), (b"val/I_2.JPEG", 970)]
        assert len(val.classes) == 971
        assert isinstance(val, ImageFiles)
        assert val.ignored_files == 1

    def test_class_names_say_how_many_classes_there_are(self, root: Path) -> None:
        (root / "names").write_text("\n".join(f"n{i}" for i in range(1000)))
        assert self.open(root, class_names="names", first_label=0).classes[970] == "n970"

    def test_a_subset_whose_labels_begin_at_one_is_refused(self, root: Path) -> None:
        (root / "val_label.txt").write_text("I_1.JPEG 1\nI_2.bin 2\n")
        (root / "names").write_text("ant\nbee\ncat\n")
        for options in ({}, {"class_names": "names"}):
            with pytest.raises(DataError, match=r"has label 0, .*set dataset.first_label: 1, "):
                self.open(root, **options)
        assert self.open(root, first_label=1).labels.tolist() == [0, 1]
        assert self.open(root, first_label=0).labels.tolist() == [1, 2]

    def test_a_dot_in_a_name_belongs_to_it(self, root: Path) -> None:
        touch(root, "val/1.5.png", "val/1.7.png", "val/img.001.png", "val/img.002.PNG")
        lines = "I_1 0\nI_2 1\n1.5.png 2\nimg.001 0\nimg.002.bin 1\n"
        (root / "val_label.txt").write_text(lines)
        with pytest.raises(DataError, match=r"without a line in .*: 1.7.png"):
            self.open(root)
        (root / "val_label.txt").write_text(lines + "1.7 0\n")
        found = dict(contents(self.open(root)))
        assert found[b"val/1.5.png"] == 2
        assert found[b"val/1.7.png"] == 0
        assert (found[b"val/img.001.png"], found[b"val/img.002.PNG"]) == (0, 1)

    def test_images_that_differ_in_their_ending_need_whole_names(self, root: Path) -> None:
        touch(root, "val/I_1.png")
        (root / "val_label.txt").write_text("I_1 0\nI_2 1\n")
        with pytest.raises(DataError, match=r"I_1.JPEG and I_1.png, which a list without endings"):
            self.open(root)
        (root / "val_label.txt").write_text("I_1.JPEG 0\nI_2.JPEG 1\nI_1.png 1\n")
        assert (b"val/I_1.png", 1) in contents(self.open(root))

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
            self.open(root, first_label=0)
        (root / "val_label.txt").write_text("I_1.JPEG 0\nI_2.JPEG 1\nI_3 1\nI_4.bin 1\n")
        with pytest.raises(DataError, match=r" lacks 1 image of .*: I_4.bin .* line 4"):
            self.open(root)

    def test_an_image_with_two_labels_is_refused(self, root: Path) -> None:
        for label in (2, 1):
            (root / "val_label.txt").write_text(f"I_1.JPEG 1\nI_1.png {label}\nI_2 0\n")
            message = rf"gives 'I_1' the labels 1 and {label}, in the lines 1 \(I_1.JPEG\) and 2 "
            with pytest.raises(DataError, match=message):
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


def test_digits_are_those_of_load_digits_without_importing_it() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    scans, labels = datasets.load_digits(return_X_y=True)
    expected = np.rint(scans * (255 / 16)).astype(np.uint8)
    split = open_dataset("digits", DigitsOptions(), "train")
    for index in range(len(split.labels)):
        position = int(split.describe(index).split()[1])
        assert np.array_equal(np.asarray(split.read(index))[..., 0].ravel(), expected[position])
        assert split.labels[index] == labels[position]


def test_digits_that_scikit_learn_has_lost_are_named(tmp_path, monkeypatch) -> None:
    (tmp_path / "sklearn").mkdir()
    (tmp_path / "sklearn" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    with monkeypatch.context() as patched:
        patched.delitem(sys.modules, "sklearn", raising=False)
        with pytest.raises(DataError, match=r"cannot read the digits of scikit-learn.*digits\.csv"):
            open_dataset("digits", DigitsOptions(), "train")


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

"""What a run says of data that it can read, and that is not what people believe it is."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from runner.data import duplicates, file_states
from runner.data.image_files import ImageFiles
from runner.data.layouts.options import ClassFoldersOptions
from runner.data.plugin import runner_register_datasets

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

COLOURS = {"cat": (200, 30, 30), "dog": (30, 30, 200)}


def make_images(folder: Path, names: list[str], seed: int = 0) -> None:
    """Write a noisy image for each name, such as ``train/cat/1.png``."""
    random = np.random.default_rng([seed, len(names)])
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        tint = next((tint for word, tint in COLOURS.items() if word in name), (90, 90, 90))
        pixels = np.clip(random.normal(tint, 20, (10, 10, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(path)


def two_classes(folder: Path, *, train: int = 8, val: int = 4) -> Path:
    """Write class folders of cats and dogs, and return them."""
    for count, split in ((train, "train"), (val, "val")):
        names = [f"{split}/{name}/{split}{at}.png" for name in COLOURS for at in range(count)]
        make_images(folder, names, seed=count)
    return folder


def folders(root: Path, extra: str = "") -> tuple[str, str]:
    return "--set", f"dataset={{name: class_folders, root: {root}{extra}}}"


class TestOneClass:
    def test_a_folder_of_folders_is_no_class(self, project):
        data = two_classes(project.path / "data")
        for split in ("train", "val"):
            for name in ("cat", "dog"):
                (data / split / "images").mkdir(exist_ok=True)
                (data / split / name).rename(data / split / "images" / name)
        outcome = project.run(*folders(data))
        assert outcome.code == 5
        assert "data/train/images is the only class, and holds nothing but folders" in outcome.err
        assert "--set dataset.train=train/images --set dataset.val=val/images" in outcome.err
        assert not (project.path / "runs").exists()
        deeper = ", train: train/images, val: val/images"
        assert project.run(*folders(data, deeper)).code == 0

    def test_folders_of_the_same_folders_are_told(self, project):
        names = ("images", "masks")
        data = project.path / "data"
        for name in names:
            for split in ("train", "val"):
                images = [f"{kind}/{split}{at}.png" for kind in COLOURS for at in range(4)]
                make_images(data / split / name, images)
        told = "holds the same folders and no image of its own: cat, dog; if these are the classes"
        outcome = project.run(*folders(data))
        assert outcome.code == 0
        assert outcome.err.count(told) == len(names)
        make_images(data / "train" / "images", ["cat.png"])
        assert project.run(*folders(data)).err.count(told) == 1

    def test_one_class_is_refused_unless_it_is_declared(self, project):
        make_images(
            project.path, [f"{split}/cat/{at}.png" for split in ("train", "val") for at in range(8)]
        )
        outcome = project.run(*folders(project.path))
        assert outcome.code == 5
        assert "the data has one class, 'cat'" in outcome.err
        assert "set dataset.num_classes: 1" in outcome.err
        assert project.run(*folders(project.path, ", num_classes: 1")).code == 0

    def test_one_class_of_a_plugin_is_refused_as_well(self, project):
        outcome = project.run("--set", "dataset={name: synthetic, class_count: 1, size: [8, 8]}")
        assert outcome.code == 5
        assert "the data has one class, 'class_0'" in outcome.err


def test_all_that_the_recipe_declares_wrongly_is_said_at_once(project):
    data = two_classes(project.path / "data")
    outcome = project.run(*folders(data, ", num_classes: 3, train_images: 9"))
    assert outcome.code == 5
    assert "has train_images 16 and num_classes 2, the recipe declares 9 and 3; " in outcome.err
    assert "set dataset.train_images=16 dataset.num_classes=2" in outcome.err


def test_what_is_wrong_with_both_splits_is_said_at_once(project):
    data = two_classes(project.path / "data")
    outcome = project.run(*folders(data, ", train_images: 9, val_images: 9"))
    assert outcome.code == 5
    assert "error: the train split of class_folders has train_images 16, the recipe" in outcome.err
    assert "the val split of class_folders has val_images 8, the recipe declares 9" in outcome.err


def test_a_class_without_test_images(project):
    """A model is evaluated on images of some of its classes, where people say that they mean it."""
    assert project.run(*folders(two_classes(project.path / "data"))).code == 0
    make_images(project.path / "test", [f"val/cat/{at}.png" for at in range(3)])
    root = f"dataset.root={project.path}/test"
    folder = project.run_folder()
    outcome = project.runner("eval", folder, "--set", root, "--set", "dataset.num_classes=1")
    assert outcome.code == 6
    assert "missing dog (1); expected the 2 classes" in outcome.err
    assert "make an empty folder for each and set dataset.missing_classes=true" in outcome.err
    (project.path / "test/val/dog").mkdir()
    allowed = ("--set", root, "--set", "dataset.missing_classes=true", "--json")
    [result] = project.runner("eval", folder, *allowed).json
    assert result["metrics"]["val.count"] == 3


def test_classes_whose_names_look_the_same_are_refused(project):
    names = ("chien-\u00e9", "chien-e\u0301")
    make_images(
        project.path, [f"{split}/{name}/1.png" for split in ("train", "val") for name in names]
    )
    outcome = project.run(*folders(project.path))
    assert outcome.code == 5
    assert "two classes have names that look the same: " in outcome.err
    assert "U+0065 U+0301" in outcome.err


class TestUnreadable:
    """Images that cannot be read are found before the first step, where they are not skipped."""

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            (lambda path: path.write_bytes(b""), "is empty"),
            (lambda path: path.symlink_to("nowhere"), "leads nowhere"),
            (lambda path: path.mkdir(), "is not a file"),
            (os.mkfifo, "is not a file"),
        ],
    )
    def test_it_is_named(self, project, change: Callable[[Path], object], reason: str) -> None:
        data = two_classes(project.path / "data")
        (data / "val/dog/val2.png").unlink()
        change(data / "val/dog/val2.png")
        outcome = project.run(*folders(data))
        assert outcome.code == 5
        assert f"val: {data}/val/dog/val2.png {reason}; repair or remove the image" in outcome.err
        assert not (project.path / "runs").exists()

    def test_it_is_left_out_where_the_recipe_says_so(self, project) -> None:
        data = two_classes(project.path / "data")
        (data / "val/dog/val2.png").write_bytes(b"")
        skip = ("--set", "loader.damaged_images=skip", "--set", "loader.max_damaged=1")
        outcome = project.run(*folders(data), *skip)
        assert outcome.json["metrics"]["val.count"] == 7


class TestExplain:
    def test_the_plan_is_of_what_is_there(self, project):
        recipe = project.write_recipe()
        data = folders(two_classes(project.path / "data"), ", train_images: 1281167")
        text = project.runner("explain", recipe, *data).out
        assert "trains on 16 images (found in the data; the recipe declares 1,281,167)" in text
        assert "2 steps per epoch x 3 epochs = 6" in text
        assert "2 classes: cat, dog\n" in text
        assert "WILL BE REFUSED HERE: the train split of class_folders has train_images 16" in text
        plan = project.runner("explain", recipe, *data, "--json").json
        assert (plan["train_images"], plan["steps_per_epoch"]) == (16, 2)

    def test_all_refusals_are_said_at_once(self, project):
        data = folders(two_classes(project.path / "data"), ", num_classes: 3")
        few = (
            "--set",
            "train.batch_size=64",
            "--set",
            "distributed.min_devices=2",
            "--devices",
            "2",
        )
        plan = project.runner("explain", project.write_recipe(), *data, *few, "--json").json
        no_step, train, val = plan["refusals"]
        assert "an epoch has no step: 16 training images cannot fill one batch of 64" in no_step
        assert "the train split of class_folders has num_classes 2, the recipe declares 3" in train
        assert "the val split of class_folders has num_classes 2, the recipe declares 3" in val
        assert plan["refused"] == "; ".join(plan["refusals"])
        assert plan["steps_per_epoch"] is None
        text = project.runner("explain", project.write_recipe(), *data, *few).out
        assert text.count("WILL BE REFUSED HERE: ") == 3

    def test_data_that_is_not_there_is_refused(self, project):
        data = folders(project.path / "nowhere", ", train_images: 64")
        plan = project.runner("explain", project.write_recipe(), *data, "--json").json
        assert plan["train_images"] == 64
        [refused] = plan["refusals"]
        assert "nowhere does not exist" in refused


class TestSmoke:
    def smoke(self, project, *arguments: str):
        outcome = project.runner("run", project.write_recipe(), "--smoke", "--json", *arguments)
        events = project.events(project.run_folder("colours-smoke")) if outcome.code == 0 else []
        return outcome, {e["split"]: e for e in events if e["event"] == "data.smoke"}

    def test_it_has_some_of_the_images_that_are_there(self, project):
        data = two_classes(project.path / "data", train=20, val=9)
        outcome, told = self.smoke(project, *folders(data, ", train_images: 40, num_classes: 2"))
        assert (outcome.code, outcome.json["steps"]) == (0, 3)
        assert outcome.json["metrics"]["val.count"] == 5
        assert {split: (e["images"], e["of"]) for split, e in told.items()} == {
            "train": (12, 40),
            "val": (5, 18),
        }
        assert "train: 12 of the recipe's own 40 images" in outcome.err
        assert "val: 5 images, 2 classes" in outcome.err

    def test_two_images_are_enough(self, project):
        data = two_classes(project.path / "data", train=1, val=1)
        outcome, told = self.smoke(project, *folders(data))
        assert (outcome.code, outcome.json["steps"], told["train"]["of"]) == (0, 3, 2)

    def test_it_says_why_it_has_synthetic_ones(self, project):
        outcome, told = self.smoke(project, *folders(project.path / "nowhere", ", num_classes: 7"))
        assert outcome.code == 0
        reason = f"dataset root {project.path}/nowhere does not exist"
        assert told["train"]["synthetic_because"].startswith(reason)
        assert f"train: synthetic images, because the recipe's own cannot be used: {reason}" in (
            outcome.err
        )

    def test_explain_says_which(self, project):
        data = folders(two_classes(project.path / "data"))
        recipe = project.write_recipe()
        text = project.runner("explain", recipe, "--smoke", *data).out
        assert "trains on 12 images (for --smoke, of the recipe's own)" in text
        assert "dataset.name=class_folders" not in text
        text = project.runner("explain", recipe, "--smoke", *folders(project.path / "nowhere")).out
        assert "trains on 12 images (for --smoke, synthetic: dataset root " in text


OPEN = {entry.name: entry.open for entry in runner_register_datasets()}


def opened(root: Path, split: str) -> ImageFiles:
    images = OPEN["class_folders"](ClassFoldersOptions(root=str(root)), split)
    assert isinstance(images, ImageFiles)
    return images


def link_split(data: Path) -> None:
    (data / "val").rename(data / "unused")
    (data / "val").symlink_to("train", target_is_directory=True)


def link_files(data: Path, link: Callable[[Path, Path], object], *, both: bool = False) -> None:
    """Replace one validation image of each class by a link, or put both splits elsewhere."""
    for path in sorted(data.glob("val/*/val0.png")):
        original = data / "train" / path.parent.name / "train0.png"
        path.unlink()
        if both:
            pool = data / "pool" / path.parent.name
            pool.mkdir(parents=True)
            original = original.rename(pool / "0.png")
            link(data / "train" / path.parent.name / "train0.png", original)
        link(path, original)


def symbolic(path: Path, original: Path) -> None:
    path.symlink_to(original)


def hard(path: Path, original: Path) -> None:
    path.hardlink_to(original)


class TestOverlap:
    @pytest.fixture
    def data(self, tmp_path: Path) -> Path:
        return two_classes(tmp_path / "data")

    def count(self, data: Path) -> tuple[int, str]:
        found = duplicates.overlap(opened(data, "train"), opened(data, "val"))
        return found.images, os.path.relpath(found.example, data) if found.example else ""

    def test_splits_that_have_nothing_in_common(self, data: Path) -> None:
        assert self.count(data) == (0, "")

    def test_a_link_to_the_other_split(self, data: Path) -> None:
        link_split(data)
        assert self.count(data) == (16, "val/cat/train0.png")

    def test_a_class_that_is_a_link(self, data: Path) -> None:
        (data / "val/dog").rename(data / "unused")
        (data / "val/dog").symlink_to("../train/dog", target_is_directory=True)
        assert self.count(data) == (8, "val/dog/train0.png")

    @pytest.mark.parametrize("both", [False, True])
    @pytest.mark.parametrize("link", [symbolic, hard])
    def test_links_to_files(
        self, data: Path, link: Callable[[Path, Path], None], both: bool
    ) -> None:
        link_files(data, link, both=both)
        assert self.count(data) == (2, "val/cat/val0.png")

    def test_training_images_that_are_links(self, data: Path) -> None:
        (data / "train/cat/train0.png").unlink()
        (data / "train/cat/train0.png").symlink_to("../../val/cat/val3.png")
        assert self.count(data) == (1, "val/cat/val3.png")

    def test_links_of_many_images_are_looked_for_under_their_name(
        self, data: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(duplicates, "MANY", 10)
        link_files(data, symbolic)
        assert self.count(data) == (0, "")
        (data / "val/dog/train5.png").symlink_to("../../train/dog/train5.png")
        assert self.count(data) == (1, "val/dog/train5.png")

    def test_a_class_of_hard_links_to_another_is_refused(self, project, data: Path) -> None:
        for path in sorted((data / "train/cat").iterdir()):
            target = data / "train/kitten" / path.name
            target.parent.mkdir(exist_ok=True)
            target.hardlink_to(path)
        make_images(data, ["val/kitten/x.png"])
        outcome = project.run(*folders(data))
        assert outcome.code == 5
        assert "of the class 'kitten' every image (8) is the same file as one of 'cat'" in (
            outcome.err
        )

    def test_images_with_two_labels_are_told(self, project, data: Path) -> None:
        (data / "train/dog/again.png").hardlink_to(data / "train/cat/train2.png")
        lines = [
            "val/cat/val0.png 0",
            "val/cat/val1.png 0",
            "val/cat/val0.png 1",
            "val/dog/val0.png 1",
        ]
        (data / "val.txt").write_text("\n".join(lines))
        found = duplicates.two_labels(opened(data, "train"))
        assert (found.images, found.example) == (1, str(data / "train/dog/again.png"))
        assert duplicates.two_labels(opened(data, "val")).images == 0
        dataset = f"{{name: list_file, root: {data}, train_list: val.txt, val_list: val.txt}}"
        smaller = ("--set", "train.batch_size=2")
        outcome = project.run("--set", f"dataset={dataset}", *smaller)
        assert "warning: train: 1 image that another class has as well" in outcome.err

    def test_what_both_splits_lack_is_said_once(self, project, data: Path) -> None:
        (data / "val/dog").rename(data / "val/dogs")
        words = "the splits have different classes"
        assert project.run(*folders(data)).err.count(words) == 1
        text = project.runner("explain", project.write_recipe(), *folders(data)).out
        assert text.count(words) == 1
        assert "evaluates ? images (refused, see below)" in text

    def test_classes_without_images_are_said_once(self, project, data: Path) -> None:
        for split in ("train", "val"):
            (data / split / "cow").mkdir()
        (data / "train/pig").mkdir()
        shutil.copytree(data / "val/cat", data / "val/pig")
        for said in (
            project.run(*folders(data)).err,
            project.runner("explain", project.write_recipe(), *folders(data)).out,
        ):
            assert said.count("class folders without images") == 1
        [refused] = project.runner(
            "explain", project.write_recipe(), *folders(data), "--json"
        ).json["refusals"]
        assert f"images in {data}/train: cow, pig; in {data}/val: cow; expected files" in refused

    @pytest.mark.parametrize(
        ("train", "val", "words"),
        [("0 1", "0 1 2", "lists have different labels"), ("0 2", "0 2", "has label 1")],
    )
    def test_what_both_lists_lack_is_said_once(self, project, data: Path, train, val, words):
        for name, labels in (("train", train), ("val", val)):
            image = f"{name}/cat/{name}0.png"
            lines = [f"{image} {label}" for label in labels.split()]
            (data / f"{name}.txt").write_text("\n".join(lines))
        lists = "train_list: train.txt, val_list: val.txt"
        dataset = f"dataset={{name: list_file, root: {data}, {lists}}}"
        outcome = project.run("--set", dataset, "--set", "train.batch_size=2")
        assert outcome.code == 5
        assert outcome.err.count(words) == 1

    def test_lines_that_are_there_twice_are_counted_once(self, project, data: Path) -> None:
        lines = ["cat/val0.png 0", "dog/val0.png 1"]
        (data / "val.txt").write_text("\n".join(f"val/{line}" for line in [*lines, *lines]))
        lists = "train_list: val.txt, val_list: val.txt"
        dataset = f"dataset={{name: list_file, root: {data}, {lists}}}"
        outcome = project.run("--set", dataset, "--set", "train.batch_size=2")
        assert outcome.err.count("warning: val: 2 of 4 lines of the list name an image again") == 1
        [event] = [e for e in project.events() if e["event"] == "data.duplicates"]
        assert (event["images"], event["of"]) == (2, 4)

    def test_it_is_told_counted_and_in_the_result(self, project, data: Path) -> None:
        link_files(data, hard)
        outcome = project.run(*folders(data))
        assert outcome.code == 0
        assert outcome.json["val_images_in_train"] == 2
        [event] = [e for e in project.events() if e["event"] == "data.overlap"]
        assert (event["images"], event["of"]) == (2, 8)
        assert "warning: 2 of 8 validation images are training images (such as " in outcome.err

    def test_one_list_for_both_splits(self, project, data: Path) -> None:
        lines = [
            f"val/{name}/val{at}.png {label}\n"
            for label, name in enumerate(COLOURS)
            for at in range(4)
        ]
        (data / "all.txt").write_text("".join(lines))
        lists = (
            f"dataset={{name: list_file, root: {data}, train_list: all.txt, val_list: ./all.txt}}"
        )
        assert project.run("--set", lists).json["val_images_in_train"] == 8
        others = [line.replace("/val", "/train") for line in lines]
        (data / "train.txt").write_text("".join(others).replace("val/", "./train/"))
        apart = lists.replace("train_list: all", "train_list: train")
        assert project.run("--set", apart).json["val_images_in_train"] == 0

    def test_nothing_is_said_of_images_that_are_no_files(self, project) -> None:
        assert project.run().json["val_images_in_train"] is None


def repaint(path: Path) -> None:
    """Write other pixels of the same size in bytes, at the same time of modification."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def touch_all(data: Path) -> None:
    for path in data.glob("train/*/*.png"):
        os.utime(path, (10**9, 10**9))


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "new": (
        lambda data: make_images(data, ["train/dog/x.png", "train/dog/y.png"]),
        "2 new images: dog/x.png, dog/y.png",
    ),
    "gone": (
        lambda data: (data / "train/cat/train3.png").unlink(),
        "1 image gone: cat/train3",
    ),
    "another size": (
        lambda data: (data / "train/cat/train3.png").write_bytes(b"x"),
        "1 image with another size or content: cat/train3.png",
    ),
    "other pixels": (
        lambda data: repaint(data / "train/dog/train1.png"),
        "1 image with another size or content: dog/train1.png",
    ),
    "other times": (
        touch_all,
        "16 images with another time of modification and the same size: cat/train0.png, ",
    ),
}


class TestFileStates:
    @pytest.fixture
    def data(self, tmp_path: Path) -> Path:
        return two_classes(tmp_path / "data")

    @pytest.mark.parametrize("name", CHANGES)
    def test_a_change_is_named(self, data: Path, name: str) -> None:
        change, words = CHANGES[name]
        before = json.loads(json.dumps(file_states.describe(opened(data, "train"))))
        assert file_states.differences(before, opened(data, "train")) == []
        change(data)
        [found, *_] = file_states.differences(before, opened(data, "train"))
        assert found.startswith(words)

    def test_of_many_images_some_are_looked_at(
        self, data: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(file_states, "MOST", 4)
        before = file_states.describe(opened(data, "train"))
        assert len(before["images"]) == 4
        make_images(data, ["train/dog/x.png"])
        for path in data.glob("train/*/train0.png"):
            path.write_bytes(b"other")
        assert file_states.differences(before, opened(data, "train")) == [
            "1 class with another number of images: dog 8 -> 9",
            "1 image with another size or content of the 4 that were looked at: cat/train0.png",
        ]

    def test_copies_have_the_same_content(self, data: Path) -> None:
        before = file_states.content(opened(data, "train"))
        touch_all(data)
        assert file_states.content(opened(data, "train")) == before
        repaint(data / "train/dog/train1.png")
        assert file_states.content(opened(data, "train")) != before

    def test_names_that_are_not_utf_8_are_kept(self, data: Path) -> None:
        (data / "train/cat" / os.fsdecode(b"\xc3\x28\t.png")).write_bytes(b"x")
        before = json.loads(json.dumps(file_states.describe(opened(data, "train"))))
        assert file_states.differences(before, opened(data, "train")) == []


class TestResume:
    """A run that continues says what has changed in its data."""

    @pytest.fixture
    def run(self, project) -> Path:
        two_classes(project.path / "data")
        assert project.run(*folders(project.path / "data")).code == 0
        folder: Path = project.run_folder()
        (folder / "result.json").unlink()
        return folder

    def warnings(self, project, run: Path) -> list[str]:
        messages = [e["message"] for e in project.events(run) if e["event"] == "warning"]
        return [text for text in messages if "other conditions" in text]

    def test_nothing_is_said_where_nothing_has_changed(self, project, run: Path) -> None:
        assert project.runner("resume", run).code == 0
        assert self.warnings(project, run) == []

    def test_every_change_is_told(self, project, run: Path) -> None:
        make_images(project.path / "data", ["val/cat/new.png"])
        repaint(project.path / "data/train/dog/train1.png")
        outcome = project.runner("resume", run)
        assert outcome.code == 0
        [message] = self.warnings(project, run)
        assert "data.train: 1 image with another size or content: dog/train1.png" in message
        assert "data.val: images: 8 -> 9; data.val: 1 new image: cat/new.png" in message
        assert message in outcome.err

    def test_a_run_of_an_older_version_continues(self, project, run: Path) -> None:
        manifest = json.loads((run / "manifest.json").read_text())
        for split in manifest["data"].values():
            del split["files"], split["content"]
        del manifest["format"], manifest["checksum"]
        (run / "manifest.json").write_text(json.dumps(manifest))
        assert project.runner("resume", run).code == 0
        assert self.warnings(project, run) == []
        (run / "result.json").unlink()
        path = project.path / "data/train/dog/train1.png"
        path.rename(path.with_name("other.png"))
        assert project.runner("resume", run).code == 0
        [message] = self.warnings(project, run)
        assert "data.train: classes, labels or names of images are not those of before" in message


@pytest.mark.parametrize(
    ("setting", "split"),
    [("transforms.eval", "eval.batch_size"), ("transforms.train", "train.batch_size")],
)
def test_batches_that_no_memory_holds_are_refused_before_training(project, setting, split):
    """A few of them fit; the batches that are asked for do not."""
    huge = [
        f"dataset={{name: fake_colours, images: {3 * 10**5}}}",
        f"{setting}=[{{name: resize, exact: [8192, 8192]}}]",
        f"{split}={10**5}",
    ]
    given = [f"--set={text}" for text in huge]
    outcome = project.run(*given)
    assert outcome.code == 5
    assert " of 100,000 images of 8192 x 8192 pixels, and" in outcome.err.replace("\n", " ")
    assert not (project.path / "runs").exists()
    [refused] = project.runner("explain", project.write_recipe(), *given, "--json").json["refusals"]
    assert f"error: {refused}" in outcome.err

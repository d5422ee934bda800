"""``runner offline labels``, ``layout`` and ``info``: the files that other programs read."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

RECIPE = """\
summary: Images in some layout
framework: fake
device: fake_cpu
dataset: {DATASET}
transforms:
  eval: [{name: resize, exact: [8, 8]}]
model: linear
"""
BY_CLASS = "{name: class_folders, root: images}"
LABELS = {"val_4.JPEG": 0, "val_1.JPEG": 1, "val_3.JPEG": 1, "val_0.JPEG": 2, "val_2.JPEG": 2}


@pytest.fixture
def images(project):
    """Provide five images in three class folders, and a recipe for them."""
    for name, label in LABELS.items():
        folder = project.path / "images" / "val" / ["cat", "dog", "owl"][label]
        folder.mkdir(parents=True, exist_ok=True)
        shape = (10 + label, 20 + int(name[4]), 3)
        Image.fromarray(np.full(shape, 40 * label, np.uint8)).save(folder / name, "JPEG")
    write(project, "folders.yaml", BY_CLASS)
    return project.path / "images"


def write(project, name, dataset):
    (project.path / name).write_text(RECIPE.replace("{DATASET}", dataset))


def labels_of(project, recipe):
    outcome = project.runner("offline", "labels", recipe, "--output", "l.json")
    assert outcome.code == 0, outcome.err
    return json.loads((project.path / "l.json").read_text())


def test_both_forms_of_labels(project, images):
    assert labels_of(project, "folders.yaml") == LABELS
    outcome = project.runner("offline", "labels", "folders.yaml", "--output", "val_label.txt")
    assert outcome.out == "5 labels in val_label.txt\n"
    text = (project.path / "val_label.txt").read_text()
    assert text == "".join(f"{name} {label}\n" for name, label in LABELS.items())


def test_a_form_that_is_none(project, images):
    outcome = project.runner("offline", "labels", "folders.yaml", "--output", "labels.csv")
    assert outcome.code == 2
    assert "expected .txt for lines, or .json" in outcome.err


def test_class_folders_become_flat_and_folders_again(project, images):
    outcome = project.runner(
        "offline", "layout", "folders.yaml", "--to", "flat", "--output", "flat"
    )
    assert outcome.code == 0, outcome.err
    flat = project.path / "flat"
    assert sorted(path.name for path in flat.iterdir()) == [
        "class_names.txt",
        "val",
        "val_label.txt",
    ]
    assert {path.name for path in (flat / "val").iterdir()} == set(LABELS)
    write(
        project,
        "flat.yaml",
        "{name: flat_val_label, root: flat, class_names: class_names.txt, num_classes: 3}",
    )
    assert labels_of(project, "flat.yaml") == LABELS
    back = ("--to", "class_folders", "--output", "again")
    assert project.runner("offline", "layout", "flat.yaml", *back).code == 0
    for path in images.glob("val/*/*"):
        copy = project.path / "again" / path.relative_to(images)
        assert copy.resolve() == path.resolve()
    write(project, "again.yaml", "{name: class_folders, root: again}")
    assert labels_of(project, "again.yaml") == LABELS


def test_folders_that_would_get_other_labels_are_refused(project, images):
    (project.path / "list.txt").write_text("owl/val_0.JPEG 0\ncat/val_4.JPEG 1\n")
    (project.path / "names.txt").write_text("owl\ncat\n")
    write(
        project,
        "list.yaml",
        "{name: list_file, root: images/val, val_list: ../../list.txt,"
        " class_names: ../../names.txt}",
    )
    to = ("--to", "class_folders", "--output", "out")
    outcome = project.runner("offline", "layout", "list.yaml", *to)
    assert outcome.code == 5
    assert "not in sorted order: owl (label 0), cat (label 1)" in outcome.err
    (project.path / "names.txt").write_text("cat\nfox\nowl\n")
    outcome = project.runner("offline", "layout", "list.yaml", *to)
    assert outcome.code == 5
    assert "no image has the classes owl" in outcome.err
    assert not (project.path / "out").exists()


def test_images_that_are_no_files(project, images):
    write(project, "drawn.yaml", "fake_colours")
    outcome = project.runner("offline", "layout", "drawn.yaml", "--to", "flat", "--output", "out")
    assert outcome.code == 5
    assert "nothing to link to" in outcome.err


def test_two_images_with_one_name(project, images):
    (images / "val" / "cat" / "val_4.JPEG").rename(images / "val" / "cat" / "val_0.JPEG")
    for command in (("labels", "--output", "l.txt"), ("layout", "--to", "flat", "--output", "f")):
        outcome = project.runner("offline", command[0], "folders.yaml", *command[1:])
        assert outcome.code == 5
        assert "stand for several images: val_0" in outcome.err
    assert not (project.path / "f").exists()


def test_a_list_of_images_with_their_sizes(project, images):
    outcome = project.runner("offline", "info", "images/val/owl", "--output", "owl.info")
    assert outcome.code == 0, outcome.err
    assert (project.path / "owl.info").read_text() == (
        "0 images/val/owl/val_0.JPEG 20 12\n1 images/val/owl/val_2.JPEG 22 12\n"
    )


def test_a_list_of_pixel_files(project, images):
    bins = project.path / "bins"
    assert project.runner("offline", "pixels", "folders.yaml", "--output", "bins").code == 0
    size = ("--size", "8", "8")
    outcome = project.runner("offline", "info", "bins", "--output", "b.info", *size)
    assert outcome.out == "5 files in b.info\n"
    lines = (project.path / "b.info").read_text().splitlines()
    assert lines[4] == "4 bins/val_4.bin 8 8"
    (bins / "val_3.bin").write_bytes(b"123")
    outcome = project.runner("offline", "info", "bins", "--output", "b.info", *size)
    assert outcome.code == 5
    assert "val_3.bin has 3 bytes, expected 192 for 8 x 8 pixels" in outcome.err
    outcome = project.runner("offline", "info", "bins", "--output", "b.info")
    assert outcome.code == 2
    assert "say --size for .bin files" in outcome.err
    outcome = project.runner("offline", "info", "images", "--output", "b.info", *size)
    assert "leave --size out for images" in outcome.err


def test_a_name_with_a_line_break_goes_into_no_file_of_lines(project):
    folder = project.path / "data" / "val" / "ant"
    folder.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(folder / "a 0\nb.png")
    (project.path / "data" / "val" / "bee").mkdir()
    Image.new("RGB", (8, 8)).save(folder.parent / "bee" / "c.png")
    write(project, "odd.yaml", "{name: class_folders, root: data}")
    refused = project.runner("offline", "labels", "odd.yaml", "--output", "l.txt")
    assert refused.code == 5
    assert r"holds \n, so it cannot be a line of a file" in refused.err
    assert not (project.path / "l.txt").exists()
    assert project.runner("offline", "labels", "odd.yaml", "--output", "l.json").code == 0
    assert json.loads((project.path / "l.json").read_text()) == {"a 0\nb.png": 0, "c.png": 1}

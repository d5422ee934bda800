"""``runner offline pixels``: what the host writes, and what it leaves to the device."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from runner.artifacts.offline.pixels import PRESETS, Crop, on_host
from runner.data.samples import preprocess
from runner.data.transforms.apply import apply
from runner.data.transforms.options import CenterCrop, Resize
from runner.errors import DataError, UsageError


def resize(side):
    return Resize(name="resize", shorter_side=side)


def exact(height, width):
    return Resize(name="resize", exact=(height, width))


def crop(size):
    return CenterCrop(name="center_crop", size=size)


def photograph(width, height, seed=0):
    """Draw an image whose pixels all differ from their neighbours."""
    random = np.random.default_rng((seed, width, height))
    return Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))


SIZES = [
    (256, 256), (257, 256), (256, 257), (258, 256), (259, 256), (261, 256), (256, 263),
    (500, 375), (375, 500), (333, 500), (499, 331), (1000, 257), (64, 48), (47, 63), (31, 95),
    (255, 255), (225, 300), (640, 427), (427, 640), (300, 299),
]  # fmt: skip


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "steps", [(resize(256), crop(224)), (resize(32), crop(28)), (exact(40, 36), crop(27))]
)
def test_both_crops_together_are_the_evaluations(size, steps):
    image = photograph(*size)
    part = on_host(steps, device_crop=True)
    written = apply(image, part.transforms)
    assert written.shape == (part.height, part.width, 3)
    cut = part.crop
    assert cut is not None
    rows, columns = slice(cut.top, cut.top + cut.height), slice(cut.left, cut.left + cut.width)
    assert np.array_equal(written[rows, columns], apply(image, steps))


def test_the_documented_crop():
    part = on_host((resize(256), crop(224)), device_crop=True)
    assert (part.height, part.width) == (256, 256)
    assert part.crop == Crop(top=16, left=16, height=224, width=224)
    assert part.transforms == PRESETS["resnet"]


@pytest.mark.parametrize(("side", "size"), [(256, 226), (256, 225), (342, 299)])
def test_a_crop_that_rounds_otherwise_is_refused(side, size):
    steps = (resize(side), crop(size))
    with pytest.raises(UsageError, match="no multiple of 4"):
        on_host(steps, device_crop=True)
    # and rightly so: the offset that fits most images is wrong for some width
    margin = (side - size) // 2
    differs = []
    for width in range(side, side + 4):
        image = photograph(width, side)
        two = apply(image, (resize(side), crop(side)))
        shifted = two[margin : margin + size, margin : margin + size]
        differs.append(not np.array_equal(shifted, apply(image, steps)))
    assert any(differs)


@pytest.mark.parametrize(
    ("steps", "problem"),
    [
        ((exact(224, 224),), "ends with resize"),
        ((resize(200), crop(224)), "larger than the images of 200 pixels"),
        ((exact(224, 200), crop(224)), "larger than the images of 200 pixels"),
        ((crop(224),), "nothing tells how large"),
    ],
)
def test_what_a_device_cannot_take_over(steps, problem):
    with pytest.raises(UsageError, match=problem):
        on_host(steps, device_crop=True)
    assert on_host(steps, device_crop=False).crop is None


def test_steps_without_a_fixed_size():
    with pytest.raises(DataError, match="do not end at a fixed size"):
        on_host((resize(256),), device_crop=True)


RECIPE = """\
summary: Photographs in class folders
framework: fake
device: fake_cpu
dataset: {name: class_folders, root: images}
transforms:
  train:
    - {name: random_resized_crop, size: 16}
  eval:
    - {name: resize, shorter_side: 20}
    - {name: center_crop, size: 16}
model: linear
optimizer: {name: fake_sgd, learning_rate: 0.05}
schedule: {name: cosine}
train: {epochs: 1, batch_size: 4}
export: [{name: fake_npz}]
"""
STEPS = (resize(20), crop(16))


@pytest.fixture
def images(project):
    """Provide nine photographs in class folders, and a recipe that evaluates them."""
    (project.path / "photos.yaml").write_text(RECIPE)
    paths = []
    for index, (width, height) in enumerate(SIZES[11:20]):
        folder = project.path / "images" / "val" / ["cat", "dog", "owl"][index % 3]
        folder.mkdir(parents=True, exist_ok=True)
        paths.append(folder / f"val_{index:08}.resized.png")
        photograph(width, height).save(paths[-1])
    return paths


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_host_does_everything_unless_asked(project, images):
    outcome = project.runner("offline", "pixels", "photos.yaml", "--output", "bins")
    assert outcome.code == 0, outcome.err
    assert "9 files in bins, each uint8 [16, 16, 3]: the device only normalises" in outcome.out
    assert names(project.path / "bins") == [f"val_{index:08}.bin" for index in range(9)]
    for index, path in enumerate(images):
        expected = preprocess(path.read_bytes(), STEPS).tobytes()
        assert (project.path / "bins" / f"val_{index:08}.bin").read_bytes() == expected


def test_the_last_crop_may_be_left_to_the_device(project, images):
    arguments = ("photos.yaml", "--device-crop", "--output", "bins")
    outcome = project.runner("offline", "pixels", *arguments)
    assert "the device cuts 16 x 16 pixels at left 2, top 2, and normalises" in outcome.out
    data = (project.path / "bins" / "val_00000004.bin").read_bytes()
    pixels = np.frombuffer(data, np.uint8).reshape(20, 20, 3)
    assert np.array_equal(pixels[2:18, 2:18], preprocess(images[4].read_bytes(), STEPS))


def test_a_preset_needs_no_recipe(project, images):
    outcome = project.runner("offline", "pixels", "images", "--preset", "resnet", "--output", "b")
    assert outcome.code == 0, outcome.err
    assert len(names(project.path / "b")) == 9
    data = (project.path / "b" / "val_00000002.bin").read_bytes()
    assert len(data) == 196_608
    expected = preprocess(images[2].read_bytes(), (resize(256), crop(256)))
    assert data == expected.tobytes()
    for preset in ("inceptionv3", "inceptionv4"):
        project.runner("offline", "pixels", "images", "--preset", preset, "--output", preset)
        data = (project.path / preset / "val_00000002.bin").read_bytes()
        assert data == preprocess(images[2].read_bytes(), (resize(342), crop(299))).tobytes()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["images", "--preset", "resnet", "--device-crop"], "--preset is all that is done"),
        (["images", "--preset", "resnet", "--set", "seed=1"], "--preset is all that is done"),
        (["photos.yaml", "--workers", "3"], "--workers is for --preset"),
        (["photos.yaml", "--recipe", "photos.yaml"], "--recipe has no effect"),
        (["elsewhere", "--preset", "resnet"], "elsewhere is no folder"),
    ],
)
def test_what_has_no_effect_is_refused(project, images, arguments, problem):
    outcome = project.runner("offline", "pixels", *arguments, "--output", "bins")
    assert outcome.code == 2
    assert problem in outcome.err
    assert not (project.path / "bins").exists()


def test_images_that_would_share_a_file(project, images):
    images[0].rename(images[0].with_name("val_00000001.other.png"))
    outcome = project.runner("offline", "pixels", "photos.yaml", "--output", "bins")
    assert outcome.code == 5
    assert "up to its first dot, and 1 such names stand for several images" in outcome.err
    assert not (project.path / "bins").exists()


def test_nothing_is_left_of_a_folder_that_was_not_finished(project, images):
    images[8].write_bytes(images[8].read_bytes()[:200])
    before = names(project.path)
    outcome = project.runner("offline", "pixels", "photos.yaml", "--output", "bins")
    assert outcome.code == 5
    assert "val_00000008" in outcome.err
    assert names(project.path) == before
    outcome = project.runner("offline", "pixels", "images", "--preset", "resnet", "--output", "b")
    assert outcome.code == 5
    assert names(project.path) == before
    skip = ("--set", "loader.damaged_images=skip", "--set", "loader.max_damaged=1")
    outcome = project.runner("offline", "pixels", "photos.yaml", "--output", "bins", *skip)
    assert outcome.code == 0
    assert "8 files" in outcome.out


def test_folders_that_are_not_replaced(project, images):
    for output in ("images", "."):
        outcome = project.runner("offline", "pixels", "photos.yaml", "--output", output)
        assert outcome.code == 2
    (project.path / "empty").mkdir()
    outcome = project.runner("offline", "pixels", "photos.yaml", "--output", "empty")
    assert outcome.code == 0
    assert len(names(project.path / "empty")) == 9


def test_an_artifact_says_what_its_device_does(project, images):
    (project.path / "images" / "train").symlink_to(project.path / "images" / "val")
    assert project.runner("run", "photos.yaml").code == 0
    artifact = project.run_folder("photos") / "exports" / "fake_npz"
    outcome = project.runner("offline", "pixels", artifact, "--output", "whole")
    assert "each uint8 [16, 16, 3]" in outcome.out
    outcome = project.runner("offline", "pixels", artifact, "--device-crop", "--output", "b")
    assert outcome.code == 2
    assert "says itself what its device does" in outcome.err
    record = json.loads((artifact / "artifact.json").read_text())
    del record["checksum"]
    record["info"]["details"]["device_crop"] = True
    (artifact / "artifact.json").write_text(json.dumps(record))
    outcome = project.runner("offline", "pixels", artifact, "--output", "larger")
    assert "each uint8 [20, 20, 3]" in outcome.out
    copy = project.path / "elsewhere"
    artifact.rename(copy)
    outcome = project.runner("offline", "pixels", copy, "--output", "c")
    assert outcome.code == 2
    assert "--recipe" in outcome.err
    named = ("--recipe", "photos.yaml", "--output", "c")
    assert project.runner("offline", "pixels", copy, *named).code == 0
    assert names(project.path / "c") == names(project.path / "larger")

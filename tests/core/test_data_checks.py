"""What a run says of data that it can read, and that is not what people believe it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
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

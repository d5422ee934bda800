"""One decoding for training, evaluation, prediction, exports and files for other programs."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from tests.core.conftest import RECIPE

if TYPE_CHECKING:
    from tests.core.conftest import Outcome, Project

FOLDERS = "dataset: {name: class_folders, root: data%s}"
EXPORT = "export:\n  - {name: fake_npz, verify_images: 4}\n"


def save(path: Path, orientation: int, colour: int) -> None:
    """Save a picture whose halves differ, so that turning it changes what a model sees."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((8, 8, 3), 20, np.uint8)
    pixels[:3, :, colour] = 250
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif)


@pytest.fixture
def photos(project: Project) -> Project:
    for split, each in (("train", 8), ("val", 3)):
        for label, name in enumerate("ab"):
            for number in range(each):
                orientation = 6 if number % 2 else 1
                save(project.path / f"data/{split}/{name}/{name}{number}.png", orientation, label)
    return project


def run(project: Project, keys: str = "") -> Outcome:
    text = RECIPE.replace("dataset: fake_colours", FOLDERS % keys) + EXPORT
    (project.path / "photos.yaml").write_text(text)
    return project.runner("run", "photos.yaml", "--json")


def notices(project: Project) -> list[tuple[str, int | None, int | None]]:
    events = project.events(project.run_folder("photos"))
    return [
        (event["split"], event["images"], event["read"])
        for event in events
        if event["event"] == "data.noticed"
    ]


def predictions(outcome: Outcome) -> dict[str, str]:
    assert outcome.code == 0, outcome.err
    rows = list(csv.DictReader(io.StringIO(outcome.out)))
    return {f"{Path(row['image']).name} {row['rank']}": row["probability"] for row in rows}


def test_images_that_are_left_turned_are_counted_and_reported_once(photos: Project) -> None:
    outcome = run(photos)
    assert outcome.code == 0, outcome.err
    assert sorted(notices(photos), key=str) == [
        ("train", 8, 16),
        ("train", None, None),
        ("val", 2, 6),
        ("val", None, None),
    ]
    assert "train: 8 of 16 images are stored turned and were not put upright" in outcome.err
    assert outcome.err.count("EXIF orientation 6 is not applied") == 2
    assert "set it to apply" in outcome.err


def test_images_are_upright_everywhere_where_the_recipe_says_so(photos: Project) -> None:
    outcome = run(photos, ", exif_orientation: apply")
    assert outcome.code == 0, outcome.err
    assert notices(photos) == []
    folder = photos.run_folder("photos")
    artifact = folder / "exports/fake_npz"
    assert json.loads((artifact / "artifact.json").read_text())["decoding"] == {
        "exif_orientation": "apply",
        "grey_bits": 16,
    }
    upright = photos.path / "upright/a1.png"
    upright.parent.mkdir()
    with Image.open(photos.path / "data/val/a/a1.png") as stored:
        stored.transpose(Image.Transpose.ROTATE_270).save(upright)
    for model in (folder, artifact):
        expected = predictions(ask(photos, model, "upright/a1.png"))
        assert predictions(ask(photos, model, "data/val/a/a1.png")) == expected
        found = predictions(ask(photos, model, "data/val/a"))
        assert expected.items() <= found.items(), "alone or in a folder"
    assert photos.runner("verify", artifact).code == 0
    assert photos.runner("eval", artifact).code == 0
    assert "EXIF" not in photos.runner("eval", folder).err
    done = photos.runner("offline", "pixels", artifact, "--output", "pixels")
    assert done.code == 0, done.err
    written = np.fromfile(photos.path / "pixels/a1.bin", np.uint8).reshape(8, 8, 3)
    with Image.open(upright) as image:
        assert np.array_equal(written, np.asarray(image))


def ask(project: Project, model: Path, images: str) -> Outcome:
    return project.runner("predict", model, images, "--format", "csv", "--top", "2")


def test_predict_reports_what_was_left_turned(photos: Project) -> None:
    assert run(photos).code == 0
    outcome = ask(photos, photos.run_folder("photos"), "data/val/a")
    assert "images: 1 of 3 images are stored turned" in outcome.err
    assert "EXIF" not in outcome.out


def test_pixels_of_a_preset_are_as_stored_which_is_said(photos: Project) -> None:
    done = photos.runner(
        "offline", "pixels", "data/val/a", "--preset", "resnet", "--output", "pixels"
    )
    assert done.code == 0, done.err
    assert "images: 1 of 3 images are stored turned" in done.err


def test_an_artifact_of_an_earlier_version_leaves_images_as_they_are(photos: Project) -> None:
    assert run(photos).code == 0
    artifact = photos.run_folder("photos") / "exports/fake_npz"
    before = predictions(ask(photos, artifact, "data/val/a/a1.png"))
    record: dict[str, Any] = json.loads((artifact / "artifact.json").read_text())
    for key in ("decoding", "checksum"):  # as the first versions wrote it
        del record[key]
    (artifact / "artifact.json").write_text(json.dumps(record))
    assert predictions(ask(photos, artifact, "data/val/a/a1.png")) == before


def test_a_run_continues_with_the_decoding_that_it_began_with(photos: Project) -> None:
    assert run(photos).code == 0
    folder = photos.run_folder("photos")
    (folder / "result.json").unlink()
    outcome = photos.runner("resume", folder, "--set", "dataset.exif_orientation=apply")
    assert outcome.code == 2
    assert "would turn it into a different experiment" in outcome.err


def test_a_truncated_image_is_found_whatever_a_plugin_sets(
    photos: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import ImageFile

    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    damaged = photos.path / "data/train/a/a0.png"
    damaged.write_bytes(damaged.read_bytes()[:60])
    outcome = run(photos)
    assert outcome.code == 5
    assert "a0.png: cannot be decoded" in outcome.err

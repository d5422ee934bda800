"""The steps themselves, and their equality with torchvision's on PIL images."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from runner.data.decode import to_array
from runner.data.samples import preprocess
from runner.data.transforms.apply import (
    apply,
    center_crop,
    change_color,
    crop,
    flip,
    resize,
    resized_crop_box,
)
from runner.data.transforms.options import (
    CenterCrop,
    ColorJitter,
    HorizontalFlip,
    RandomCrop,
    RandomResizedCrop,
    Resize,
    Transform,
    output_size,
    random_steps,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIZES = [(500, 375), (375, 500), (333, 500), (97, 31), (224, 224), (1, 9)]


def picture(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(width * height).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def pixels_of(image: Image.Image | NDArray[np.uint8]) -> NDArray[np.uint8]:
    return image if isinstance(image, np.ndarray) else to_array(image)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def functional() -> Any:
    return pytest.importorskip("torchvision.transforms.v2.functional")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("as_array", [False, True])
class TestSamePixelsAsTorchvision:
    def image(self, size: tuple[int, int], as_array: bool) -> Image.Image | NDArray[np.uint8]:
        return to_array(picture(*size)) if as_array else picture(*size)

    @pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
    @pytest.mark.parametrize("shorter_side", [256, 20])
    def test_resize_of_the_shorter_side(
        self,
        functional: Any,
        size: tuple[int, int],
        as_array: bool,
        interpolation: Any,
        shorter_side: int,
    ) -> None:
        step = Resize(name="resize", shorter_side=shorter_side, interpolation=interpolation)
        mode = functional.InterpolationMode(interpolation)
        expected = functional.resize(picture(*size), [shorter_side], mode)
        assert np.array_equal(apply(self.image(size, as_array), [step]), np.asarray(expected))

    def test_exact_resize(self, functional: Any, size: tuple[int, int], as_array: bool) -> None:
        step = Resize(name="resize", exact=(25, 60))
        expected = functional.resize(picture(*size), [25, 60])
        assert np.array_equal(apply(self.image(size, as_array), [step]), np.asarray(expected))

    @pytest.mark.parametrize("side", [224, 30, 31, 400])
    def test_center_crop(
        self, functional: Any, size: tuple[int, int], as_array: bool, side: int
    ) -> None:
        expected = functional.center_crop(picture(*size), [side])
        found = pixels_of(center_crop(self.image(size, as_array), side))
        assert np.array_equal(found, np.asarray(expected))

    def test_crop_and_resize(self, functional: Any, size: tuple[int, int], as_array: bool) -> None:
        left, top, width, height = resized_crop_box(size, (0.08, 1), (3 / 4, 4 / 3), rng())
        expected = functional.resized_crop(picture(*size), top, left, height, width, [224, 224])
        cropped = crop(self.image(size, as_array), left, top, width, height)
        found = pixels_of(resize(cropped, (224, 224), "bilinear"))
        assert np.array_equal(found, np.asarray(expected))

    def test_flip_and_colours(self, functional: Any, size: tuple[int, int], as_array: bool) -> None:
        changes = [("brightness", 0.7), ("contrast", 1.4), ("saturation", 0.6)]
        expected = functional.horizontal_flip(picture(*size))
        for adjust, factor in changes:
            expected = getattr(functional, f"adjust_{adjust}")(expected, factor)
        found = change_color(flip(self.image(size, as_array)), changes)
        assert np.array_equal(pixels_of(found), np.asarray(expected))


def test_random_crop_pads_with_black() -> None:
    image = to_array(picture(8, 8))
    step = RandomCrop(name="random_crop", size=8, padding=2)
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)))
    crops = {
        padded[top : top + 8, left : left + 8].tobytes(): (top, left)
        for top in range(5)
        for left in range(5)
    }
    found = {crops[apply(image, [step], rng(seed)).tobytes()] for seed in range(200)}
    assert found == set(crops.values())


def test_random_crop_needs_a_large_enough_image() -> None:
    step = RandomCrop(name="random_crop", size=32, padding=4)
    with pytest.raises(ValueError, match=r"20 x 30 pixels, too few .*add a resize before it"):
        apply(picture(20, 30), [step], rng())


def test_random_resized_crop_draws_area_and_aspect_evenly() -> None:
    random = rng()
    width, height = 500, 375
    boxes = [
        resized_crop_box((width, height), (0.08, 1), (3 / 4, 4 / 3), random) for _ in range(4000)
    ]
    left, top, w, h = np.array(boxes).T
    assert min(left.min(), top.min()) >= 0
    assert (left + w).max() <= width
    assert (top + h).max() <= height
    area, aspect = w * h / (width * height), w / h
    # Large boxes that do not fit are drawn again, so the mean is below 0.54; torchvision's is
    # 0.434 for images of this size.
    assert 0.42 < area.mean() < 0.45
    assert 0.07 < area.min() < 0.1
    assert 0.74 < aspect.min() < 0.76
    assert 1.32 < aspect.max() < 1.35
    assert 0.02 < np.log(aspect).mean() < 0.045
    assert 0.47 < (left[w < 300] / (width - w[w < 300])).mean() < 0.53


@pytest.mark.parametrize(
    ("size", "box"), [((400, 10), (193, 0, 13, 10)), ((10, 400), (0, 193, 10, 13))]
)
def test_random_resized_crop_falls_back_to_the_middle(
    size: tuple[int, int], box: tuple[int, int, int, int]
) -> None:
    assert resized_crop_box(size, (1.0, 1.0), (3 / 4, 4 / 3), rng()) == box


def test_flip_happens_with_its_probability() -> None:
    image = to_array(picture(4, 4))
    step = HorizontalFlip(name="horizontal_flip", probability=0.25)
    random = rng()
    flipped = [np.array_equal(apply(image, [step], random), image[:, ::-1]) for _ in range(2000)]
    assert 0.22 < np.mean(flipped) < 0.28


def test_color_jitter_stays_in_its_range_and_changes_order() -> None:
    grey = np.full((4, 4, 3), 100, np.uint8)
    step = ColorJitter(name="color_jitter", brightness=0.4)
    means = np.array([apply(grey, [step], rng(seed)).mean() for seed in range(300)])
    assert 59 <= means.min() < 65
    assert 135 < means.max() <= 140
    full = ColorJitter(name="color_jitter", brightness=0.4, contrast=0.4, saturation=0.4)
    image = to_array(picture(16, 16))
    assert not np.array_equal(apply(image, [full], rng(1)), apply(image, [full], rng(2)))
    assert np.array_equal(apply(image, [ColorJitter(name="color_jitter")], rng(1)), image)


def test_a_random_step_needs_randomness() -> None:
    with pytest.raises(ValueError, match="horizontal_flip is random"):
        apply(picture(4, 4), [HorizontalFlip(name="horizontal_flip")])


EVAL: list[Transform] = [
    Resize(name="resize", shorter_side=40),
    CenterCrop(name="center_crop", size=32),
]


def test_preprocess_takes_files_and_pixels(tmp_path: Any) -> None:
    file = tmp_path / "a.png"
    picture(50, 60).save(file)
    expected = apply(picture(50, 60), EVAL)
    assert np.array_equal(preprocess(file.read_bytes(), EVAL), expected)
    assert np.array_equal(preprocess(to_array(picture(50, 60)), EVAL), expected)


@pytest.mark.parametrize(
    ("steps", "size"),
    [
        ([], None),
        ([Resize(name="resize", shorter_side=256)], None),
        (EVAL, (32, 32)),
        ([Resize(name="resize", exact=(20, 30))], (20, 30)),
        ([Resize(name="resize", exact=(20, 30)), Resize(name="resize", shorter_side=10)], (10, 15)),
        ([RandomResizedCrop(name="random_resized_crop", size=7)], (7, 7)),
        ([RandomCrop(name="random_crop", size=7), HorizontalFlip(name="horizontal_flip")], (7, 7)),
    ],
)
def test_output_size(steps: list[Transform], size: tuple[int, int] | None) -> None:
    assert output_size(steps) == size
    if size:
        assert apply(picture(33, 44), steps, rng()).shape == (*size, 3)


def test_random_steps_are_named() -> None:
    assert random_steps(EVAL) == ()
    assert random_steps([*EVAL, HorizontalFlip(name="horizontal_flip")]) == ("horizontal_flip",)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"name": "resize"}, "needs one of shorter_side"),
        ({"name": "resize", "shorter_side": 8, "exact": (8, 8)}, "needs one of shorter_side"),
        ({"name": "random_resized_crop", "size": 8, "scale": (0.5, 0.1)}, r"scale is \[0.5, 0.1\]"),
        ({"name": "random_resized_crop", "size": 8, "scale": (0.5, 1.5)}, r"scale is \[0.5, 1.5\]"),
        ({"name": "random_resized_crop", "size": 8, "ratio": (0.0, 1.0)}, r"ratio is \[0.0, 1.0\]"),
    ],
)
def test_impossible_options_are_refused(step: dict[str, Any], message: str) -> None:
    adapter: TypeAdapter[Transform] = TypeAdapter(Transform)
    with pytest.raises(ValidationError, match=message):
        adapter.validate_json(json.dumps(step))

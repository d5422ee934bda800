"""Apply transforms to decoded images.

Resizing, cropping and colour changes give the pixels of torchvision's transforms on PIL images:
an antialiasing resize (Pillow's), crops that are cut before they are resized, and offsets that
round half to even. Random parameters follow the same distributions as torchvision's, but come
from a generator of the image's own.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Union

import numpy as np
from PIL import Image, ImageEnhance

from runner.data.decode import to_array
from runner.data.size_limits import MAX_PIXELS
from runner.data.transforms.options import (
    CenterCrop,
    ColorJitter,
    HorizontalFlip,
    RandomCrop,
    RandomResizedCrop,
    Resize,
    crop_offset,
    shorter_side_size,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from runner.data.transforms.options import Transform

Decoded = Union["Image.Image", "NDArray[np.uint8]"]
"""An RGB image as Pillow decoded it, or its pixels ``[H, W, C]``."""

_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
_COLOR_CHANGES = {
    "brightness": ImageEnhance.Brightness,
    "contrast": ImageEnhance.Contrast,
    "saturation": ImageEnhance.Color,
}
_CROP_ATTEMPTS = 10


class TooLargeError(ValueError):
    """A step would make an image of more than ``MAX_PIXELS`` pixels of this one."""


def apply(
    image: Decoded, transforms: Sequence[Transform], random: np.random.Generator | None = None
) -> NDArray[np.uint8]:
    """Apply ``transforms`` in order.

    Args:
        image: What was decoded; it is not changed.
        transforms: The steps of a recipe.
        random: Source of random parameters; may be left out if no step is random.

    Returns:
        Pixels ``[H, W, C]``.

    Raises:
        TooLargeError: A step would make a huge image of this one.
        ValueError: The image does not fit a step, such as a crop that is larger than the image.
    """
    for transform in transforms:
        image = _step(image, transform, random)
    return image if isinstance(image, np.ndarray) else to_array(image)


def _step(image: Decoded, transform: Transform, random: np.random.Generator | None) -> Decoded:
    if isinstance(transform, Resize):
        return _resize_as_told(image, transform)
    if isinstance(transform, CenterCrop):
        return center_crop(image, transform.size)
    if random is None:
        raise ValueError(f"{transform.name} is random; evaluation and prediction must not be")
    if isinstance(transform, RandomResizedCrop):
        left, top, width, height = resized_crop_box(
            _size(image), transform.scale, transform.ratio, random
        )
        cropped = crop(image, left, top, width, height)
        return resize(cropped, (transform.size, transform.size), transform.interpolation)
    if isinstance(transform, RandomCrop):
        return _random_crop(image, transform, random)
    if isinstance(transform, HorizontalFlip):
        return flip(image) if random.random() < transform.probability else image
    return _color_jitter(image, transform, random)


def resize(image: Decoded, size: tuple[int, int], interpolation: str) -> Decoded:
    """Resize to ``size`` (height, width) with antialiasing."""
    height, width = size
    if _size(image) == (width, height):
        return image
    if width * height > MAX_PIXELS:  # as of a thin line whose shorter side grows
        have = "{} x {}".format(*_size(image))
        raise TooLargeError(
            f"of {have} pixels resize would make {width} x {height}, more than {MAX_PIXELS:,}; "
            "remove the image, or resize to an exact size"
        )
    return _pillow(image).resize((width, height), _FILTERS[interpolation])


def crop(image: Decoded, left: int, top: int, width: int, height: int) -> Decoded:
    """Cut a box out of an image; what lies outside of the image is black."""
    have_width, have_height = _size(image)
    if (left, top, width, height) == (0, 0, have_width, have_height):
        return image
    inside = left >= 0 and top >= 0 and left + width <= have_width and top + height <= have_height
    if isinstance(image, np.ndarray) and inside:
        return image[top : top + height, left : left + width]
    return _pillow(image).crop((left, top, left + width, top + height))


def center_crop(image: Decoded, size: int) -> Decoded:
    """Cut a square from the middle, as torchvision does; smaller images are padded with black."""
    width, height = _size(image)
    return crop(image, crop_offset(width, size), crop_offset(height, size), size, size)


def flip(image: Decoded) -> Decoded:
    """Mirror left to right."""
    if isinstance(image, np.ndarray):
        return image[:, ::-1]
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def change_color(image: Decoded, changes: Iterable[tuple[str, float]]) -> Decoded:
    """Change brightness, contrast and saturation by factors around 1, in the order given.

    They blend with black, with the mean grey, and with the grey image.
    """
    for name, factor in changes:
        image = _COLOR_CHANGES[name](_pillow(image)).enhance(factor)
    return image


def resized_crop_box(
    size: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
    random: np.random.Generator,
) -> tuple[int, int, int, int]:
    """Draw the box of a random resized crop, by torchvision's rules.

    The area is uniform, the aspect ratio log-uniform; after ten boxes that do not fit, the box is
    the largest centred one within the bounds of ``ratio`` (Szegedy et al., "Going deeper with
    convolutions", 2014).

    Args:
        size: Width and height of the image.
        scale: Bounds of the box's share of the area.
        ratio: Bounds of width / height.
        random: Source of the numbers.

    Returns:
        Left, top, width and height.
    """
    width, height = size
    log_ratio = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(_CROP_ATTEMPTS):
        area = width * height * _uniform(random, *scale)
        aspect = math.exp(_uniform(random, *log_ratio))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top = int(random.integers(0, height - h, endpoint=True))
            left = int(random.integers(0, width - w, endpoint=True))
            return left, top, w, h
    w = min(width, max(1, round(height * ratio[1])))
    h = min(height, max(1, round(width / ratio[0])))
    return (width - w) // 2, (height - h) // 2, w, h


def _resize_as_told(image: Decoded, transform: Resize) -> Decoded:
    if transform.exact is not None:
        return resize(image, transform.exact, transform.interpolation)
    assert transform.shorter_side is not None, "the options class demands one of the two"
    width, height = _size(image)
    size = shorter_side_size(height, width, transform.shorter_side)
    return resize(image, size, transform.interpolation)


def _random_crop(image: Decoded, transform: RandomCrop, random: np.random.Generator) -> Decoded:
    size, padding = transform.size, transform.padding
    width, height = _size(image)
    if min(width, height) + 2 * padding < size:
        raise ValueError(
            f"the image has {width} x {height} pixels, too few for random_crop with size {size} "
            f"and padding {padding}; add a resize before it, or a larger padding"
        )
    top = int(random.integers(0, height + 2 * padding - size, endpoint=True))
    left = int(random.integers(0, width + 2 * padding - size, endpoint=True))
    return crop(image, left - padding, top - padding, size, size)


def _color_jitter(image: Decoded, transform: ColorJitter, random: np.random.Generator) -> Decoded:
    strengths = (transform.brightness, transform.contrast, transform.saturation)
    factors = [_uniform(random, max(0.0, 1 - s), 1 + s) for s in strengths]
    changes = list(zip(_COLOR_CHANGES, factors, strict=True))
    order = random.permutation(len(changes))
    return change_color(image, [changes[which] for which in order if strengths[which] > 0])


def _uniform(random: np.random.Generator, low: float, high: float) -> float:
    return low + (high - low) * random.random()


def _size(image: Decoded) -> tuple[int, int]:
    """Return width and height."""
    if isinstance(image, np.ndarray):
        return image.shape[1], image.shape[0]
    return image.size


def _pillow(image: Decoded) -> Image.Image:
    if isinstance(image, np.ndarray):
        return Image.fromarray(np.ascontiguousarray(image))
    return image

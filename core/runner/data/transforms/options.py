"""The steps from a decoded image to the network's input; one options class each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Union

from annotated_types import Ge, Gt, Le
from pydantic import Discriminator

from runner.data.size_limits import MAX_SIDE
from runner.errors import DataError
from runner.options import options

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Fraction = Annotated[float, Ge(0), Le(1)]
Pixels = Annotated[int, Gt(0), Le(MAX_SIDE)]


@options
class RandomResizedCrop:
    """Crop a random area and aspect ratio, and resize it to a square."""

    name: Literal["random_resized_crop"]
    size: Pixels
    """Height and width of the result, in pixels."""
    scale: tuple[float, float] = (0.08, 1.0)
    """Smallest and largest share of the image's area."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Smallest and largest width / height."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """Filter of the resize, always antialiased."""

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale is {list(self.scale)}, expected 0 < smallest <= largest <= 1")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"ratio is {list(self.ratio)}, expected 0 < smallest <= largest")


@options
class RandomCrop:
    """Pad the image with black and crop a random square (the usual CIFAR augmentation)."""

    name: Literal["random_crop"]
    size: Pixels
    """Height and width of the result, in pixels."""
    padding: Annotated[int, Ge(0), Le(MAX_SIDE)] = 0
    """Black pixels added on each side first."""


@options
class HorizontalFlip:
    """Mirror the image left to right with a probability."""

    name: Literal["horizontal_flip"]
    probability: Fraction = 0.5
    """Share of images that are mirrored."""


@options
class ColorJitter:
    """Change brightness, contrast and saturation by random factors, in random order."""

    name: Literal["color_jitter"]
    brightness: Annotated[float, Ge(0)] = 0.0
    """The factor is drawn from [1 - brightness, 1 + brightness], and not below 0."""
    contrast: Annotated[float, Ge(0)] = 0.0
    """The same for the distance to the image's mean grey."""
    saturation: Annotated[float, Ge(0)] = 0.0
    """The same for the distance to the image in grey."""


@options
class Resize:
    """Resize the shorter side, or both sides to an exact size whatever the aspect ratio."""

    name: Literal["resize"]
    shorter_side: Pixels | None = None
    """Length of the shorter side in pixels; the aspect ratio stays."""
    exact: tuple[Pixels, Pixels] | None = None
    """Height and width."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """Filter of the resize, always antialiased."""

    def __post_init__(self) -> None:
        if (self.shorter_side is None) == (self.exact is None):
            raise ValueError(
                "resize needs one of shorter_side (keeps the aspect ratio) "
                "and exact ([height, width])"
            )


@options
class CenterCrop:
    """Cut a square from the middle; offsets round half to even, as in torchvision."""

    name: Literal["center_crop"]
    size: Pixels
    """Height and width of the result, in pixels."""


GREY_LEVELS = 255
LEAST_STD = 0.003
"""Smallest standard deviation that is believed, on [0, 1]: 1/255, which leaves pixels at a scale of
255 for networks that were trained so, is above it; a usual one divided by 255 twice is below."""


Transform = Annotated[
    Union[RandomResizedCrop, RandomCrop, HorizontalFlip, ColorJitter, Resize, CenterCrop],  # noqa: UP007
    Discriminator("name"),
]


def output_size(transforms: Sequence[Transform]) -> tuple[int, int] | None:
    """Return the height and width of every image after ``transforms``.

    Returns:
        ``None`` if they depend on the image, as after a resize of the shorter side alone.
    """
    size: tuple[int, int] | None = None
    for transform in transforms:
        if isinstance(transform, (RandomResizedCrop, RandomCrop, CenterCrop)):
            size = (transform.size, transform.size)
        elif isinstance(transform, Resize) and transform.exact is not None:
            size = transform.exact
        elif isinstance(transform, Resize) and transform.shorter_side is not None and size:
            size = shorter_side_size(*size, transform.shorter_side)
    return size


def largest_size(transforms: Sequence[Transform]) -> tuple[int, int]:
    """Return height and width of the largest image on the way through ``transforms``.

    Of an image whose shorter side is resized both sides are at least that; what comes before any
    step is not known.
    """
    found = [(1, 1)]
    for count, step in enumerate(transforms, 1):
        side = (step.shorter_side if isinstance(step, Resize) else None) or 1
        found.append(output_size(transforms[:count]) or (side, side))
    return max(found, key=lambda size: size[0] * size[1])


def fixed_size(transforms: Sequence[Transform]) -> tuple[int, int]:
    """Return the height and width of every image after ``transforms``.

    Raises:
        DataError: They depend on the image.
    """
    size = output_size(transforms)
    if size is None:
        raise DataError(
            "the transforms do not end at a fixed size; "
            "add {name: center_crop, size: 224} or {name: resize, exact: [224, 224]}"
        )
    return size


def off_scale(mean: Sequence[float], std: Sequence[float]) -> Iterator[tuple[str, str]]:
    """Yield ``mean`` or ``std``, and what is wrong, where they cannot be of pixels in [0, 1]."""
    for key, values, example in (("mean", mean, "0.485"), ("std", std, "0.229")):
        if max(values) > 1:
            divided = ", ".join(f"{value / GREY_LEVELS:.4g}" for value in values)
            yield (
                key,
                f"expected values of pixels scaled to [0, 1], such as {example}, got "
                f"{list(values)}, which are of pixels from 0 to 255; divide by 255: [{divided}]",
            )
        elif min(values) < 0:
            yield key, f"expected values from 0 to 1, such as {example}, got {list(values)}"
    if max(std) < LEAST_STD:
        times = ", ".join(f"{value * GREY_LEVELS:.4g}" for value in std)
        yield (
            "std",
            f"got {list(std)}, less than one grey level, 1/255; divided by 255 twice? "
            f"Expected values of pixels scaled to [0, 1]: [{times}]",
        )


def shorter_side_size(height: int, width: int, shorter_side: int) -> tuple[int, int]:
    """Return the size whose shorter side is ``shorter_side``; the other is rounded down."""
    if height <= width:
        return shorter_side, shorter_side * width // height
    return shorter_side * height // width, shorter_side


def crop_offset(have: int, want: int) -> int:
    """Return where a crop of ``want`` pixels from the middle of ``have`` begins.

    Halves round to even; of a crop that is larger the border before the image is the smaller one.
    """
    if want > have:
        return -((want - have) // 2)
    return round((have - want) / 2)


def random_steps(transforms: Sequence[Transform]) -> tuple[str, ...]:
    """Return the names of the steps that change an image at random."""
    return tuple(step.name for step in transforms if not isinstance(step, (Resize, CenterCrop)))


def check_not_random(transforms: Sequence[Transform]) -> None:
    """Refuse transforms for evaluation that change an image at random.

    Raises:
        DataError: One does.
    """
    names = random_steps(transforms)
    if names:
        raise DataError(
            f"transforms.eval has random steps: {', '.join(names)}; "
            "expected resize and center_crop only"
        )

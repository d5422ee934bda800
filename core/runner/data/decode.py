"""Encoded images to RGB pixels, with Pillow.

Pixels are those of ``PIL.Image.open(file).convert("RGB")``, as in torchvision's image folders:
transparency is dropped, CMYK is converted without a colour profile, of an animation the first
frame is taken, and the EXIF orientation is not applied. Images with 16 bits per channel keep
their upper 8 bits (Pillow alone would clip 16-bit grey to white).

Pillow detects truncated files; changed bytes inside an otherwise complete JPEG decode to wrong
pixels without an error in every decoder, and only a checksum can find them.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from runner.data.limits import MAX_PIXELS
from runner.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from runner.contracts import Dataset

T = TypeVar("T")

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""Pillow's names of the formats that are read; others, such as EPS, start programs."""

# Pillow warns of images that decode() refuses with an error. The filter is set for the process
# because catch_warnings() may not be used by several threads at once.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning, append=True)

# What Pillow's readers raise for broken files, beside OSError.
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    struct.error,
    zlib.error,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DamagedImage:
    """An image that could not be read or decoded."""

    index: int
    """Position in the dataset."""
    description: str
    """Its name, usually its path."""
    reason: str


class DamagedImageError(DataError):
    """An image could not be read or decoded."""

    def __init__(self, description: str, reason: str) -> None:
        self.description = description
        self.reason = reason
        super().__init__(f"{description}: {reason}")


def read(dataset: Dataset, index: int) -> bytes | NDArray[np.uint8]:
    """Read an image as the dataset stores it.

    Raises:
        DamagedImageError: Its file cannot be read.
    """
    try:
        return dataset.read(index)
    except OSError as error:
        raise DamagedImageError(
            dataset.describe(index), f"cannot be read: {error.strerror or error}"
        ) from error


def decode(data: bytes, description: str) -> Image.Image:
    """Decode an image to RGB.

    Args:
        data: The encoded image.
        description: Its name in errors.

    Raises:
        DamagedImageError: It is empty, truncated, corrupt, no image, or too large.
    """
    return _opened(data, description, _to_rgb)


def check(data: bytes, description: str) -> str:
    """Find out whether ``decode`` succeeds, in two thirds of its time for a JPEG.

    Returns:
        The image's format, one of ``FORMATS``.

    Raises:
        DamagedImageError: As ``decode`` does.
    """
    return _opened(data, description, _decode_small)


def _opened(data: bytes, description: str, use: Callable[[Image.Image], T]) -> T:
    """Open an image, and explain what its reader raises, then or in ``use``."""
    if not data:
        raise DamagedImageError(description, "the file is empty")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        _check_size(image, description)
        return use(image)
    except DamagedImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DamagedImageError(description, _too_large(str(error))) from error
    except UnidentifiedImageError as error:
        start = data[:12].decode("latin-1")
        reason = (
            f"not an image ({len(data)} bytes that begin with {start!r}); "
            f"expected one of {', '.join(FORMATS)}"
        )
        raise DamagedImageError(description, reason) from error
    except _BROKEN as error:
        raise DamagedImageError(description, f"cannot be decoded: {error}") from error


def _check_size(image: Image.Image, description: str) -> None:
    if image.width * image.height > MAX_PIXELS:
        size = f"{image.width} x {image.height} pixels"
        raise DamagedImageError(description, _too_large(size))


def _too_large(found: str) -> str:
    return f"too large: {found}, expected at most {MAX_PIXELS:,} pixels; resize or remove the image"


def _decode_small(image: Image.Image) -> str:
    name = image.format
    assert name is not None, "the image was opened from data"
    if name == "JPEG":
        # An eighth of each side: all data is read, most of the arithmetic is left out.
        image.draft(image.mode, (1, 1))
        image.load()
    else:
        _to_rgb(image)
    return name


def _to_rgb(image: Image.Image) -> Image.Image:
    image.load()
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):
        grey = np.clip(np.asarray(image).astype(np.int64) >> 8, 0, 255).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if image.mode == "F":
        raise ValueError("pixels are floating point numbers, expected integers")
    if image.mode == "P" and "transparency" in image.info:
        # Same colours; the direct way warns that transparency is lost.
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")


def to_array(image: Image.Image) -> NDArray[np.uint8]:
    """Copy the pixels of an RGB image to ``[H, W, C]``."""
    pixels: NDArray[np.uint8] = np.frombuffer(image.tobytes(), np.uint8)
    return pixels.reshape(image.height, image.width, 3)

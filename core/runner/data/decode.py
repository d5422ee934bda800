"""Encoded images to RGB pixels, with Pillow.

Pixels are those of ``PIL.Image.open(file).convert("RGB")``, as in torchvision's image folders:
transparency is dropped, CMYK is converted without a colour profile, of an animation the first
frame is taken, and the EXIF orientation is not applied unless the recipe says so (of a TIFF Pillow
itself applies it). Images with 16 bits per channel keep their upper 8 bits (Pillow alone would clip
16-bit grey to white), of which a recipe may choose others for grey.

Pillow detects truncated files; changed bytes inside an otherwise complete JPEG decode to wrong
pixels without an error in every decoder, and only a checksum can find them.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from PIL import Image, ImageFile, PngImagePlugin, UnidentifiedImageError

from runner.data import decoder_messages
from runner.data.decode_options import AS_STORED
from runner.data.size_limits import MAX_PIXELS
from runner.errors import DataError
from runner.storage import files
from runner.terminal.display import counted

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from numpy.typing import NDArray

    from runner.contracts import Dataset
    from runner.data.decode_options import Decoding

T = TypeVar("T")

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""Pillow's names of the formats that are read; others, such as EPS, start programs."""

# Pillow warns of images that decode() refuses with an error. The filter is set for the process
# because catch_warnings() may not be used by several threads at once.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning, append=True)
# Nor is an EXIF block that nobody can read worth a line: it says nothing of orientation.
warnings.filterwarnings("ignore", message=".*orrupt EXIF data", append=True)

_SWITCHES: tuple[tuple[ModuleType, str, object], ...] = (
    (ImageFile, "LOAD_TRUNCATED_IMAGES", False),
    (Image, "MAX_IMAGE_PIXELS", MAX_PIXELS),
    (PngImagePlugin, "MAX_TEXT_CHUNK", 2**20),
    (PngImagePlugin, "MAX_TEXT_MEMORY", 2**26),
)
"""Settings of Pillow for the whole process, which any code in it may change: module, name, and the
value with which damaged images and bombs are found."""

_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What puts an image upright, by its EXIF orientation."""
_WITH_ORIENTATION = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")
_ROWS_AT_ONCE = 256

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


def _unnoticed(_what: str, _message: str) -> None:
    """Let pass what is noticed of an image that was noticed elsewhere."""


def decode(
    data: bytes,
    description: str,
    decoding: Decoding = AS_STORED,
    notice: Callable[[str, str], None] = _unnoticed,
) -> Image.Image:
    """Decode an image to RGB.

    Args:
        data: The encoded image.
        description: Its name in errors.
        decoding: What the recipe says of orientation and grey values.
        notice: Told what leaves other pixels than somebody may expect: a key and a sentence.

    Raises:
        DamagedImageError: It is empty, truncated, corrupt, no image, or too large.
    """
    _set_switches(notice)
    return _opened(data, description, notice, lambda image: _decoded(image, decoding, notice))


def check(data: bytes, description: str, notice: Callable[[str, str], None] = _unnoticed) -> str:
    """Find out whether ``decode`` succeeds, in two thirds of its time for a JPEG.

    Returns:
        The image's format, one of ``FORMATS``.

    Raises:
        DamagedImageError: As ``decode`` does.
    """
    _set_switches(notice)
    return _opened(data, description, notice, lambda image: _decode_small(image, notice))


def _set_switches(notice: Callable[[str, str], None]) -> None:
    """Put settings back that other code in this process has changed."""
    for module, name, value in _SWITCHES:
        found = getattr(module, name)
        if found != value:
            setattr(module, name, value)
            notice(
                name,
                f"{module.__name__}.{name} was set to {found!r} by a plugin or other code in this "
                f"process; set back to {value!r}, with which damaged images are found "
                "(loader.damaged_images says what becomes of them)",
            )


def _opened(
    data: bytes,
    description: str,
    notice: Callable[[str, str], None],
    use: Callable[[Image.Image], T],
) -> T:
    """Open an image, and explain what its reader raises, then or in ``use``."""
    if not data:
        raise DamagedImageError(description, "the file is empty")
    with decoder_messages.heard(data) as said:
        try:
            found = _explained(data, description, use)
        except DamagedImageError as error:
            if said:
                reason = f"{error.reason} (its decoder says: {decoder_messages.shown(said)})"
                raise DamagedImageError(description, reason) from error
            raise
    if said:
        notice("decoder", f"decoded, though its decoder says: {decoder_messages.shown(said)}")
    return found


def _explained(data: bytes, description: str, use: Callable[[Image.Image], T]) -> T:
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
        found = files.stand_in(data[: files.STAND_IN_BYTES])
        reason = found or (
            f"not an image ({counted(len(data), 'byte')}, beginning with {start!r}); "
            f"expected one of {', '.join(FORMATS)}"
        )
        raise DamagedImageError(description, reason) from error
    except _BROKEN as error:
        raise DamagedImageError(description, f"cannot be decoded: {error}") from error


def _check_size(image: Image.Image, description: str) -> None:
    # The decoder of WebP holds two frames beside the image, that of progressive JPEG all of its
    # coefficients; with either the largest images would take more than 1 GiB.
    packed = image.mode == "CMYK" and "progressive" in image.info
    limit = MAX_PIXELS // 2 if packed or image.format == "WEBP" else MAX_PIXELS
    if image.width * image.height > limit:
        size = f"{image.width} x {image.height} pixels"
        raise DamagedImageError(description, _too_large(size, limit))


def _too_large(found: str, limit: int = MAX_PIXELS) -> str:
    return f"too large: {found}, expected at most {limit:,} pixels; resize or remove the image"


def _decode_small(image: Image.Image, notice: Callable[[str, str], None]) -> str:
    name = image.format
    assert name is not None, "the image was opened from data"
    if name == "JPEG":
        # An eighth of each side: all data is read, most of the arithmetic is left out.
        image.draft(image.mode, (1, 1))
        image.load()
        _orientation(image, AS_STORED, notice)
    else:
        _decoded(image, AS_STORED, notice)
    return name


def _decoded(
    image: Image.Image, decoding: Decoding, notice: Callable[[str, str], None]
) -> Image.Image:
    # tiles are plain tuples before Pillow 11
    is_deep = any("16" in str(tile[3]) for tile in getattr(image, "tile", ()))
    image.load()
    turn = _orientation(image, decoding, notice)
    if image.mode.startswith("I"):
        rgb = _grey(image, decoding.grey_bits, notice).convert("RGB")
    else:
        rgb = _to_rgb(image)
        if is_deep and rgb.getbbox() is None:
            notice(
                "colour_bits",
                "16 bits for each colour, of which all pixels have 0 in the upper 8: it is black; "
                "if the values are of 0 to 255, save it with 8 bits",
            )
    return rgb if turn is None else rgb.transpose(turn)


def _orientation(
    image: Image.Image, decoding: Decoding, notice: Callable[[str, str], None]
) -> Image.Transpose | None:
    """Return what puts a loaded image upright, where the recipe asks for it."""
    if not any(key in image.info for key in _WITH_ORIENTATION):
        return None
    found: object = None
    with suppress(*_BROKEN):  # an EXIF block that nobody can read says nothing
        found = image.getexif().get(_ORIENTATION)
    turn = _TURNS.get(found) if isinstance(found, int) else None
    if turn is None or decoding.exif_orientation == "apply":
        return turn
    notice(
        "exif_orientation",
        f"its EXIF orientation {found} is not applied (dataset.exif_orientation: ignore); set it "
        "to apply to see such images upright, in training and wherever the model is used",
    )
    return None


def _grey(image: Image.Image, bits: int, notice: Callable[[str, str], None]) -> Image.Image:
    """Take 8 of the bits of grey values, a few rows at a time: the whole needs 4 bytes a pixel."""
    shift, pixels = bits - 8, np.empty((image.height, image.width), np.uint8)
    lowest, highest = 0, 0
    for top in range(0, image.height, _ROWS_AT_ONCE):
        bottom = min(top + _ROWS_AT_ONCE, image.height)
        rows = np.asarray(image.crop((0, top, image.width, bottom)))
        lowest, highest = min(lowest, int(rows.min())), max(highest, int(rows.max()))
        pixels[top:bottom] = np.clip(rows >> shift, 0, 255)
    has = f"its grey values are {lowest} to {highest}, and dataset.grey_bits: {bits} expects"
    if lowest < 0 or highest >> bits:
        notice("grey_bits", f"{has} 0 to {2**bits - 1}: what is beyond is black or white")
    elif highest and not highest >> shift:
        fits = max(8, highest.bit_length())
        notice("grey_bits", f"{has} up to {2**bits - 1}: it is black; set it to {fits}")
    return Image.fromarray(pixels)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
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

from __future__ import annotations

import io
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from runner.data.decode import FORMATS, DamagedImageError, check, decode, to_array
from runner.data.layouts.images import IMAGE_ENDINGS
from runner.data.layouts.options import ClassFoldersOptions

if TYPE_CHECKING:
    from collections.abc import Callable


def encode(image: Image.Image, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def photo(mode: str = "RGB") -> Image.Image:
    ramp = np.linspace(0, 255, 40 * 30 * 3).reshape(30, 40, 3).astype(np.uint8)
    return Image.fromarray(ramp).convert(mode)


@pytest.mark.parametrize(
    ("mode", "file_format"),
    [
        ("RGB", "JPEG"),
        ("L", "JPEG"),
        ("CMYK", "JPEG"),
        ("RGB", "PNG"),
        ("P", "PNG"),
        ("RGBA", "PNG"),
        ("LA", "PNG"),
        ("1", "PNG"),
        ("RGB", "WEBP"),
        ("RGB", "BMP"),
        ("P", "GIF"),
    ],
)
def test_every_format_and_mode_becomes_rgb(mode: str, file_format: str) -> None:
    data = encode(photo(mode), file_format)
    image = decode(data, "x")
    assert image.mode == "RGB"
    expected = Image.open(io.BytesIO(data)).convert("RGB")
    assert np.array_equal(to_array(image), np.asarray(expected))
    assert to_array(image).shape == (30, 40, 3)


def test_sixteen_bit_grey_keeps_its_upper_bits() -> None:
    grey = np.array([[0, 255, 256, 65535]], np.uint16)
    pixels = to_array(decode(encode(Image.fromarray(grey), "PNG"), "x"))
    assert pixels[0].tolist() == [[0] * 3, [0] * 3, [1] * 3, [255] * 3]


def test_a_palette_with_transparency_does_not_warn() -> None:
    palette = photo("P")
    data = encode(palette, "PNG", transparency=bytes(range(256)))
    assert np.array_equal(to_array(decode(data, "x")), np.asarray(palette.convert("RGB")))


def test_the_first_frame_of_an_animation_is_taken() -> None:
    first, second = Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue")
    data = encode(first, "GIF", save_all=True, append_images=[second])
    assert to_array(decode(data, "x"))[0, 0].tolist() == [255, 0, 0]


def test_exif_orientation_is_not_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode(encode(photo(), "JPEG", exif=exif), "x").size == (40, 30)


JPEG = encode(photo(), "JPEG")
PNG = encode(photo(), "PNG")
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 46827520\n"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (b"not an image, really", r"not an image \(20 bytes, beginning with 'not an image'\)"),
        (JPEG[: len(JPEG) // 2], "cannot be decoded: .*[Tt]runcated"),
        (PNG[: len(PNG) // 2], "cannot be decoded"),
        (PNG[:60] + b"\0" * 20 + PNG[80:], "cannot be decoded"),
        (JPEG[:3], "not an image"),
        (POINTER, "a pointer of Git LFS in the place of the file, which `git lfs pull` fetches"),
        (b"\n<!DOCTYPE html><p>404", "a web page, as a download that was refused leaves"),
    ],
    ids=[
        *("empty", "text", "truncated jpeg", "truncated png", "corrupt png", "three bytes"),
        *("pointer", "web page"),
    ],
)
def test_damaged_images_are_named_with_a_reason(data: bytes, reason: str) -> None:
    for use in (decode, check):
        with pytest.raises(DamagedImageError, match=f"^cat/1.jpg: {reason}"):
            use(data, "cat/1.jpg")


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
def test_a_check_names_the_format(file_format: str) -> None:
    assert check(encode(photo(), file_format), "x") == file_format


def test_a_check_agrees_with_decoding_wherever_bytes_are_changed() -> None:
    random = np.random.default_rng(0)
    answers = set()
    for _ in range(300):
        data = bytearray(JPEG)
        data[random.integers(2, len(data))] = random.integers(256)
        answers.add((is_accepted(decode, bytes(data)), is_accepted(check, bytes(data))))
    assert answers == {(True, True), (False, False)}


def is_accepted(use: Callable[[bytes, str], object], data: bytes) -> bool:
    try:
        use(data, "x")
    except DamagedImageError:
        return False
    return True


@pytest.mark.parametrize("size", [(10_000, 9_000), (20_000, 10_000)])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_huge_image_is_refused_before_it_is_decoded(size: tuple[int, int]) -> None:
    data = bytearray(encode(Image.new("1", (1, 1)), "BMP"))
    data[18:26] = np.array(size, "<i4").tobytes()
    with pytest.raises(DamagedImageError, match=r"too large: .* 89,478,485 pixels; resize"):
        decode(bytes(data), "x")


def test_pillow_does_not_warn_beside_the_error() -> None:
    program = (
        "import warnings\n"
        "import runner.data.decode\n"
        "from PIL import Image\n"
        "warnings.warn('bomb', Image.DecompressionBombWarning)\n"
        "warnings.warn('other', RuntimeWarning)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "RuntimeWarning: other" in ended.stderr
    assert "BombWarning: bomb" not in ended.stderr


def test_every_format_has_an_ending_and_every_ending_a_format() -> None:
    formats = Image.registered_extensions()
    assert {formats[ending] for ending in IMAGE_ENDINGS} == set(FORMATS)
    assert ClassFoldersOptions(root="x").extensions == list(IMAGE_ENDINGS)

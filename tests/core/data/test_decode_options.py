"""What a recipe decides of decoding, and what is noticed of images that come out otherwise."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps, PngImagePlugin

from runner.data.decode import DamagedImageError, check, decode, to_array
from runner.data.decode_options import AS_STORED, Decoding, Notice, Noticed
from runner.data.size_limits import MAX_PIXELS

if TYPE_CHECKING:
    from numpy.typing import NDArray

APPLY = Decoding(exif_orientation="apply")


def encode(image: Image.Image, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def photo(mode: str = "RGB") -> Image.Image:
    ramp = np.linspace(0, 255, 40 * 30 * 3).reshape(30, 40, 3).astype(np.uint8)
    return Image.fromarray(ramp).convert(mode)


def turned(orientation: int, file_format: str = "JPEG", mode: str = "RGB") -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(photo(mode), file_format, exif=exif)


def noticed(data: bytes, decoding: Decoding = AS_STORED) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    decode(data, "x", decoding, lambda what, message: found.append((what, message)))
    return found


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_orientation_is_applied_as_pillow_does(orientation: int, file_format: str) -> None:
    data = turned(orientation, file_format)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert np.array_equal(to_array(decode(data, "x", APPLY)), np.asarray(upright))
    assert noticed(data, APPLY) == []
    stored = np.asarray(Image.open(io.BytesIO(data)))
    assert np.array_equal(to_array(decode(data, "x")), stored)
    assert [what for what, _ in noticed(data)] == ["exif_orientation"] * (orientation > 1)


def test_grey_images_are_put_upright_too() -> None:
    for mode in ("L", "I;16", "1"):
        grey = photo("L").convert("I;16") if mode == "I;16" else photo(mode)
        exif = Image.Exif()
        exif[0x0112] = 6
        assert decode(encode(grey, "PNG", exif=exif), "x", APPLY).size == (30, 40)


def test_a_tiff_is_turned_once_whatever_is_asked() -> None:
    for decoding in (AS_STORED, APPLY):
        assert decode(turned(6, "TIFF"), "x", decoding).size == (30, 40)
        assert noticed(turned(6, "TIFF"), decoding) == []


@pytest.mark.filterwarnings("ignore:.*orrupt EXIF data")
@pytest.mark.parametrize("exif", [b"", b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"\0" * 40])
def test_an_exif_block_that_nobody_can_read_is_no_damage(exif: bytes) -> None:
    data = encode(photo(), "JPEG", exif=exif)
    assert decode(data, "x", APPLY).size == (40, 30)
    assert noticed(data) == []


def test_a_check_notices_what_decoding_does() -> None:
    for data in (turned(8), turned(3, "PNG"), grey_png([1, 200])):
        found: list[tuple[str, str]] = []
        check(data, "x", lambda *what, found=found: found.append(what))
        assert found == noticed(data)
        assert len(found) == 1


def grey_png(values: list[int]) -> bytes:
    return encode(Image.fromarray(np.array([values], np.uint16)), "PNG")


def first_channel(data: bytes, bits: int) -> list[int]:
    pixels: NDArray[np.uint8] = to_array(decode(data, "x", Decoding(grey_bits=bits)))
    assert (pixels == pixels[..., :1]).all()
    return [int(value) for value in pixels[0, :, 0]]


@pytest.mark.parametrize(
    ("bits", "values", "expected", "notice"),
    [
        (16, [0, 255, 256, 65535], [0, 0, 1, 255], None),
        (16, [0, 0], [0, 0], None),
        (16, [3, 200], [0, 0], "it is black; set it to 8"),
        (16, [3, 255], [0, 0], "it is black; set it to 8"),
        (8, [3, 200], [3, 200], None),
        (8, [3, 256], [3, 255], "expects 0 to 255: what is beyond is black or white"),
        (12, [16, 4095], [1, 255], None),
        (12, [0, 4096], [0, 255], "expects 0 to 4095"),
    ],
)
def test_bits_of_grey_values(
    bits: int, values: list[int], expected: list[int], notice: str | None
) -> None:
    data = grey_png(values)
    assert first_channel(data, bits) == expected
    found = noticed(data, Decoding(grey_bits=bits))
    assert [what for what, _ in found] == ([] if notice is None else ["grey_bits"])
    assert notice is None or notice in found[0][1]


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I"])
def test_grey_values_of_tiff_files(mode: str) -> None:
    values = np.array([[0, 200, 300]], np.int32)
    if mode == "I":
        image = Image.fromarray(values)
    else:
        stored = values.astype("<u2" if mode == "I;16" else ">u2")
        image = Image.frombytes(mode, (3, 1), stored.tobytes())
    assert first_channel(encode(image, "TIFF"), 8) == [0, 200, 255]
    assert first_channel(encode(image, "TIFF"), 16) == [0, 0, 1]


def test_negative_values_of_32_bits_are_noticed() -> None:
    data = encode(Image.fromarray(np.array([[-5, 70000]], np.int32)), "TIFF")
    assert first_channel(data, 16) == [0, 255]
    [(what, message)] = noticed(data)
    assert what == "grey_bits"
    assert "-5 to 70000" in message
    assert first_channel(data, 17) == [0, 136]


def test_a_pgm_of_16_bits() -> None:
    data = b"P5 2 1 65535\n" + np.array([200, 65535], ">u2").tobytes()
    assert first_channel(data, 16) == [0, 255]


def test_tall_grey_images_are_converted_as_a_whole() -> None:
    values = (np.arange(700 * 2).reshape(700, 2) * 40).astype(np.uint16)
    pixels = to_array(decode(encode(Image.fromarray(values), "PNG"), "x"))
    assert np.array_equal(pixels[..., 0], (values >> 8).astype(np.uint8))


def colour_png_of_16_bits(values: NDArray[np.uint16]) -> bytes:
    """Write a PNG by hand: Pillow has no mode for it."""
    import struct
    import zlib

    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def test_colours_of_16_bits_with_values_of_8_are_noticed() -> None:
    dark = colour_png_of_16_bits(np.full((2, 3, 3), 255, np.uint16))
    assert not to_array(decode(dark, "x")).any()
    [(what, message)] = noticed(dark)
    assert what == "colour_bits"
    assert "save it with 8 bits" in message
    bright = colour_png_of_16_bits(np.full((2, 3, 3), 0x8001, np.uint16))
    assert noticed(bright) == []
    assert (to_array(decode(bright, "x")) == 128).all()


def test_floating_point_pixels_are_refused() -> None:
    data = encode(Image.fromarray(np.zeros((2, 2), np.float32)), "TIFF")
    with pytest.raises(DamagedImageError, match="floating point numbers, expected integers"):
        decode(data, "x")


@pytest.mark.parametrize("file_format", ["WEBP", "TIFF", "PNG"])
def test_the_first_frame_is_taken(file_format: str) -> None:
    first, second = Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue")
    options = {"lossless": True} if file_format == "WEBP" else {}
    data = encode(first, file_format, save_all=True, append_images=[second], **options)
    assert to_array(decode(data, "x"))[0, 0].tolist() == [255, 0, 0]


TRUNCATED = encode(photo(), "JPEG")[:500]


@pytest.mark.parametrize(
    ("module", "name", "value"),
    [
        (ImageFile, "LOAD_TRUNCATED_IMAGES", True),
        (Image, "MAX_IMAGE_PIXELS", None),
        (Image, "MAX_IMAGE_PIXELS", 10),
        (PngImagePlugin, "MAX_TEXT_CHUNK", 2**40),
    ],
)
def test_switches_of_pillow_are_set_back_and_named(
    module: Any, name: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = getattr(module, name)
    monkeypatch.setattr(module, name, value)
    found: list[tuple[str, str]] = []
    with pytest.raises(DamagedImageError, match="cannot be decoded"):
        decode(TRUNCATED, "x", AS_STORED, lambda *what: found.append(what))
    monkeypatch.setattr(module, name, value)
    with pytest.raises(DamagedImageError, match="cannot be decoded"):
        check(TRUNCATED, "x")
    assert getattr(module, name) == before
    [(what, message)] = found
    assert what == name
    assert f".{name} was set to {value!r} by a plugin or other code" in message


def test_pillow_s_own_limit_is_ours() -> None:
    assert Image.MAX_IMAGE_PIXELS == MAX_PIXELS


def test_notices_are_counted_and_told_twice() -> None:
    told: list[Notice] = []
    counts = Noticed(told.append)
    counts.tell()
    assert told == []
    for image in ("a.jpg", "b.jpg"):
        counts.note(image, "exif_orientation", "is turned")
    counts.note("c.png", "LOAD_TRUNCATED_IMAGES", "was set")
    counts.tell()
    counts.tell()
    assert [notice.message for notice in told] == ["a.jpg: is turned", "c.png: was set"]
    counts.note("d.jpg", "exif_orientation", "is turned")
    counts.tell_totals(10)
    counts.tell_totals(10)
    assert len(told) == 3, "a switch has no number of images"
    assert (told[-1].images, told[-1].read, told[-1].image) == (3, 10, "a.jpg")
    assert told[-1].message.startswith("3 of 10 images are stored turned")

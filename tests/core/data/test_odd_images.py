"""Images that somebody or something has damaged: refused by name, in bounded time and memory."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import time
import zlib
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from runner.data.decode import DamagedImageError, check, decode
from runner.data.decode_options import Decoding
from runner.data.samples import preprocess
from runner.data.transforms.options import CenterCrop, Resize, Transform

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

EVAL: list[Transform] = [
    Resize(name="resize", shorter_side=64),
    CenterCrop(name="center_crop", size=56),
]
CASES = 600
SECONDS = 5.0
"""Of the processor for one image, however it is damaged."""
LONG = (b"\xff\xff\xff\x7f", b"\0\0\xff\xff", b"\0\0\x20\0", b"\xff\xff\xff\xff", b"\0\0\0\0")

MODES = {
    "JPEG": ("RGB", "L", "CMYK"),
    "PNG": ("RGB", "L", "LA", "RGBA", "P", "1", "I;16"),
    "WEBP": ("RGB", "RGBA"),
    "BMP": ("RGB", "L", "1", "P"),
    "GIF": ("P", "L"),
    "TIFF": ("RGB", "L", "CMYK", "I;16", "I", "F", "1", "RGBA", "P"),
    "PPM": ("RGB", "L", "1", "I"),
}
ANIMATED = ("GIF", "WEBP", "PNG", "TIFF")


def encode(image: Image.Image, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def in_mode(image: Image.Image, mode: str) -> Image.Image:
    return image.convert("L").convert(mode) if mode in ("I;16", "I", "F") else image.convert(mode)


def sound_images(random: np.random.Generator) -> list[bytes]:
    base = Image.fromarray(random.integers(0, 256, (20, 24, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    found = []
    for file_format, modes in MODES.items():
        extra = {"exif": exif} if file_format in ("JPEG", "PNG", "WEBP", "TIFF") else {}
        found += [encode(in_mode(base, mode), file_format, **extra) for mode in modes]
    frames = {"save_all": True, "append_images": [base.rotate(90)] * 2}
    found += [encode(base, file_format, **frames) for file_format in ANIMATED]
    packed = ("tiff_lzw", "packbits", "tiff_deflate", "jpeg")
    found += [encode(base, "TIFF", compression=name) for name in packed]
    return [*found, b"P3\n4 4\n255\n" + b" ".join(b"%d" % number for number in range(48))]


def damaged(data: bytes, random: np.random.Generator) -> bytes:
    """Cut, change, enlarge, insert or remove, anywhere."""
    changed, how = bytearray(data), random.integers(5)
    place = int(random.integers(len(data)))
    if how == 0:
        return data[:place]
    if how == 1:
        for _ in range(int(random.integers(1, 8))):
            changed[random.integers(len(data))] = random.integers(256)
    elif how == 2:
        place = min(place, 200, len(data) - 4)
        changed[place : place + 4] = LONG[random.integers(len(LONG))]
    elif how == 3:
        changed[place:place] = random.bytes(int(random.integers(1, 64)))
    else:
        del changed[place : place + int(random.integers(1, 64))]
    return bytes(changed)


def outcome(use: Callable[[], object]) -> bool:
    """Say whether an image was accepted; anything but a refusal by name is an error."""
    refused = ""
    try:
        use()
    except DamagedImageError as error:
        refused = str(error)
    assert not refused or refused.startswith("cat/1.jpg: ")
    assert len(refused) < 500
    return not refused


@pytest.mark.filterwarnings("ignore")  # Pillow says more of some than that they are damaged
def test_damaged_images_are_refused_or_read_and_nothing_else() -> None:
    random = np.random.default_rng(20)
    sound = sound_images(random)
    accepted = 0
    for number in range(CASES):
        data = damaged(sound[number % len(sound)], random)
        orientation: Any = ("ignore", "apply")[number % 2]
        decoding = Decoding(exif_orientation=orientation, grey_bits=(8, 12, 16, 32)[number % 4])
        began = time.thread_time()
        read = outcome(partial(decode, data, "cat/1.jpg", decoding))
        assert time.thread_time() - began < SECONDS, number
        checked = outcome(partial(check, data, "cat/1.jpg"))
        assert read == checked, number
        accepted += read
    assert 0 < accepted < CASES, "some are read, some are not"


def test_sound_images_of_every_mode_are_read() -> None:
    for data in sound_images(np.random.default_rng(20)):
        if b"F" in Image.open(io.BytesIO(data)).mode.encode():
            assert not outcome(partial(decode, data, "cat/1.jpg"))
        else:
            assert preprocess(data, EVAL).shape == (56, 56, 3)


def empty_palette_png(side: int) -> bytes:
    """Write a PNG of zeros with a transparent palette: of all modes it takes the most memory."""
    packer, row = zlib.compressobj(1), bytes(1 + side)
    body = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 8, 3, 0, 0, 0)
    parts = [(b"IHDR", header), (b"PLTE", bytes(768)), (b"tRNS", bytes(256)), (b"IDAT", body)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(part)) + kind + part + struct.pack(">I", zlib.crc32(kind + part))
        for kind, part in [*parts, (b"IEND", b"")]
    )


# Lossless, 9,400 x 9,400 black pixels.
WEBP = bytes.fromhex("524946461a000000574542505650384c0e0000002fb7e42d09071011fd0f4444ff03")

MEASURE = """
import sys
from runner.data.decode import DamagedImageError
from runner.data.samples import preprocess
from runner.data.transforms.options import CenterCrop, Resize
steps = [Resize(name="resize", shorter_side=64), CenterCrop(name="center_crop", size=56)]
data = open(sys.argv[1], "rb").read()
try:
    print(preprocess(data, steps).shape)
except DamagedImageError as error:
    print(error)
# not ru_maxrss, in which the memory of the process that has started this one counts as well
[peak] = [int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")]
assert peak < 2**20, f"{peak} KiB"
"""


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("palette", "(56, 56, 3)"),
        ("webp", "too large: 9400 x 9400 pixels, expected at most 44,739,242 pixels"),
    ],
)
def test_the_largest_images_take_less_than_a_gigabyte(
    tmp_path: Path, name: str, words: str
) -> None:
    file = tmp_path / "image"
    if name == "webp":
        file.write_bytes(WEBP)
    else:
        file.write_bytes(empty_palette_png(9400))
    done = subprocess.run(
        [sys.executable, "-P" if sys.version_info >= (3, 11) else "-s", "-c", MEASURE, str(file)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert words in done.stdout

"""What decoders say of an image is told with its name, and nothing of it stands on stderr."""

from __future__ import annotations

import io
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from runner.data.decode import DamagedImageError, decode


def tiff(seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "TIFF", compression="tiff_lzw")
    return out.getvalue()


def broken_tiff() -> bytes:
    data = bytearray(tiff())
    start = len(data) // 3
    data[start : start + 64] = b"\xff" * 64
    return bytes(data)


def warned_tiff() -> bytes:
    """A file of whose tags one, which no pixel depends on, has two values for one."""
    image, out = Image.fromarray(np.zeros((4, 4, 3), np.uint8)), io.BytesIO()
    image.save(out, "TIFF", tiffinfo={296: 2})
    tag, short, one, two = (296).to_bytes(2, "little"), b"\3\0", b"\1\0\0\0", b"\2\0\0\0"
    data = out.getvalue()
    assert tag + short + one in data
    return data.replace(tag + short + one, tag + short + two)


def test_what_libtiff_says_is_part_of_the_reason(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DamagedImageError, match=r"bad\.tif: cannot be decoded: .*decoder says: \w"):
        decode(broken_tiff(), "bad.tif")
    assert capfd.readouterr().err == ""


def test_a_warning_of_pillow_is_noticed_of_its_image(capfd: pytest.CaptureFixture[str]) -> None:
    noticed: list[tuple[str, str]] = []
    for _ in range(2):
        with warnings.catch_warnings():
            warnings.simplefilter("default")  # as without a test runner
            decode(warned_tiff(), "odd.tif", notice=lambda *told: noticed.append(told))
    assert [what for what, _ in noticed] == ["decoder", "decoder"]
    assert "decoded, though its decoder says: " in noticed[0][1]
    assert capfd.readouterr().err == ""


def test_each_thread_hears_of_its_own_image() -> None:
    def attempt(number: int) -> str:
        try:
            decode(broken_tiff() if number % 2 else tiff(number), str(number))
        except DamagedImageError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(4) as pool:
        for number, message in enumerate(pool.map(attempt, range(40))):
            assert ("decoder says" in message) == bool(number % 2)


def test_other_warnings_go_where_they_went() -> None:
    decode(tiff(), "good.tif")
    with pytest.warns(UserWarning, match="of somebody else"):
        warnings.warn("of somebody else", UserWarning, stacklevel=1)

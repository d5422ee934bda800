"""Sizes are refused before memory is taken for them."""

from __future__ import annotations

import io
import json
from dataclasses import asdict

import numpy as np
import pytest
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from runner.data.decode import DamagedImageError
from runner.data.layouts.options import SyntheticOptions
from runner.data.samples import preprocess
from runner.data.size_limits import MAX_SIDE, check_batches, check_threads
from runner.data.transforms.apply import TooLargeError, apply
from runner.data.transforms.options import CenterCrop, Resize, Transform, largest_size
from runner.errors import DataError

EVAL: list[Transform] = [
    Resize(name="resize", shorter_side=256),
    CenterCrop(name="center_crop", size=224),
]


def line(width: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, 1)).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_thin_line_does_not_become_a_huge_image() -> None:
    with pytest.raises(TooLargeError, match="of 60000 x 1 pixels resize would make 15360000 x 256"):
        apply(Image.new("RGB", (60_000, 1)), EVAL)
    with pytest.raises(DamagedImageError, match=r"line\.png: of 60000 x 1 pixels"):
        preprocess(line(60_000), EVAL, "line.png")
    assert preprocess(line(300), EVAL).shape == (224, 224, 3)


def test_batches_beyond_the_memory_are_refused() -> None:
    check_batches(64, 3, (224, 224))
    with pytest.raises(DataError, match=r"3 batches of 10,000,000 images .* lower train.batch_si"):
        check_batches(10_000_000, 3, (MAX_SIDE, MAX_SIDE))


def test_images_on_the_way_are_counted_for_each_thread() -> None:
    big, crop = Resize(name="resize", exact=(8192, 8192)), CenterCrop(name="center_crop", size=8)
    assert largest_size((crop, big, crop)) == (8192, 8192)
    assert largest_size((Resize(name="resize", shorter_side=256), crop)) == (256, 256)
    check_threads(1, (224, 224))
    with pytest.raises(DataError, match=r"one image for each of 9,999 threads of 8192 .*workers"):
        check_threads(9999, (8192, 8192))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train_count", 10**12),
        ("val_count", 10**12),
        ("class_count", 10**12),
        ("size", (30_000, 30_000)),
        ("seed", 10**40),
    ],
)
def test_generated_images_are_bounded(key: str, value: object) -> None:
    adapter = TypeAdapter(SyntheticOptions)
    values = asdict(SyntheticOptions())
    adapter.validate_json(json.dumps(values))
    with pytest.raises(ValidationError, match="less than or equal to"):
        adapter.validate_json(json.dumps({**values, key: value}))


def test_pixels_of_a_thin_array_are_bounded_as_well() -> None:
    with pytest.raises(TooLargeError):
        apply(np.zeros((1, 60_000, 3), np.uint8), EVAL)

"""The AIPP configuration, and that bins and AIPP together are the recipe's evaluation."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageFilter

from runner.artifacts.offline.pixels import on_host
from runner.data.normalize import normalize
from runner.data.samples import preprocess
from runner.data.transforms.apply import apply
from runner.data.transforms.options import CenterCrop, Resize
from runner_ascend import aipp

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
STEPS = (
    Resize(name="resize", shorter_side=256),
    CenterCrop(name="center_crop", size=224),
)
DOCUMENTED = {
    "aipp_mode": "static",
    "input_format": "RGB888_U8",
    "src_image_size_w": "256",
    "src_image_size_h": "256",
    "crop": "true",
    "load_start_pos_h": "16",
    "load_start_pos_w": "16",
    "crop_size_w": "224",
    "crop_size_h": "224",
    "min_chn_0": "123.675",
    "min_chn_1": "116.28",
    "min_chn_2": "103.53",
    "var_reci_chn_0": "0.0171247538316637",
    "var_reci_chn_1": "0.0175070028011204",
    "var_reci_chn_2": "0.0174291938997821",
}


@pytest.fixture
def device(ais_bench):
    """Provide the stand-in for what the device does."""
    from ais_bench import aipp as arithmetic

    return arithmetic


def test_resnet50_has_the_documented_values(device):
    part = on_host(STEPS, device_crop=True)
    assert device.parse(aipp.config(part, mean=MEAN, std=STD)) == DOCUMENTED


def test_without_a_crop_as_mobilenet_v2_has_it(device):
    part = on_host(STEPS, device_crop=False)
    values = device.parse(aipp.config(part, mean=MEAN, std=STD, csc_switch=False))
    expected = {
        **{key: value for key, value in DOCUMENTED.items() if "crop_" not in key},
        "src_image_size_w": "224",
        "src_image_size_h": "224",
        "crop": "false",
        "csc_switch": "false",
    }
    del expected["load_start_pos_h"], expected["load_start_pos_w"]
    assert values == expected


def test_other_statistics_change_the_file(device):
    values = device.parse(
        aipp.config(on_host(STEPS, device_crop=True), mean=(0.5, 0.0, 1.0), std=(0.5, 1.0, 0.25))
    )
    assert [values[f"min_chn_{c}"] for c in range(3)] == ["127.5", "0", "255"]
    assert [values[f"var_reci_chn_{c}"] for c in range(3)] == [
        "0.00784313725490196",
        "0.00392156862745098",
        "0.0156862745098039",
    ]


def photograph(width, height, *, form="JPEG"):
    """Encode an image with smooth areas, edges and noise, as cameras give them."""
    random = np.random.default_rng((width, height))
    coarse = random.integers(0, 256, (9, 7, 3), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    noisy = np.asarray(smooth, np.int16) + random.integers(-20, 21, (height, width, 3))
    image = Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).filter(ImageFilter.SHARPEN)
    out = io.BytesIO()
    image.save(out, form)
    return out.getvalue()


SIZES = [
    (256, 256), (257, 256), (256, 259), (261, 256), (500, 375), (375, 500), (500, 333),
    (331, 499), (1001, 283), (160, 213), (97, 61), (225, 224), (640, 427), (301, 300),
]  # fmt: skip


@pytest.mark.parametrize("crop", ["device", "host"])
@pytest.mark.parametrize("size", SIZES)
def test_bins_and_aipp_are_the_evaluation(device, size, crop):
    data = photograph(*size)
    part = on_host(STEPS, device_crop=crop == "device")
    values = device.parse(aipp.config(part, mean=MEAN, std=STD))
    written = preprocess(data, part.transforms).tobytes()
    pixels = np.frombuffer(written, np.uint8).reshape(1, part.height, part.width, 3)
    expected = normalize(preprocess(data, STEPS)[None], MEAN, STD)
    # The same formula in another order: a few units in the last place of values up to 2.64.
    assert np.abs(device.apply(values, pixels) - expected).max() < 1e-6
    # With constants and results in fp16, as the card has them: their rounding.
    in_half = device.apply(values, pixels, np.float16).astype(np.float32)
    assert np.abs(in_half - expected).max() < 3e-3


def test_every_value_of_a_pixel(device):
    """All 256 levels of each channel, in both precisions."""
    levels = np.arange(256, dtype=np.uint8)
    pixels = np.repeat(levels, 3).reshape(1, 16, 16, 3)
    part = on_host((Resize(name="resize", exact=(16, 16)),), device_crop=False)
    values = device.parse(aipp.config(part, mean=MEAN, std=STD))
    expected = normalize(pixels, MEAN, STD)
    exact = (pixels[0] / 255 - np.array(MEAN)) / np.array(STD)
    exact = exact.transpose(2, 0, 1)
    ours = np.abs(device.apply(values, pixels)[0] - exact).max()
    assert ours < 5e-7
    assert np.abs(expected[0] - exact).max() < 5e-7
    half = device.apply(values, pixels, np.float16)[0]
    assert 5e-4 < np.abs(half - exact).max() < 3e-3


def test_another_crop_is_noticed(device):
    """What the equality rests on: an offset that is wrong by one pixel would show."""
    data = photograph(500, 375)
    part = on_host(STEPS, device_crop=True)
    values = device.parse(aipp.config(part, mean=MEAN, std=STD)) | {"load_start_pos_w": "17"}
    pixels = preprocess(data, part.transforms)[None]
    expected = normalize(apply(Image.open(io.BytesIO(data)), STEPS)[None], MEAN, STD)
    assert np.abs(device.apply(values, pixels) - expected).max() > 0.1

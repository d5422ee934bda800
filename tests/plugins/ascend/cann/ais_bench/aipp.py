"""What the vendor's manual says of static AIPP, in NumPy, from the text of a configuration."""

from __future__ import annotations

import re

import numpy as np

KNOWN = {
    "aipp_mode",
    "input_format",
    "src_image_size_w",
    "src_image_size_h",
    "crop",
    "load_start_pos_h",
    "load_start_pos_w",
    "crop_size_w",
    "crop_size_h",
    "csc_switch",
    *(f"{kind}_{channel}" for kind in ("min_chn", "var_reci_chn") for channel in range(3)),
}


def parse(text):
    """Read ``aipp_op { key : value ... }`` with its values as text."""
    found = re.fullmatch(r"aipp_op\s*\{(.*)\}\s*", text, re.DOTALL)
    if not found:
        raise ValueError("expected aipp_op { ... }")
    pairs = [line.split(":") for line in found[1].strip().splitlines()]
    values = {key.strip(): value.strip() for key, value in pairs}
    if len(values) != len(pairs) or set(values) - KNOWN:
        raise ValueError(f"repeated or unknown keys among {[key for key, _ in pairs]}")
    if values["aipp_mode"] != "static" or values["input_format"] != "RGB888_U8":
        raise ValueError("this stand-in knows static AIPP of RGB888_U8 only")
    return values


def source_shape(values):
    """Return height and width of the images that the device is given."""
    return int(values["src_image_size_h"]), int(values["src_image_size_w"])


def apply(values, images, dtype=np.float32):
    """Compute what the network gets, ``[B, 3, H, W]``, from pixels ``[B, H, W, 3]``.

    Constants and every operation are rounded to ``dtype``.
    """
    assert images.dtype == np.uint8
    assert images.shape[1:] == (*source_shape(values), 3)
    assert values.get("csc_switch", "false") == "false"
    if values["crop"] == "true":
        top, left = int(values["load_start_pos_h"]), int(values["load_start_pos_w"])
        height, width = int(values["crop_size_h"]), int(values["crop_size_w"])
        assert top + height <= images.shape[1]
        assert left + width <= images.shape[2]
        images = images[:, top : top + height, left : left + width]
    least = np.array([float(values[f"min_chn_{c}"]) for c in range(3)]).astype(dtype)
    factor = np.array([float(values[f"var_reci_chn_{c}"]) for c in range(3)]).astype(dtype)
    result = (images.astype(dtype) - least) * factor
    assert result.dtype == dtype
    return np.ascontiguousarray(result.transpose(0, 3, 1, 2))

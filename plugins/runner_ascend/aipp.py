"""AIPP: what a compiled model does to pixels before its first layer.

The configuration is derived from a recipe's own evaluation, so that host, device and recipe cannot
disagree. The device computes ``(pixel - min_chn) * var_reci_chn`` for each channel, in this order:
channel swap, crop, colour conversion, normalisation, padding (CANN, "AIPP configuration"). Swap,
colour conversion and padding are not used, because the files hold RGB pixels.
"""

from __future__ import annotations

from decimal import Context, Decimal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runner.artifacts.offline.pixels import HostPart

_DIGITS = Context(prec=15)
"""As many as a double keeps through text."""


def config(
    part: HostPart,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    csc_switch: bool | None = None,
) -> str:
    """Return the text of a static configuration for one RGB input of uint8 ``[B, H, W, C]``.

    Args:
        part: What the host writes and what is left to the device.
        mean: Mean of each channel, on pixels scaled to [0, 1].
        std: Standard deviation of each channel, on the same scale.
        csc_switch: Whether colours are converted; left to the compiler's default, which is not,
            when ``None``.
    """
    lines: list[tuple[str, object]] = [
        ("aipp_mode", "static"),
        ("input_format", "RGB888_U8"),
        ("src_image_size_w", part.width),
        ("src_image_size_h", part.height),
        ("crop", _word(part.crop is not None)),
    ]
    if part.crop is not None:
        lines += [
            ("load_start_pos_h", part.crop.top),
            ("load_start_pos_w", part.crop.left),
            ("crop_size_w", part.crop.width),
            ("crop_size_h", part.crop.height),
        ]
    if csc_switch is not None:
        lines.append(("csc_switch", _word(csc_switch)))
    lines += [(f"min_chn_{channel}", _pixels(value)) for channel, value in enumerate(mean)]
    lines += [(f"var_reci_chn_{channel}", _reciprocal(value)) for channel, value in enumerate(std)]
    return "".join(["aipp_op {\n", *(f"    {key} : {value}\n" for key, value in lines), "}\n"])


def _word(value: bool) -> str:  # noqa: FBT001  the value is what is written
    return "true" if value else "false"


def _scaled(value: float) -> Decimal:
    # The shortest decimal of 0.485 times 255 is exactly 123.675; in binary it would not be.
    return Decimal(repr(value)) * 255


def _pixels(value: float) -> str:
    return f"{_scaled(value).normalize():f}"


def _reciprocal(value: float) -> str:
    return f"{_DIGITS.divide(Decimal(1), _scaled(value)).normalize(_DIGITS):f}"

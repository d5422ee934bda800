"""Floating point numbers of fewer bits than NumPy knows, as fp32."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

BYTES = {"bfloat16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1}
"""Bytes of one number, by torch's name of the format."""


def decode(data: bytes, kind: str) -> NDArray[np.float32]:
    """Return the numbers ``[N]`` that little-endian bytes hold, exactly.

    Args:
        data: The bytes of whole numbers.
        kind: A key of ``BYTES``.
    """
    if kind == "bfloat16":
        return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
    if kind == "float8_e5m2":
        return (np.frombuffer(data, "u1").astype("<u2") << 8).view("<f2").astype(np.float32)
    numbers: NDArray[np.float32] = _e4m3fn()[np.frombuffer(data, "u1")]
    return numbers


def widened(array: NDArray[Any]) -> NDArray[Any]:
    """Return fp16 as fp32; anything else as it is."""
    return array.astype(np.float32) if array.dtype.kind == "f" and array.itemsize < 4 else array


@cache
def _e4m3fn() -> NDArray[np.float32]:
    """Return all numbers of 4 bits of exponent and 3 of mantissa: no infinity, one NaN each way."""
    codes = np.arange(256)
    exponents, mantissas = codes >> 3 & 15, (codes & 7) / 8
    normal = np.ldexp(1 + mantissas, exponents - 7)
    sizes = np.where(exponents == 0, np.ldexp(mantissas, -6), normal)
    sizes[codes & 127 == 127] = np.nan
    return np.where(codes & 128, -sizes, sizes).astype(np.float32)

from __future__ import annotations

import numpy as np
import pytest

from runner.data.normalize import normalize


def test_normalize_scales_then_subtracts_then_divides() -> None:
    images = np.array([[[[0, 128, 255], [255, 0, 1]]]], np.uint8)
    result = normalize(images, mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 2.0))
    assert result.dtype == np.float32
    assert result.shape == (1, 3, 1, 2)
    assert result.flags.c_contiguous
    expected = [-1, 1, (128 / 255 - 0.25) / 0.25, -1, 0.5, 1 / 255 / 2]
    assert result.reshape(-1).tolist() == pytest.approx(expected, rel=1e-6)


def test_normalize_refuses_other_types() -> None:
    with pytest.raises(ValueError, match=r"found float32 \[2, 3\], expected uint8"):
        normalize(np.zeros((2, 3), np.float32), (0, 0, 0), (1, 1, 1))

"""Single images: for prediction, and for the samples that travel with an exported model."""

from __future__ import annotations

import io
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from runner.data.decode import DamagedImageError, decode, read
from runner.data.decode_options import AS_STORED
from runner.data.transforms.apply import TooLargeError, apply

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from runner.contracts import Dataset
    from runner.data.decode_options import Decoding, Noticed
    from runner.data.transforms.apply import Decoded
    from runner.data.transforms.options import Transform

_PNG = ".png"
_OTHER = ".img"


def preprocess(
    image: bytes | NDArray[np.uint8],
    transforms: Sequence[Transform],
    description: str = "image",
    *,
    decoding: Decoding = AS_STORED,
    noticed: Noticed | None = None,
) -> NDArray[np.uint8]:
    """Turn an image into the network's input, exactly as evaluation does.

    Args:
        image: An encoded image, or RGB pixels ``[H, W, C]``.
        transforms: The recipe's evaluation steps.
        description: The image's name in errors.
        decoding: What the model was trained with.
        noticed: Counts what decoding notices.

    Returns:
        Pixels ``[H, W, C]``, not normalised.

    Raises:
        DamagedImageError: The image cannot be decoded, or a step would make a huge one of it.
        ValueError: The image does not fit a step, or a step is random.
    """
    if isinstance(image, np.ndarray):
        decoded: Decoded = image
    elif noticed is None:
        decoded = decode(image, description, decoding)
    else:
        decoded = decode(image, description, decoding, partial(noticed.note, description))
    try:
        return apply(decoded, transforms)
    except TooLargeError as error:
        raise DamagedImageError(description, str(error)) from error


def sample_bytes(dataset: Dataset, index: int) -> tuple[bytes, str]:
    """Return an image as the bytes of a file, and the ending that file should have.

    Encoded images are returned as they are stored; pixels are encoded as PNG, without loss.
    """
    content = read(dataset, index)
    if isinstance(content, bytes):
        return content, _suffix(content)
    buffer = io.BytesIO()
    Image.fromarray(content).save(buffer, "PNG")
    return buffer.getvalue(), _PNG


def _suffix(content: bytes) -> str:
    """Name the format by the first bytes; file names often lie about it."""
    for start, suffix in (
        (b"\xff\xd8", ".jpg"),
        (b"\x89PNG", _PNG),
        (b"GIF8", ".gif"),
        (b"BM", ".bmp"),
    ):
        if content.startswith(start):
            return suffix
    return ".webp" if content[:4] == b"RIFF" and content[8:12] == b"WEBP" else _OTHER

"""A recipe's transforms as operations of MindSpore's C++ pipeline."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from runner.data.transforms.options import (
    CenterCrop,
    ColorJitter,
    HorizontalFlip,
    RandomCrop,
    RandomResizedCrop,
    Resize,
)
from runner.errors import UsageError
from runner_mindspore.autoload import ms
from runner_mindspore.messages import reason

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from runner.data.transforms.options import Transform

vision = ms.dataset.vision

_FILTERS = {"bilinear": vision.Inter.BILINEAR, "bicubic": vision.Inter.PILCUBIC}
_MESSAGE = re.compile(r"\[ERROR\] (.+?)\.?$", re.MULTILINE)


def operations(transforms: Sequence[Transform]) -> list[Any]:
    """Return operations that turn an encoded image into pixels ``[H, W, C]``.

    A random resized crop that comes first decodes no more of a JPEG than it needs.

    Raises:
        UsageError: MindSpore has no operation for a transform.
    """
    first, *rest = transforms
    if isinstance(first, RandomResizedCrop):
        cropped = vision.RandomCropDecodeResize(
            first.size, first.scale, first.ratio, _FILTERS[first.interpolation]
        )
        return [cropped, *map(_operation, rest)]
    return [vision.Decode(), *map(_operation, transforms)]


def differences(transforms: Sequence[Transform]) -> list[str]:
    """Say in which way the pixels differ from those of core's loader, which are torchvision's."""
    found = {
        f"{step.name}: bilinear without antialiasing"
        for step in transforms
        if isinstance(step, (Resize, RandomResizedCrop)) and step.interpolation == "bilinear"
    }
    if any(isinstance(step, CenterCrop) for step in transforms):
        found.add("center_crop: offsets are rounded down")
    return sorted(found)


def undecodable(encoded: NDArray[np.uint8]) -> str | None:
    """Say why MindSpore cannot decode an image; ``None`` if it can."""
    try:
        vision.Decode()(encoded)
    except RuntimeError as error:
        return _reason(error)
    return None


def misfit(transforms: Sequence[Transform], encoded: NDArray[np.uint8]) -> str | None:
    """Say which transform an image does not fit, and why; ``None`` if it fits all."""
    image = encoded
    for operation in operations(transforms):
        try:
            image = operation(image)
        except RuntimeError as error:
            return f"{type(operation).__name__}: {_reason(error)}"
    return None


def _reason(error: RuntimeError) -> str:
    """Return MindSpore's message without its frames of C++ and advice."""
    found = _MESSAGE.search(str(error))
    return found[1] if found else reason(error)


def _operation(transform: Transform) -> Any:
    if isinstance(transform, Resize):
        size = transform.shorter_side if transform.exact is None else transform.exact
        return vision.Resize(size, _FILTERS[transform.interpolation])
    if isinstance(transform, CenterCrop):
        return vision.CenterCrop(transform.size)
    if isinstance(transform, RandomResizedCrop):
        return vision.RandomResizedCrop(
            transform.size, transform.scale, transform.ratio, _FILTERS[transform.interpolation]
        )
    if isinstance(transform, RandomCrop):
        return vision.RandomCrop(transform.size, transform.padding)
    if isinstance(transform, HorizontalFlip):
        return vision.RandomHorizontalFlip(transform.probability)
    if isinstance(transform, ColorJitter):
        factors = {
            name: (max(0.0, 1 - strength), 1 + strength)
            for name in ("brightness", "contrast", "saturation")
            if (strength := getattr(transform, name))
        }
        return vision.RandomColorAdjust(**factors)
    raise UsageError(
        f"MindSpore's pipeline has no transform {transform.name!r}; leave it out, or read the "
        "images with dataset.name: class_folders"
    )

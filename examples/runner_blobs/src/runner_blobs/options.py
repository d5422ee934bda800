"""Keys that recipes may set beside the name of an entry."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt

from runner import options


@options
class TinyCnnOptions:
    """The keys of `model:` besides `name`."""

    width: Annotated[int, Gt(0)] = 8
    """Channels of the first convolution."""


@options
class BlobsOptions:
    """The keys of `dataset:` besides `name`."""

    count: Annotated[int, Ge(8)] = 960
    """Training images; validation has a quarter of them."""
    size: Annotated[int, Ge(16)] = 32
    """Height and width in pixels."""

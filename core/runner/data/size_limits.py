"""How large images and batches may be: refused before memory is taken for them."""

from __future__ import annotations

import os
from contextlib import suppress

from runner.errors import DataError
from runner.terminal.display import counted

MAX_PIXELS = 89_478_485
"""Pixels above which an image is refused; Pillow's own limit of 256 MiB at 3 bytes per pixel."""

MAX_FILE = 1 << 29
"""Bytes of an image's file."""

MAX_LIST = 1 << 30
"""Bytes of a file that lists images or names."""

MAX_SIDE = 8192
"""Largest side of an image that a step makes or a generator gives, in pixels."""


def check_batches(images: int, batches: int, size: tuple[int, int]) -> None:
    """Refuse batches that the memory of this machine cannot hold.

    Args:
        images: Images of one batch on one process.
        batches: Batches that are held at once.
        size: Height and width of an image.

    Raises:
        DataError: They take more than there is.
    """
    held = f"{counted(batches, 'batch')} of {counted(images, 'image')}"
    _check(held, images * batches, size, "train.batch_size or eval.batch_size", "prefetch_batches")


def check_threads(threads: int, size: tuple[int, int]) -> None:
    """Refuse images that the memory of this machine cannot hold, one for each thread that reads.

    Args:
        threads: How many there are.
        size: Height and width of the largest image that the steps make of one.

    Raises:
        DataError: They take more than there is.
    """
    _check(f"one image for each of {counted(threads, 'thread')}", threads, size, "", "workers")


def _check(held: str, images: int, size: tuple[int, int], batch: str, loader: str) -> None:
    memory = _memory()
    height, width = size
    needed = images * height * width * 3
    if memory and needed > memory:
        raise DataError(
            f"{needed / 2**30:,.1f} GiB for {held} of {width} x {height} pixels, and this machine "
            f"has {memory / 2**30:,.1f} GiB; lower {batch}{', ' * bool(batch)}the size in "
            f"transforms, or loader.{loader}"
        )


def _memory() -> int:
    """Return the bytes of memory of this machine, 0 where the system does not tell."""
    with suppress(ValueError, OSError, AttributeError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return 0

"""What a recipe decides of the way from an encoded image to pixels, and what is noticed there."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, final

from annotated_types import Ge, Le

from runner.options import options

if TYPE_CHECKING:
    from collections.abc import Callable

GreyBits = Annotated[int, Ge(8), Le(32)]


@options
class Decoding:
    """How encoded images become pixels, the same in training and everywhere a model is used."""

    exif_orientation: Literal["ignore", "apply"] = "ignore"
    grey_bits: GreyBits = 16


AS_STORED = Decoding()


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Something about the images of a split that leaves other pixels than somebody may expect."""

    what: str
    """Such as ``exif_orientation``."""
    message: str
    image: str
    """The first of these images."""
    images: int | None = None
    """How many they are; ``None`` as long as not all have been read."""
    read: int | None = None
    """Images that were looked at."""


_TOTALS = {
    "exif_orientation": "are stored turned and were not put upright (dataset.exif_orientation)",
    "grey_bits": "have grey values that do not fit dataset.grey_bits",
    "decoder": "were decoded with a message of their decoder",
    "colour_bits": "became black: colours of 16 bits with values of 8",
}


@final
class Noticed:
    """Counts what decoding notices of the images of a split, on any thread.

    Each kind of thing is reported twice: at once, with the first image, and with the number of
    images after the first pass over the split.
    """

    def __init__(self, report: Callable[[Notice], None]) -> None:
        self._report = report
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._first: dict[str, tuple[str, str]] = {}
        self._untold: list[str] = []
        self._is_counted = False

    def begin(self) -> None:
        """Count from the beginning: a pass that was not finished counts no images."""
        with self._lock:
            self._counts.clear()

    def note(self, image: str, what: str, message: str) -> None:
        """Count one image; ``message`` says of it what was noticed, and what to do."""
        with self._lock:
            self._counts[what] += 1
            if what not in self._first:
                self._first[what] = image, message
                self._untold.append(what)

    def tell(self) -> None:
        """Report what was noticed for the first time."""
        while self._untold:
            what = self._untold.pop(0)
            image, message = self._first[what]
            self._report(Notice(what=what, message=f"{image}: {message}", image=image))

    def tell_totals(self, read: int) -> None:
        """Report the numbers of images, once, after the first pass over ``read`` images."""
        self.tell()
        if self._is_counted:
            return
        self._is_counted = True
        for what, images in self._counts.items():
            if what in _TOTALS:
                message = f"{images} of {read} images {_TOTALS[what]}"
                first = self._first[what][0]
                self._report(
                    Notice(what=what, message=message, image=first, images=images, read=read)
                )


def unreported(_notice: Notice) -> None:
    """Report nothing: for images of which something else reports."""

"""The image files of a split, listed once and kept in a file that all processes share.

Listing 14 million files takes 11 s of processor time, and much longer over a network, and every
process of every run would do it again. A split of many images is therefore listed by one process
of a machine, while the others wait; what it finds is kept in one file, which they map into their
memory. ``RUNNER_INDEX`` says where:

    auto      splits of 100,000 images and more are kept below ``$XDG_CACHE_HOME``, or ``~/.cache``
    none      nothing is kept: every process lists
    FOLDER    every split is kept there

An index is used only while every folder and text file that it was made of is as it was (see
``sources``), and when it is whole; otherwise the split is listed again.
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np

from runner.data.image_files import ImageFiles, IndexReport
from runner.data.index.file import IndexFile
from runner.data.index.paths import PathTableBuilder
from runner.data.index.sources import Sources

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from runner.data.index.file import Key

WHERE = "RUNNER_INDEX"
LEAST_IMAGES = 100_000
"""Images of a split below which listing is as cheap as looking for its index."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Some of the images, in order."""

    prefix: str
    """What all paths begin with."""
    paths: Sequence[str]
    """The rest of each path."""
    labels: int | Sequence[int]
    """One of all, or one of each."""
    ignored: int = 0
    """Files beside them that are no images."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What a layout finds."""

    folder: str
    """Where all paths start."""
    classes: Sequence[str]
    parts: Iterable[Part]


def open_image_files(key: Key, read: Callable[[Sources], Listing]) -> ImageFiles:
    """Return the images of a split, from its index if that is current.

    Args:
        key: What it is made from.
        read: Lists the images, and notes what they depend on before it is read.
    """
    started = time.perf_counter()
    file = _file_of(key)
    if file is None:
        return _Collector(read, Sources()).images()
    images, why = file.load()
    reason: str | None = ""
    if images is None:
        images, reason = _list(file, read, why)
    if reason is not None:
        images.index = IndexReport(
            source="listed" if reason else "cached",
            seconds=round(time.perf_counter() - started, 3),
            file=str(file.path),
            reason=reason,
        )
    return images


def _list(
    file: IndexFile, read: Callable[[Sources], Listing], why: str
) -> tuple[ImageFiles, str | None]:
    """List a split, or let another process do it.

    Returns:
        The images, and why they had to be listed: "" if another process has, and ``None`` if there
        are too few to keep them.
    """
    with ExitStack() as stack:
        locked = file.expects_many()
        if locked and (other := _of_another(file, stack)):
            return other, ""
        noted = Sources()
        collector = _Collector(read, noted)
        for count in collector.counts():
            if not locked and count >= file.least_images:
                locked = True
                if other := _of_another(file, stack):
                    return other, ""
        images = collector.images()
        if not locked:
            return images, None
        trouble = noted.doubts() or file.store(images, noted)
    if trouble:
        return images, f"{why}; not kept: {trouble}"
    return file.load()[0] or images, why  # shared with the others, in place of memory of its own


def _of_another(file: IndexFile, stack: ExitStack) -> ImageFiles | None:
    """Become the process that lists, or return what another one has listed meanwhile."""
    if not file.lock(stack):
        return None
    images, _ = file.load()
    if images is None:
        # It could not be kept. All list at the same time now, not one after the other.
        stack.close()
    return images


@final
class _Collector:
    """Gathers what a layout lists."""

    def __init__(self, read: Callable[[Sources], Listing], noted: Sources) -> None:
        self._listing = read(noted)
        self._parts = iter(self._listing.parts)
        self._paths = PathTableBuilder()
        self._labels: list[NDArray[Any]] = []
        self._ignored = 0

    def counts(self) -> Iterator[int]:
        """List part after part, and yield how many images there are so far."""
        smallest = np.min_scalar_type(max(len(self._listing.classes) - 1, 0))
        for part in self._parts:
            self._paths.add(part.prefix, part.paths)
            labels = np.empty(len(part.paths), smallest)
            labels[:] = part.labels
            self._labels.append(labels)
            self._ignored += part.ignored
            yield self._paths.count

    def images(self) -> ImageFiles:
        """List what is left, and return all."""
        for _ in self.counts():
            pass
        return ImageFiles(
            folder=self._listing.folder,
            paths=self._paths.table(),
            labels=np.concatenate(self._labels),
            classes=self._listing.classes,
            ignored_files=self._ignored,
        )


def _file_of(key: Key) -> IndexFile | None:
    """Return the place of an index; ``None`` if none is to be kept."""
    where = os.environ.get(WHERE, "") or "auto"
    if where == "none":
        return None
    if where != "auto":
        return IndexFile(Path(where).expanduser(), key, least_images=0)
    cache = os.environ.get("XDG_CACHE_HOME", "") or os.path.expanduser("~/.cache")  # noqa: PTH111
    return IndexFile(Path(cache) / "vision-runner" / "index", key, least_images=LEAST_IMAGES)

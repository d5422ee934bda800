"""Images that are there twice, as far as file systems tell without reading any.

Of validation images that are training images, and of images with two labels, the same folder under
two names, the same file named twice, and links are found. Copies are not: telling them apart takes
reading all images.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from runner.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from runner.data.image_files import ImageFiles

    Identity = tuple[int, int]

MANY = 100_000
"""Images above which links are compared only with training images of the same name: asking for each
file would take longer than to list them."""
LOOKED_AT = 1_000
"""Images of each split that tell whether there are any links among so many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """How many images are there twice, and one of them."""

    images: int
    example: str = ""


def overlap(train: ImageFiles, val: ImageFiles) -> Overlap:
    """Count the validation images that are training images too."""
    found = _in_same_folders(train, val)
    if not found.all() and _has_links(train, val):
        found |= _same_files(train, val, ~found)
    if not found.any():
        return Overlap(images=0)
    return Overlap(images=int(found.sum()), example=val.describe(int(found.argmax())))


def two_labels(images: ImageFiles) -> Overlap:
    """Count the images that are one file with an image of another class, where they are not many.

    Raises:
        DataError: All images of a class are also those of another one.
    """
    count = len(images.labels)
    if count > MANY:
        return Overlap(images=0)
    linked = any(_is_link(images.describe(index)) for index in _spread(count))
    labels: list[int] = images.labels.tolist()
    first: dict[object, int] = {}
    wrong = []
    for index, label in enumerate(labels):
        path = images.paths[index]
        key = (_identity(images.describe(index)) or path) if linked else path
        if labels[first.setdefault(key, index)] != label:
            wrong.append((index, first[key]))
    _check_classes_differ(images, labels, wrong)
    return Overlap(images=len(wrong), example=images.describe(wrong[0][0]) if wrong else "")


def repeated(images: ImageFiles) -> Overlap:
    """Count the lines that name an image again with its label, where images are not many."""
    count = len(images.labels)
    if count > MANY:
        return Overlap(images=0)
    seen: set[tuple[str, int]] = set()
    again = []
    for index, label in enumerate(images.labels.tolist()):
        known = len(seen)
        seen.add((images.paths[index], label))
        if len(seen) == known:
            again.append(index)
    return Overlap(images=len(again), example=images.describe(again[0]) if again else "")


def _check_classes_differ(
    images: ImageFiles, labels: list[int], wrong: list[tuple[int, int]]
) -> None:
    sizes = Counter(labels)
    shared = Counter((labels[index], labels[other]) for index, other in wrong)
    for (label, other), count in shared.items():
        if count == sizes[label]:
            one, two = (images.classes[number] for number in (other, label))
            raise DataError(
                f"of the class {two!r} every image ({count:,}) is the same file as one of {one!r}, "
                f"such as {images.describe(wrong[0][0])}; expected classes of different images, "
                "remove one of them"
            )


def _in_same_folders(train: ImageFiles, val: ImageFiles) -> NDArray[np.bool_]:
    """Mark the images that lie in one folder with a training image of the same name."""
    here, there = (_folder_identities(images) for images in (val, train))
    shared = set(here) & set(there) - {None}
    found = np.zeros(len(val.labels), np.bool_)
    if shared:
        known = set(_named(train, there, shared))
        for index, place in zip(_inside(val, here, shared), _named(val, here, shared), strict=True):
            found[index] = place in known
    return found


def _folder_identities(images: ImageFiles) -> list[Identity | None]:
    return [_identity(os.path.join(images.folder, name)) for name in images.paths.folders]  # noqa: PTH118


def _inside(
    images: ImageFiles, identities: list[Identity | None], shared: set[Identity | None]
) -> list[int]:
    """Return the images in some of the folders."""
    chosen = np.array([identity in shared for identity in identities], np.bool_)
    indices: list[int] = np.flatnonzero(chosen[images.paths.folder_of]).tolist()
    return indices


def _named(
    images: ImageFiles, identities: list[Identity | None], shared: set[Identity | None]
) -> Iterator[tuple[Identity | None, str]]:
    """Yield folder and name of the images in some of the folders."""
    for index in _inside(images, identities, shared):
        folder = identities[int(images.paths.folder_of[index])]
        yield folder, images.paths[index].rpartition("/")[2]


def _has_links(train: ImageFiles, val: ImageFiles) -> bool:
    return any(
        _is_link(images.describe(index))
        for images in (val, train)
        for index in _spread(len(images.labels))
    )


def _spread(count: int) -> list[int]:
    """Return up to ``LOOKED_AT`` positions, evenly spread."""
    chosen: list[int] = np.unique(
        np.linspace(0, count - 1, min(count, LOOKED_AT)).astype(np.int64)
    ).tolist()
    return chosen


def _is_link(path: str) -> bool:
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISLNK(status.st_mode) or status.st_nlink > 1


def _same_files(train: ImageFiles, val: ImageFiles, among: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Mark the images that are the same file as a training image."""
    positions: Iterable[int] = range(len(train.labels))
    if len(train.labels) > MANY:
        names = {val.paths[index].rpartition("/")[2] for index in np.flatnonzero(among).tolist()}
        positions = (index for index in positions if train.paths[index].rpartition("/")[2] in names)
    known = {_identity(train.describe(index)) for index in positions} - {None}
    found = np.zeros(len(val.labels), np.bool_)
    for index in np.flatnonzero(among) if known else ():
        found[index] = _identity(val.describe(int(index))) in known
    return found


def _identity(path: str) -> Identity | None:
    try:
        status = os.stat(path)  # noqa: PTH116  called for many
    except OSError:  # who reads it tells of it
        return None
    return status.st_dev, status.st_ino

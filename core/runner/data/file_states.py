"""What the image files of a split were like, to say later what has changed.

Sizes and times of modification stand for the files, and the contents of a few for all of them. Of
a split with many images an even spread is looked at, and the number of images of each class.
"""

from __future__ import annotations

import os
import stat
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from runner.data.layouts.images import shown
from runner.data.size_limits import MAX_FILE
from runner.storage import files
from runner.terminal.display import counted

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Mapping, Sequence

    from runner.data.image_files import ImageFiles

MOST = 1_000
"""Images of a split whose size and time are kept."""
READ = 32
"""Images of a split whose content is kept as a checksum."""
_SEPARATOR = "\t"


def content(images: ImageFiles) -> str:
    """Return a checksum over the sizes of some images and the bytes of a few.

    Times are left out: copies of the same images have others.
    """
    crc = 0
    for index, read in _chosen(images):
        size, _, found = _look(images.describe(index), read=read)
        crc = zlib.crc32(f"{size} {found}\n".encode(), crc)
    return f"{crc:08x}"


def unreadable(images: ImageFiles) -> list[str]:
    """Return which of the images that are looked at cannot be read, each with the reason."""
    looked_at = (images.describe(index) for index, _ in _chosen(images))
    return [f"{path} {reason}" for path in looked_at if (reason := _why_not(path))]


def _why_not(path: str) -> str:
    try:
        status = os.stat(path)  # noqa: PTH116  called for many
    except FileNotFoundError:
        return "leads nowhere" if os.path.islink(path) else "does not exist"  # noqa: PTH114
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if not stat.S_ISREG(status.st_mode):
        return "is not a file"
    if not os.access(path, os.R_OK):
        return "cannot be read: Permission denied"
    return "" if status.st_size else "is empty"


def describe(images: ImageFiles) -> dict[str, Any]:
    """Return what a run keeps of its files (JSON).

    ``images`` holds a text for each that was looked at: size in bytes, time of modification in ns,
    CRC-32 of its bytes or "-", and its path.
    """
    return {
        "per_class": _per_class(images),
        "complete": len(images.labels) <= MOST,
        "images": [
            _SEPARATOR.join((*_look(images.describe(index), read=read), images.paths[index]))
            for index, read in _chosen(images)
        ],
    }


def differences(before: Mapping[str, Any], images: ImageFiles) -> list[str]:
    """Say what has changed since ``describe``, in a few words for each kind of change."""
    kept = [text.split(_SEPARATOR, 3) for text in before["images"]]
    there = _there(before, images)
    same = [(*item, *_again(images, item)) for item in kept if item[3] in there]
    other, touched = [], []
    for size, time, crc, name, size_now, time_now, crc_now in same:
        if (size, crc) != (size_now, crc_now):
            other.append(name)
        elif time != time_now:
            touched.append(name)
    gone = [name for *_, name in kept if name not in there]
    of = "" if before["complete"] else f" of the {len(kept)} that were looked at"
    read = sum(crc != "-" for _, _, crc, *_ in same)
    found = [
        *_added(before, images),
        *_told(gone, "image", f" gone{of}"),
        *_told(other, "image", f" with another size or content{of}"),
        *_told(touched, "image", f" with another time of modification and the same size{of}"),
    ]
    return [*found, f"the contents of {read} were compared"] if touched else found


def _told(names: Sequence[str], noun: str, what: str = "") -> Iterator[str]:
    if names:
        yield f"{counted(len(names), noun)}{what}: {shown(names)}"


def _there(before: Mapping[str, Any], images: ImageFiles) -> Container[str]:
    """Return the names of those that the split has; of one with many images, all that exist."""
    if before["complete"]:
        return {images.paths[index] for index in range(len(images.labels))}
    names = (text.split(_SEPARATOR, 3)[3] for text in before["images"])
    return {name for name in names if os.path.lexists(_path(images, name))}


def _added(before: Mapping[str, Any], images: ImageFiles) -> Iterator[str]:
    if before["complete"]:
        known = {text.split(_SEPARATOR, 3)[3] for text in before["images"]}
        names = (images.paths[index] for index in range(len(images.labels)))
        yield from _told([name for name in names if name not in known], "new image")
        return
    old, now = before["per_class"].split(), _per_class(images).split()
    counts = zip(images.classes, old, now, strict=False)
    changed = [f"{name} {was} -> {has}" for name, was, has in counts if was != has]
    yield from _told(changed, "class", " with another number of images")


def _per_class(images: ImageFiles) -> str:
    counts = np.bincount(images.labels, minlength=len(images.classes))
    return " ".join(map(str, counts.tolist()))


def _chosen(images: ImageFiles) -> Iterator[tuple[int, bool]]:
    """Yield the images that are looked at, and whether they are read."""
    count = len(images.labels)
    positions = np.unique(np.linspace(0, count - 1, min(count, MOST)).astype(np.int64))
    read = set(np.linspace(0, len(positions) - 1, min(len(positions), READ)).astype(np.int64))
    for place, index in enumerate(positions):
        yield int(index), place in read


def _again(images: ImageFiles, item: Sequence[str]) -> tuple[str, str, str]:
    return _look(_path(images, item[3]), read=item[2] != "-")


def _path(images: ImageFiles, name: str) -> str:
    return os.path.join(images.folder, name)  # noqa: PTH118  called for many


def _look(path: str, *, read: bool) -> tuple[str, str, str]:
    """Return size, time of modification and checksum; "-" for what cannot be told."""
    try:
        status = os.stat(path)  # noqa: PTH116  called for many
        crc = f"{zlib.crc32(files.read_regular(Path(path), MAX_FILE)):08x}" if read else "-"
    except OSError:  # who trains with it tells of it
        return "-", "-", "-"
    return str(status.st_size), str(status.st_mtime_ns), crc

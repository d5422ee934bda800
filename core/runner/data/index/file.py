"""The file that keeps the index of one split. Deleting it costs nothing but the time to list.

It holds, one after the other:

    magic, length and SHA-256 of the header
    header      JSON: key, sources, classes, folders, place and CRC-32 of the arrays
    arrays      labels, folder of each image, offset of each name, names
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import mmap
import os
import platform
import struct
import time
import zlib
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np

from runner.data.image_files import ImageFiles
from runner.data.index import sources
from runner.data.index.paths import PathTable
from runner.storage import files

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import ExitStack
    from pathlib import Path

    from runner.data.index.sources import Sources

FORMAT = 2
_LEFT_OVER_S = 3600
_BYTES_OF_A_LINE = 100
"""Of a text file of paths and labels; longer than most."""
_START = struct.Struct("<8sQ32s")
_MAGIC = b"RUNNERIX"


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """What a split is made from; another key has another index."""

    layout: str
    paths: Sequence[Path | None]
    """Folders and files, as the recipe names them."""
    options: Sequence[str] = ()
    """What else decides the listing."""

    def as_json(self) -> dict[str, Any]:
        """Return it with the format of the index."""
        return {
            "format": FORMAT,
            "layout": self.layout,
            "paths": [None if path is None else str(path) for path in self.paths],
            "absolute": [None if path is None else str(path.absolute()) for path in self.paths],
            "options": list(self.options),
        }


@final
class IndexFile:
    """The file that keeps the index of one split."""

    def __init__(self, folder: Path, key: Key, *, least_images: int) -> None:
        """Name the file after its key.

        Args:
            folder: Where indices are kept; made when the first one is.
            key: What it is the index of.
            least_images: Images of the smallest split that is worth an index.
        """
        self._key = key.as_json()
        self._paths = key.paths
        name = hashlib.sha256(json.dumps(self._key, sort_keys=True).encode()).hexdigest()[:24]
        self.path = folder.absolute() / f"{name}.index"
        self.least_images = least_images

    def expects_many(self) -> bool:
        """Say whether the split must be large, before it is read: by the size of its text files."""
        size = 0
        for path in filter(None, self._paths):
            with suppress(OSError):  # who reads it tells of it
                size += path.stat().st_size if path.is_file() else 0
        return size // _BYTES_OF_A_LINE >= self.least_images

    def lock(self, stack: ExitStack) -> bool:
        """Keep other processes of this machine from listing the same, until the stack is closed.

        Returns:
            Whether another one has done so meanwhile, and this one has waited for it.
        """
        with suppress(OSError):  # storing tells of it; some network file systems have no locks
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(self.path.with_suffix(".lock").open("wb"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                fcntl.flock(file, fcntl.LOCK_EX)
                return True
        return False

    def load(self) -> tuple[ImageFiles | None, str]:
        """Map the file, and return the images, or why they must be listed."""
        try:
            with self.path.open("rb") as file:
                content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            header, body = _checked(content)
            if header["key"] != self._key:
                return None, "the index is of other data"
            stale = sources.changed(header["sources"])
            if stale:
                return None, f"{stale} has changed"
            return _images(header, body), ""
        except FileNotFoundError:
            return None, "there was no index"
        except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
            return None, f"the index {self.path} cannot be used: {error}"

    def store(self, images: ImageFiles, noted: Sources) -> str:
        """Write the file; return "" if all went well, and why not otherwise."""
        paths = images.paths
        arrays = {
            "labels": images.labels,
            "folder_of": paths.folder_of,
            "offsets": paths.offsets,
            "names": np.frombuffer(paths.names, np.uint8),
        }
        parts, end, crc = {}, 0, 0
        for name, array in arrays.items():
            parts[name] = [array.dtype.str, len(array), end]
            crc = zlib.crc32(b"\0" * (-array.nbytes % 8), zlib.crc32(array.data, crc))
            end += array.nbytes + -array.nbytes % 8
        header = {
            "key": self._key,
            "sources": noted.states,
            "folder": images.folder,
            "classes": images.classes,
            "folders": paths.folders,
            "ignored": images.ignored_files,
            "sha256": images.sha256(),
            "arrays": parts,
            "bytes": end,
            "crc32": crc,
        }
        text = json.dumps(header).encode()
        text += b" " * (-(_START.size + len(text)) % 8)
        start = _START.pack(_MAGIC, len(text), hashlib.sha256(text).digest())
        temporary = self.path.with_suffix(f".{platform.node()}.{os.getpid()}.tmp")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._remove_left_over()
            with temporary.open("wb") as file:
                file.write(start + text)
                for array in arrays.values():
                    file.write(array.data)
                    file.write(b"\0" * (-array.nbytes % 8))
            files.sync(temporary)
            temporary.replace(self.path)
        except OSError as error:
            return f"{self.path}: {error.strerror or error}"
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        return ""

    def _remove_left_over(self) -> None:
        """Delete what processes that were killed have not finished writing."""
        for path in self.path.parent.glob(f"{self.path.stem}.*.tmp"):
            if time.time() - path.stat().st_mtime > _LEFT_OVER_S:
                path.unlink(missing_ok=True)


def _checked(content: memoryview) -> tuple[dict[str, Any], memoryview]:
    """Return header and arrays.

    Raises:
        ValueError: The file is cut off, or its bytes are not what was written.
    """
    magic, length, digest = _START.unpack_from(content)
    text = content[_START.size : _START.size + length]
    if magic != _MAGIC or hashlib.sha256(text).digest() != digest:
        raise ValueError("its header is damaged")
    header = json.loads(bytes(text))
    body = content[_START.size + length :]
    if len(body) != header["bytes"] or zlib.crc32(body) != header["crc32"]:
        raise ValueError("it is cut off or damaged")
    return header, body


def _images(header: Mapping[str, Any], body: memoryview) -> ImageFiles:
    arrays = {
        name: np.frombuffer(body, kind, count, start)
        for name, (kind, count, start) in header["arrays"].items()
    }
    return ImageFiles(
        folder=header["folder"],
        paths=PathTable(
            folders=header["folders"],
            folder_of=arrays["folder_of"],
            offsets=arrays["offsets"],
            names=arrays["names"].data,
        ),
        labels=arrays["labels"],
        classes=header["classes"],
        ignored_files=header["ignored"],
        sha256=header["sha256"],
    )

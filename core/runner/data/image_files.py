"""A split whose images are files."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, final

import numpy as np

from runner.data.index.paths import PathTable, path_table
from runner.data.size_limits import MAX_FILE
from runner.storage import files

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_LABELS_AT_ONCE = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexReport:
    """How the images of a split were found, where that is kept: see ``data.index.listing``."""

    source: Literal["listed", "cached"]
    seconds: float
    file: str
    """The index."""
    reason: str
    """Why they were listed, and why that was not kept if it was not; "" if they were not."""


@final
class ImageFiles:
    """Image files below one folder, with their labels."""

    def __init__(
        self,
        *,
        folder: str,
        paths: Sequence[str] | PathTable,
        labels: NDArray[np.integer[Any]],
        classes: Sequence[str],
        ignored_files: int = 0,
        sha256: str = "",
    ) -> None:
        assert len(paths) == len(labels), "every path has a label"
        self.folder = folder
        self.paths = paths if isinstance(paths, PathTable) else path_table(paths)
        """Paths below the folder."""
        self.index: IndexReport | None = None
        """``None`` if no index is kept of so few images."""
        self._labels = labels
        self._classes = tuple(classes)
        self._ignored_files = ignored_files
        self._sha256 = sha256

    @property
    def classes(self) -> Sequence[str]:
        """Class names; the position of a name is its label."""
        return self._classes

    @property
    def labels(self) -> NDArray[np.integer[Any]]:
        """Labels ``[N]``, of the smallest type that holds them."""
        return self._labels

    @property
    def ignored_files(self) -> int:
        """Files in the folders that are not images by their ending; hidden ones do not count."""
        return self._ignored_files

    def read(self, index: int) -> bytes:
        """Return the bytes of a file."""
        return files.read_regular(Path(self.describe(index)), MAX_FILE)

    def describe(self, index: int) -> str:
        """Return the path of a file."""
        # os.path.join instead of pathlib: called once per image.
        return os.path.join(self.folder, self.paths[index])  # noqa: PTH118

    def sha256(self) -> str:
        """Return a hash over classes, labels as int64, and file names."""
        if not self._sha256:
            digest = hashlib.sha256("\0".join(self._classes).encode(errors="surrogateescape"))
            for start in range(0, len(self._labels), _LABELS_AT_ONCE):
                digest.update(self._labels[start : start + _LABELS_AT_ONCE].astype(np.int64).data)
            digest.update(self.paths.names)
            self._sha256 = digest.hexdigest()
        return self._sha256

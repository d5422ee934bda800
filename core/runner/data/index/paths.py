"""Paths of many images in few bytes.

A list of 14 million strings takes more than a gigabyte in every process. Here the file names are
one block of bytes, and each folder stands once: about 27 bytes for an image of ImageNet, in arrays
that can also be views of a file which all processes of a machine share.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Unsigned = NDArray[np.unsignedinteger[Any]]

_CODEC = ("utf-8", "surrogateescape")
"""Names of files are bytes; those that are no UTF-8 come back as they were."""


@final
class PathTable:
    """N paths, each a folder and a file name."""

    def __init__(
        self, *, folders: Sequence[str], folder_of: Unsigned, offsets: Unsigned, names: memoryview
    ) -> None:
        """Put the parts together.

        Args:
            folders: Each folder once, with the slash at its end; "" for names without one.
            folder_of: Positions among the folders ``[N]``.
            offsets: Where each name begins among ``names``, and where the last one ends ``[N+1]``.
            names: All file names, without anything between them.
        """
        self.folders = tuple(folders)
        self.folder_of = folder_of
        self.offsets = offsets
        self.names = names
        """All file names one after the other."""

    def __len__(self) -> int:
        return len(self.folder_of)

    def __getitem__(self, index: int) -> str:
        index = range(len(self))[index]  # from the end if negative, or an IndexError
        name = self.names[int(self.offsets[index]) : int(self.offsets[index + 1])]
        return self.folders[int(self.folder_of[index])] + str(name, *_CODEC)


@final
class PathTableBuilder:
    """Collects paths."""

    def __init__(self) -> None:
        self._folders: dict[str, int] = {}
        self._folder_of: list[NDArray[np.uint32]] = []
        self._lengths: list[NDArray[np.uint32]] = []
        self._names = bytearray()
        self.count = 0

    def add(self, prefix: str, paths: Sequence[str]) -> None:
        """Add paths that all begin with ``prefix``, which they are given without."""
        joined = "".join(paths)
        names = paths
        if "/" in joined:
            parts = [path.rpartition("/") for path in paths]
            names = [name for _, _, name in parts]
            joined = "".join(names)
            folders = (self._number(prefix + head + slash) for head, slash, _ in parts)
            self._folder_of.append(np.fromiter(folders, np.uint32, len(parts)))
        else:
            self._folder_of.append(np.full(len(paths), self._number(prefix), np.uint32))
        block = joined.encode(*_CODEC)
        plain = len(block) == len(joined)
        lengths = map(len, names) if plain else (len(name.encode(*_CODEC)) for name in names)
        self._lengths.append(np.fromiter(lengths, np.uint32, len(names)))
        self._names += block
        self.count += len(paths)

    def table(self) -> PathTable:
        """Return the table of what was added."""
        offsets = np.zeros(self.count + 1, np.min_scalar_type(len(self._names)))
        if self.count:
            np.cumsum(np.concatenate(self._lengths), out=offsets[1:])
        folder_of = np.empty(self.count, np.min_scalar_type(len(self._folders)))
        if self.count:
            np.concatenate(self._folder_of, out=folder_of, casting="unsafe")
        return PathTable(
            folders=tuple(self._folders),
            folder_of=folder_of,
            offsets=offsets,
            names=memoryview(self._names).toreadonly(),
        )

    def _number(self, folder: str) -> int:
        return self._folders.setdefault(folder, len(self._folders))


def path_table(paths: Sequence[str]) -> PathTable:
    """Make a table of a list of paths."""
    builder = PathTableBuilder()
    builder.add("", paths)
    return builder.table()

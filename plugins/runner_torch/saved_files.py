"""Files that ``torch.save`` wrote, in each of its three forms, as NumPy arrays.

An archive (since torch 1.6) holds one pickle and a member for each storage. Before, pickles and
storages followed each other in a plain file; before torch 0.1.10, they were members of a tar file.
Nothing in them is executed, no more memory is taken than the file has bytes, and torch is not
imported.
"""

from __future__ import annotations

import struct
import tarfile
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from math import prod
from typing import IO, TYPE_CHECKING, Any, final

import numpy as np

from runner.contracts import StoredWeights
from runner.errors import CheckpointError
from runner.framework import short_floats
from runner_torch import pickles
from runner_torch.pickles import Foreign, Global, Readable, StoredTensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

MAGIC = 0x1950A86A20F9469CFC6C
"""The first pickle of a plain file."""
PLAIN = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""That pickle, as it is written."""
FORMATS = {
    "Float": "<f4", "Double": "<f8", "Half": "<f2", "BFloat16": "bfloat16",
    "Long": "<i8", "Int": "<i4", "Short": "<i2", "Char": "|i1", "Byte": "|u1", "Bool": "|b1",
}  # fmt: skip
"""Formats of numbers by torch's names of storages."""
DTYPES = {
    "float32": "<f4", "float64": "<f8", "float16": "<f2", "int64": "<i8", "int32": "<i4",
    "int16": "<i2", "int8": "|i1", "uint8": "|u1", "uint16": "<u2", "uint32": "<u4",
    "uint64": "<u8", "bool": "|b1", **{kind: kind for kind in short_floats.BYTES},
}  # fmt: skip
"""Formats of numbers by torch's names of them."""
DEPTH = 4
"""Dictionaries inside each other that are looked through for tensors."""


class Unreadable(Exception):  # noqa: N818  it never leaves this module
    """What is wrong with a file."""


@final
@dataclass(slots=True, eq=False)
class _Storage:
    """Numbers that tensors look at."""

    kind: str
    count: int
    """Numbers that it is to hold, of bytes where it has no format."""
    fetch: Callable[[], bytes | memoryview] = bytes

    def data(self) -> bytes | memoryview:
        """Return the bytes, which are read only now where the file allows it."""
        found = self.fetch()
        if len(found) != self.count * _size(self.kind or "|u1"):
            raise Unreadable(f"a storage has {len(found)} bytes, and {self.count} numbers")
        return found

    def fill(self, data: bytes | memoryview) -> None:
        self.fetch = lambda: data


@final
class _Bounded:
    """A file that is never asked for more than it has: memory would be taken for it at once."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file = file
        self._size = size
        self.readline = file.readline

    def read(self, count: int) -> bytes:
        return self._file.read(max(0, min(count, self._size - self._file.tell())))


def recognises(path: Path) -> bool:
    """Say whether a file is one that ``torch.save`` wrote, by its content."""
    try:
        with path.open("rb") as file:
            start = file.read(len(PLAIN))
        if start == PLAIN:
            return True
        if start.startswith(b"PK"):
            with zipfile.ZipFile(path) as archive:
                return _pickle_member(archive) is not None
        return _is_tar(path)
    except Exception:  # noqa: BLE001  a damaged file of any kind
        return False


def _is_tar(path: Path) -> bool:
    """Say whether a file is of the form of 2017, which is never compressed."""
    try:
        with tarfile.open(path, "r:") as tar:
            return {"sys_info", "pickle"} <= set(tar.getnames())
    except tarfile.TarError:
        return False


def read(path: Path) -> StoredWeights:
    """Read a state dict, or what a training script saved.

    Tensors are taken, of modules that were saved as a whole too; all else is ignored by name.

    Raises:
        CheckpointError: The file cannot be read, or holds no tensor with a name.
    """
    try:
        with _content(path) as content:
            sets, ignored = _collect(content)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}; check its permissions") from error
    except Exception as error:  # damage shows in any way
        raise CheckpointError(
            f"{path} cannot be read as a torch weights file: {_reason(error)}; expected a complete "
            "file that torch.save wrote"
        ) from error
    if not sets:
        kind = content.cls if isinstance(content, Foreign) else type(content).__name__
        keys = f"keys {sorted(map(str, content))[:20]}" if isinstance(content, dict) else kind
        raise CheckpointError(
            f"{path} holds no tensors with names: found {keys}; expected a state dict (re-save it "
            "with torch.save(model.state_dict(), path)), at the top or under any key"
        )
    return StoredWeights(sets=sets, ignored=ignored)


def _reason(error: Exception) -> str:
    text = str(error).partition("\n")[0][:200]
    if isinstance(error, Unreadable):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@contextmanager
def _content(path: Path) -> Iterator[Any]:
    """Open what a file holds; storages of an archive can be read until it is closed."""
    with path.open("rb") as file:
        start = file.read(len(PLAIN))
        file.seek(0)
        if not start:
            raise Unreadable("it is empty")
        if start.startswith(b"PK"):
            with _read_archive(path) as content:
                yield content
        elif start.startswith(PLAIN):
            yield _read_plain(_Bounded(file, path.stat().st_size))
        elif _is_tar(path):
            yield _read_tar(path)
        else:
            raise Unreadable("it begins like no file of torch.save")


def _pickle_member(archive: zipfile.ZipFile) -> str | None:
    names = [name for name in archive.namelist() if name.split("/")[1:] == ["data.pkl"]]
    return names[0] if len(names) == 1 else None


@contextmanager
def _read_archive(path: Path) -> Iterator[Any]:
    with zipfile.ZipFile(path) as archive:
        found = _pickle_member(archive)
        if found is None:
            raise Unreadable("the archive has no data.pkl")
        folder = found.partition("/")[0]
        if any(name.startswith(f"{folder}/code/") for name in archive.namelist()):
            raise Unreadable("it is a TorchScript program; save its state_dict() instead")
        order = f"{folder}/byteorder"
        if order in archive.namelist() and _member(archive, order) != b"little":
            raise Unreadable("its numbers are not little-endian")
        storages: dict[str, _Storage] = {}

        def persistent(identity: Any) -> _Storage:
            kind, key, count = _identity(identity)
            if key not in storages:
                member = partial(_member, archive, f"{folder}/data/{key}")
                storages[key] = _Storage(kind, count, member)
            return storages[key]

        yield pickles.load(BytesIO(_member(archive, found)), persistent)


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    info = archive.getinfo(name)
    # torch compresses nothing, so no member of its files is larger than the file
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        raise Unreadable(f"{name} is compressed, which torch.save never does")
    return archive.read(info)


def _identity(identity: Any) -> tuple[str, str, int]:
    """Return format, key and length of a storage."""
    word, cls, key, _location, count = identity[:5]
    if word not in ("storage", b"storage") or type(count) is not int or count < 0:
        raise Unreadable(f"an unknown identity {str(identity)[:50]}")
    return _storage_kind(cls), str(key), count


def _storage_kind(cls: Any) -> str:
    """Return the format of ``torch.FloatStorage``, also of one on an accelerator."""
    name = cls.name.rpartition(".")[2].removesuffix("Storage") if isinstance(cls, Global) else ""
    if name in ("Untyped", ""):
        return ""
    if name not in FORMATS:
        raise Unreadable(f"numbers of the kind {name}, which no weights have")
    return FORMATS[name]


def _read_plain(file: Readable) -> Any:
    if pickles.load(file) != MAGIC or pickles.load(file) != 1001:
        raise Unreadable("it begins like no file of torch.save")
    _check_order(pickles.load(file))
    storages: dict[str, _Storage] = {}

    def persistent(identity: Any) -> Any:
        if identity[0] in ("module", b"module"):  # a class with its source, which is not looked at
            return identity[1]
        kind, key, count = _identity(identity)
        if len(identity) > 5 and identity[5] is not None:
            raise Unreadable("it has views of storages, which torch 0.4 and later do not write")
        return storages.setdefault(key, _Storage(kind, count))

    content = pickles.load(file, persistent)
    for key in pickles.load(file):
        _fill(file, storages[str(key)])
    return content


def _check_order(info: Any) -> None:
    if not isinstance(info, dict) or info.get("little_endian") is not True:
        raise Unreadable("its numbers are not little-endian")


def _fill(file: Readable, storage: _Storage) -> None:
    (count,) = struct.unpack("<q", file.read(8))
    if count != storage.count:
        raise Unreadable(f"a storage holds {count} numbers, and {storage.count} are expected")
    storage.fill(file.read(count * _size(storage.kind or "|u1")))


def _read_tar(path: Path) -> Any:
    with tarfile.open(path, "r:") as tar:
        _check_order(pickles.load(_tar_member(tar, "sys_info", path)))
        known: dict[int, Any] = dict(_tar_storages(_tar_member(tar, "storages", path)))
        known.update(_tar_tensors(_tar_member(tar, "tensors", path), known))

        def persistent(identity: Any) -> Any:
            # a class comes with its source, which is not looked at
            return identity[0] if isinstance(identity, tuple) else known[int(identity)]

        return pickles.load(_tar_member(tar, "pickle", path), persistent)


def _tar_member(tar: tarfile.TarFile, name: str, path: Path) -> IO[bytes]:
    info = tar.getmember(name)
    file = tar.extractfile(info) if info.isreg() and not info.issparse() else None
    if file is None or info.size > path.stat().st_size:
        raise Unreadable(f"{name} is no plain member of the tar file")
    return BytesIO(file.read())


def _tar_storages(file: IO[bytes]) -> Iterator[tuple[int, _Storage]]:
    found: dict[int, _Storage] = {}
    for _ in range(pickles.load(file)):
        key, _location, cls = pickles.load(file)
        (count,) = struct.unpack("<q", file.read(8))
        found[key] = _Storage(_storage_kind(cls), count)
        found[key].fill(file.read(max(0, count) * _size(found[key].kind or "|u1")))
        yield key, found[key]
    for key, root, offset, count in pickles.load(file):
        storage, size = found[root], _size(found[root].kind or "|u1")
        view = _Storage(storage.kind, count)
        view.fill(memoryview(storage.data())[offset * size : (offset + count) * size])
        yield key, view


def _tar_tensors(
    file: IO[bytes], storages: Mapping[int, Any]
) -> Iterator[tuple[int, StoredTensor]]:
    for _ in range(pickles.load(file)):
        key, storage, _cls = pickles.load(file)
        (dimensions, _unused) = struct.unpack("<ii", file.read(8))
        layout = struct.Struct(f"<{max(0, dimensions)}q")
        shape = layout.unpack(file.read(layout.size))
        strides = layout.unpack(file.read(layout.size))
        (offset,) = struct.unpack("<q", file.read(8))
        yield key, pickles.tensor(storages[storage], offset, shape, strides)


def _size(kind: str) -> int:
    return short_floats.BYTES.get(kind) or np.dtype(kind).itemsize


def _array(tensor: StoredTensor) -> NDArray[Any]:
    """Copy the numbers of a tensor into an array of their own."""
    storage = tensor.storage
    if not isinstance(storage, _Storage):
        raise Unreadable("a tensor has no storage")
    kind = DTYPES.get(tensor.kind, storage.kind) or "|u1"
    if tensor.kind and tensor.kind not in DTYPES:
        raise Unreadable(f"numbers of the kind {tensor.kind}, which no weights have")
    if kind in short_floats.BYTES:
        numbers: NDArray[Any] = short_floats.decode(bytes(storage.data()), kind)
    else:
        numbers = np.frombuffer(storage.data(), kind)
    shape, strides = tensor.shape, tensor.strides
    end = tensor.offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True)) + 1
    if prod(shape) == 0:
        return np.empty(shape, numbers.dtype)
    if end > len(numbers) or prod(shape) > len(numbers):
        raise Unreadable(f"a tensor of shape {list(shape)} looks beyond its {len(numbers)} numbers")
    steps = tuple(step * numbers.itemsize for step in strides)
    view = np.lib.stride_tricks.as_strided(numbers[tensor.offset :], shape, steps, writeable=False)
    return np.array(-view if tensor.negated else view, order="C")


def _collect(content: Any) -> tuple[dict[str, dict[str, NDArray[Any]]], tuple[str, ...]]:
    """Return the tensors by the keys that they are kept under, and what else there is."""
    sets: dict[str, dict[str, NDArray[Any]]] = {}
    ignored: list[str] = []
    seen: set[int] = set()
    arrays: dict[int, NDArray[Any]] = {}

    def array(tensor: StoredTensor) -> NDArray[Any]:
        if id(tensor) not in arrays:  # one that is there under several names is one
            arrays[id(tensor)] = _array(tensor)
        return arrays[id(tensor)]

    def visit(item: Any, keys: tuple[str, ...]) -> None:
        if id(item) in seen:
            return
        seen.add(id(item))
        found = _named_tensors(item)
        if found:
            sets[".".join(keys)] = {name: array(tensor) for name, tensor in found.items()}
        members = item.items() if isinstance(item, dict) else ()
        for key, member in members:
            if isinstance(member, StoredTensor) and isinstance(key, str):
                continue
            before = len(sets)
            if isinstance(member, dict | Foreign) and isinstance(key, str) and len(keys) < DEPTH:
                visit(member, (*keys, key))
            if len(sets) == before and (not keys or found):
                ignored.append(f"{str(key)[:60]} ({_kind_of(member)})")

    visit(content, ())
    return sets, tuple(ignored)


def _kind_of(item: Any) -> str:
    return item.cls if isinstance(item, Foreign) else type(item).__name__


def _named_tensors(item: Any) -> dict[str, StoredTensor]:
    """Return the tensors of a state dict, or of a module that was saved as a whole."""
    if isinstance(item, Foreign):
        return dict(_module_tensors(item, "", DEPTH * DEPTH))
    if not isinstance(item, dict):
        return {}
    return {
        name: member
        for name, member in item.items()
        if isinstance(name, str) and isinstance(member, StoredTensor)
    }


def _module_tensors(item: Any, prefix: str, depth: int) -> Iterator[tuple[str, StoredTensor]]:
    if not isinstance(item, Foreign) or not depth:
        return
    state = pickles.state_of(item)
    for part in ("_parameters", "_buffers"):
        yield from (
            (f"{prefix}{name}", member)
            for name, member in _members(state, part)
            if isinstance(member, StoredTensor)
        )
    for name, member in _members(state, "_modules"):
        yield from _module_tensors(member, f"{prefix}{name}.", depth - 1)


def _members(state: Mapping[Any, Any], part: str) -> Iterator[tuple[str, Any]]:
    members = state.get(part)
    if isinstance(members, dict):
        yield from ((name, member) for name, member in members.items() if isinstance(name, str))

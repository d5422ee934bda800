"""Weights between cells, NumPy arrays and files, under canonical (torchvision) names."""

from __future__ import annotations

import math
import zlib
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from runner.contracts import StoredWeights
from runner.errors import CheckpointError
from runner.framework import short_floats
from runner.framework.weights import check_fit
from runner_mindspore.autoload import Tensor, ms, nn, ops
from runner_mindspore.names import torch_leaves, translated
from runner_mindspore.nets import fresh_net

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Any

    from numpy.typing import NDArray

    from runner.entries import EngineSpec

ValueT = TypeVar("ValueT")

VARIANCE, COUNTER = "running_var", "num_batches_tracked"
"""The last tensor of a batch normalisation in MindSpore, and the one that follows in torch."""
CRC_MARK = b"crc_num"
"""What MindSpore writes between the content and ten bytes of checksum, where it was asked to."""
KINDS = {
    "Float32": "<f4", "Float64": "<f8", "Float16": "<f2", "BFloat16": "bfloat16",
    "Int64": "<i8", "Int32": "<i4", "Int16": "<i2", "Int8": "|i1",
    "UInt64": "<u8", "UInt32": "<u4", "UInt16": "<u2", "UInt8": "|u1", "Bool": "|b1",
}  # fmt: skip
"""Formats of numbers by MindSpore's names of them."""
MOST_TENSORS = 250_000
"""Tensors, or parts of them, that a file may have; each takes time, whatever its size."""
TENSOR_FIELD, TENSOR_FIELDS = b"\x0a", (b"\x0a", b"\x12", b"\x1a")
"""What each tensor of a file begins with, and the fields in it: its name, itself and a map."""
TORCH_MARKS = (b"PK", b"\x80\x02")
"""How files of ``torch.save`` begin, now and before torch 1.6."""


def canonical_names(net: nn.Cell) -> dict[str, ms.Parameter]:
    """Return all parameters by canonical name, in torchvision's order."""
    parameters = dict(net.parameters_and_names())
    return {canonical: parameters[name] for name, canonical in torch_leaves(parameters).items()}


class BatchCounters:
    """How many training passes each batch normalisation has seen.

    torch counts them among a model's buffers and MindSpore does not; with them, the checkpoints of
    both hold the same tensors.
    """

    def __init__(self, net: nn.Cell) -> None:
        self._counts = {
            name.removesuffix(VARIANCE) + COUNTER: 0
            for name in canonical_names(net)
            if name.endswith(VARIANCE)
        }

    def advance(self) -> None:
        """Count a training pass through the whole net."""
        for name in self._counts:
            self._counts[name] += 1

    def arrays(self) -> dict[str, NDArray[np.int64]]:
        """Return each count ``[]`` by canonical name."""
        return {name: np.array(count, np.int64) for name, count in self._counts.items()}

    def load(self, weights: Mapping[str, NDArray[Any]]) -> None:
        """Continue from the counts among weights that hold all of them."""
        self._counts = {name: int(weights[name]) for name in self._counts}


def array_of(tensor: Tensor) -> NDArray[Any]:
    """Copy a tensor into a contiguous array of its own."""
    array: NDArray[Any] = np.array(tensor.asnumpy(), order="C", copy=True)
    return array


def copy_weights(net: nn.Cell, counters: BatchCounters) -> dict[str, NDArray[Any]]:
    """Copy all parameters, running statistics and counters to the host."""
    arrays = {name: array_of(tensor) for name, tensor in canonical_names(net).items()}
    return _with_counters(arrays, counters.arrays())


def load_weights(
    net: nn.Cell, weights: Mapping[str, NDArray[Any]], counters: BatchCounters
) -> None:
    """Copy arrays into all parameters, running statistics and counters.

    Raises:
        CheckpointError: A name is missing or unexpected, or a shape differs.
    """
    targets = canonical_names(net)
    shapes = {name: tuple(tensor.shape) for name, tensor in targets.items()}
    check_fit(_with_counters(shapes, dict.fromkeys(counters.arrays(), ())), weights)
    for name, tensor in targets.items():
        # In place: compiled graphs and optimizers go on with the buffer that `set_data` replaces.
        ops.assign(tensor, Tensor(np.asarray(weights[name], order="C"), tensor.dtype))
    counters.load(weights)


def _with_counters(
    tensors: Mapping[str, ValueT], counters: Mapping[str, ValueT]
) -> dict[str, ValueT]:
    """Put the counter of each batch normalisation behind its other tensors, as torch does."""
    merged: dict[str, ValueT] = {}
    for name, value in tensors.items():
        merged[name] = value
        counter = name.removesuffix(VARIANCE) + COUNTER
        if counter in counters and counter not in tensors:
            merged[counter] = counters[counter]
    return merged


def evaluation_model(spec: EngineSpec, weights: Mapping[str, NDArray[Any]]) -> nn.Cell:
    """Build the model once more, in fp32 and in evaluation mode."""
    net = fresh_net(spec)
    load_weights(net, weights, BatchCounters(net))
    net.set_train(False)
    return net


def read_weights(path: Path) -> StoredWeights:
    """Read a file that ``ms.save_checkpoint`` wrote, of this project or of a model collection.

    Files hold protobuf messages, nothing in them is executed. Names become torchvision's (see
    ``names.DIALECTS``), and the state of optimizers is left out. Numbers in bf16 and fp16 become
    fp32, exactly.

    Raises:
        CheckpointError: The file cannot be read, or a tensor in it is incomplete.
    """
    tensors = _load(path)
    try:
        return translated(StoredWeights(sets={"": tensors}))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _load(path: Path) -> dict[str, NDArray[Any]]:
    """Read all tensors of a file, without MindSpore: its reader trusts sizes, and crashes."""
    from mindspore.train.checkpoint_pb2 import Checkpoint

    try:
        _check_frame(path)
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}; check its permissions") from error
    damage = _damage(content)
    if damage:
        raise _unreadable(path, damage)
    message = Checkpoint()
    parts: dict[str, list[Any]] = {}
    try:
        message.ParseFromString(content[:-17] if content[-17:-10] == CRC_MARK else content)
        for value in message.value:
            if value.HasField("tensor"):
                parts.setdefault(value.tag, []).append(value.tensor)
        # words that a program saved beside its weights are no tensors
        return {n: _joined(p) for n, p in parts.items() if p[0].tensor_type != "str"}
    except Exception as error:  # damage shows in any way
        text = str(error).partition("\n")[0][:200]
        raise _unreadable(path, f"{type(error).__name__}: {text}") from error


def _joined(parts: Sequence[Any]) -> NDArray[Any]:
    """Return a tensor, which is in parts where it is large; short numbers become fp32."""
    kind, dims = parts[0].tensor_type, list(parts[0].dims)
    data = b"".join(part.tensor_content for part in parts)
    if kind not in KINDS:
        raise ValueError(f"numbers of the kind {kind[:20]!r}, which no weights have")
    short = KINDS[kind] in short_floats.BYTES
    array = short_floats.decode(data, KINDS[kind]) if short else np.frombuffer(data, KINDS[kind])
    shape = [] if dims == [0] else dims
    if min(shape, default=0) < 0 or math.prod(shape) != len(array):
        raise ValueError(f"a tensor of shape {shape[:8]} has {len(array)} numbers")
    return short_floats.widened(array.reshape(shape))


def _unreadable(path: Path, found: str) -> CheckpointError:
    return CheckpointError(
        f"{path} cannot be read as a MindSpore checkpoint: {found}; expected a complete file that "
        "mindspore.save_checkpoint wrote"
    )


def _check_frame(path: Path) -> None:
    """Step over the tensors of a file, before memory is taken for it.

    Raises:
        CheckpointError: Something is not a tensor of a checkpoint, or goes beyond the file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(2) in TORCH_MARKS:
            return  # which is said later
        place = count = 0
        while place < size:
            count += 1
            if count > MOST_TENSORS:
                raise _unreadable(path, f"it has more than {MOST_TENSORS} tensors")
            file.seek(place)
            head = file.read(len(CRC_MARK))
            if head == CRC_MARK and place == size - 17:
                return
            length, used = _length(head[1:])
            inner = file.seek(place + 1 + used) and file.read(1)
            if head[:1] != TENSOR_FIELD or (length and inner not in TENSOR_FIELDS):
                raise _unreadable(path, f"byte {place} begins no tensor")
            place += 1 + used + length
        if place > size:
            raise _unreadable(path, f"it ends at byte {size} of {place}")


def _length(data: bytes) -> tuple[int, int]:
    """Return a number as protobuf writes it, and how many bytes that takes."""
    used = next((n for n, byte in enumerate(data, 1) if byte < 128), len(data))
    return sum((byte & 127) << 7 * n for n, byte in enumerate(data[:used])), used


def _damage(content: bytes) -> str:
    """Say what MindSpore would not notice, or explain wrongly; empty if there is nothing."""
    if not content:
        return "it is empty"
    if content.startswith(TORCH_MARKS):
        return "it is a PyTorch file, which must end in .pth"
    body, mark, checksum = memoryview(content)[:-17], content[-17:-10], content[-10:]
    if mark == CRC_MARK and zlib.crc32(body) != int.from_bytes(checksum, "big"):
        return "its content does not match its checksum"
    return ""

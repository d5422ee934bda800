"""Pickles that ``torch.save`` wrote, read as data: nothing that they name is imported or called.

The pickle machine of the standard library is kept, and each of its steps that would import, call
or change an object makes a description instead. Nothing here imports torch.
"""

from __future__ import annotations

import pickle
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

TENSORS = frozenset(
    {
        "torch._utils._rebuild_tensor",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_tensor_v3",
    }
)
"""What torch calls with a storage, an offset, a shape, strides and, in the end, a format."""
ELSEWHERE = re.compile(r"(?!torch\.)\w+(\.\w+)*\._rebuild_\w+_tensor")
"""What the package of an accelerator calls instead, with the same and the layout on the device."""
PARAMETERS = frozenset(
    {"torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"}
)
"""What it calls with a tensor."""
MARKS_AFTER = 2
"""Arguments between the strides and the marks of a tensor: its gradient and its hooks."""
SUBCLASS = "torch._tensor._rebuild_from_type_v2"
"""What it calls with one of these, a type, and its arguments."""
RECONSTRUCTORS = frozenset({"copyreg._reconstructor", "copy_reg._reconstructor"})
"""What pickles of protocol 2 call with the class of an object."""
DICTIONARIES = frozenset({"collections.OrderedDict", "collections.defaultdict"})


class Readable(Protocol):
    """What a pickle is read from."""

    def read(self, count: int, /) -> bytes:
        """Return so many bytes, or as many as there are."""
        ...

    def readline(self) -> bytes:
        """Return the bytes up to the end of a line."""
        ...


@dataclass(frozen=True, slots=True)
class Global:
    """Something that a pickle names."""

    name: str

    def __str__(self) -> str:
        return self.name.removeprefix("__builtin__.").removeprefix("builtins.")


@final
@dataclass(slots=True, eq=False)
class Foreign:
    """An object that is no tensor, of which only its class and its state are known."""

    cls: str
    state: Any = None
    items: list[Any] = field(default_factory=list)

    def append(self, item: Any) -> None:
        """Take what a pickle adds to it."""
        self.items.append(item)

    add = append

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items.append((key, value))


@dataclass(frozen=True, slots=True, eq=False)
class StoredTensor:
    """Where the numbers of a tensor lie."""

    storage: Any
    """What the reader of the file made of its storage."""
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    """In numbers, as the offset is."""
    kind: str = ""
    """Format of the numbers where the storage has none."""
    negated: bool = False
    """Whether the numbers are those of the storage with the other sign."""


class Unpickler(pickle._Unpickler):  # the machine in Python, whose steps can be replaced
    """Reads one pickle of a file."""

    def __init__(self, file: Readable, persistent: Callable[[Any], Any] | None = None) -> None:
        # as torch reads the pickles of Python 2
        super().__init__(file, encoding="utf-8", errors="replace")
        self._persistent = persistent

    def persistent_load(self, pid: Any) -> Any:
        """Return what stands for something outside of the pickle."""
        if self._persistent is None:
            raise pickle.UnpicklingError("a persistent identity where none is expected")
        return self._persistent(pid)

    def find_class(self, module: str, name: str) -> Any:
        """Describe a global."""
        return Global(f"{module}.{name}")

    def get_extension(self, code: int) -> None:
        """Refuse a global that only this process would know."""
        raise pickle.UnpicklingError(f"extension code {code}")

    # The names of the machine's steps are those of the standard library.
    stack: list[Any]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]

    def _call(self) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = _made(self.stack[-1], arguments)

    def _call_with_keywords(self) -> None:
        self.stack.pop()
        self._call()

    def _call_marked(self) -> None:
        what, *arguments = self.pop_mark()
        self.append(_made(what, tuple(arguments)))

    def _build(self) -> None:
        state = self.stack.pop()
        if isinstance(self.stack[-1], Foreign):
            self.stack[-1].state = state

    def _refuse(self) -> None:
        raise pickle.UnpicklingError("an operation that torch.save does not write")

    dispatch: ClassVar[dict[int, Any]] = {
        **pickle._Unpickler.dispatch,
        pickle.REDUCE[0]: _call,
        pickle.NEWOBJ[0]: _call,
        pickle.NEWOBJ_EX[0]: _call_with_keywords,
        pickle.OBJ[0]: _call_marked,
        pickle.BUILD[0]: _build,
        # Numbers in decimal, whose reading takes the square of their length, and sizes that memory
        # is taken for before the content is there.
        pickle.INT[0]: _refuse,
        pickle.LONG[0]: _refuse,
        pickle.INST[0]: _refuse,
        pickle.BYTEARRAY8[0]: _refuse,
    }


def _made(what: Any, arguments: Any) -> Any:
    """Return what a call in a pickle stands for."""
    name = what.name if isinstance(what, Global) else type(what).__name__
    if name in RECONSTRUCTORS:
        what, arguments = arguments[0], ()
        name = str(what)
    if name == SUBCLASS:
        return _made(arguments[0], arguments[2])
    if name in PARAMETERS:
        return arguments[0]
    if name in TENSORS or (ELSEWHERE.fullmatch(name) and _as_torch_does(arguments)):
        return tensor(*arguments)
    if name in DICTIONARIES:
        return dict(arguments[0]) if arguments and not isinstance(arguments[0], Global) else {}
    if name == "torch.Size":
        return tuple(arguments[0])
    return Foreign(str(what) if isinstance(what, Global) else name)


def tensor(storage: Any, offset: int, shape: Any, strides: Any, *rest: Any) -> StoredTensor:
    """Describe a tensor; its numbers may not be there yet."""
    numbers = (offset, *shape, *strides)
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise pickle.UnpicklingError(f"a tensor of shape {shape} and strides {strides}")
    kind = next((item.name for item in rest if isinstance(item, Global)), "")
    marks = rest[-1] if len(rest) > MARKS_AFTER and isinstance(rest[-1], dict) else {}
    if marks.get("conj"):
        raise pickle.UnpicklingError("a conjugated tensor, which no weights are")
    negated = bool(marks.get("neg"))
    return StoredTensor(
        storage, offset, tuple(shape), tuple(strides), kind.removeprefix("torch."), negated
    )


def _as_torch_does(arguments: Any) -> bool:
    """Say whether a call has storage, offset, shape, strides, gradient, hooks and a layout."""
    if not isinstance(arguments, tuple) or len(arguments) != 7:
        return False
    _storage, offset, shape, strides, gradient, hooks, layout = arguments
    kinds = ((offset, int), (shape, tuple), (strides, tuple), (gradient, bool), (hooks, dict))
    return all(isinstance(item, kind) for item, kind in kinds) and isinstance(layout, int)


def load(file: Readable, persistent: Callable[[Any], Any] | None = None) -> Any:
    """Read the next pickle of a file.

    Args:
        file: The file, which is left behind the end of the pickle.
        persistent: Returns what stands for a persistent identity, such as a storage.
    """
    return Unpickler(file, persistent).load()


def state_of(item: Foreign) -> Mapping[Any, Any]:
    """Return the attributes of an object, as far as they are known."""
    return item.state if isinstance(item.state, dict) else {}

"""Tensors of a simulated card: each wraps a tensor of the processor, which computes for it.

To torch they are on the card in every respect: ``device``, dispatch, autograd, autocast. What a
real card refuses is refused as well: arithmetic between devices, ``numpy()``, formats that it does
not have. Random numbers come from the card's own generator.

Torch's Python hooks know one card per process, which its C++ part numbers 0. All tensors of a
process are therefore on one card, the one that ``set_device`` chose, and Python code sees its
number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import return_and_correct_aliasing

from simulated_accelerator.state import STATE, Card

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

BETWEEN_DEVICES = frozenset(
    (
        "copy_",
        "_copy_from",
        "_copy_from_and_resize",
        "_to_copy",
        "index",
        "index_put_",
        "_index_put_impl_",
        "set_",
        "lift_fresh",
    )
)
"""Operators whose arguments may be on different devices."""


class Holding:
    """Counts the memory of one tensor for as long as it lives.

    An object of its own, because a finaliser on the tensor would keep ``Module.to`` from working.
    """

    def __init__(self, card: Card, size: int) -> None:
        self._card, self._size = card, size
        card.hold(size)

    def __del__(self) -> None:
        self._card.release(self._size)


class DeviceTensor(torch.Tensor):
    """A tensor of a simulated card."""

    on_host: torch.Tensor
    holding: Holding

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> DeviceTensor:
        tensor: DeviceTensor = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=torch.device(STATE.kind, 0),
            requires_grad=False,
        )
        tensor.on_host = inner
        if not inner._is_view():
            tensor.holding = Holding(STATE.card(), inner.numel() * inner.element_size())
        return tensor

    def __init__(self, inner: torch.Tensor) -> None:
        pass

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return torch.device(STATE.kind, STATE.current)

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["on_host"], None

    @staticmethod
    def __tensor_unflatten__(
        inner: Mapping[str, torch.Tensor], context: None, size: object, stride: object
    ) -> DeviceTensor:
        return DeviceTensor(inner["on_host"])

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"{self.on_host!r}"[:-1] + f", device='{self.device}')"

    def __reduce_ex__(self, protocol: object) -> Any:
        host = self.detach().cpu()
        arguments = (host, self.dtype, str(self.device), self.requires_grad)
        return torch._utils._rebuild_device_tensor_from_cpu_tensor, arguments

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if id(self) not in memo:
            with torch.no_grad():
                copy: torch.Tensor = self.clone()
            if isinstance(self, torch.nn.Parameter):
                copy = torch.nn.Parameter(copy, self.requires_grad)
            memo[id(self)] = copy.requires_grad_(self.requires_grad)
        return memo[id(self)]

    def numpy(self, *, force: bool = False) -> Any:
        if not force:
            raise TypeError(f"can't convert {self.device} device type tensor to numpy")
        return self.detach().cpu().numpy()

    def tolist(self) -> Any:
        return self.detach().cpu().tolist()

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return run(func, args, kwargs or {})


def host(value: Any) -> Any:
    """Return what a card's tensor wraps; anything else as it is."""
    return value.on_host if isinstance(value, DeviceTensor) else value


def run(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Carry out an operator on the processor, for the card."""
    name = func._schema.name.split("::")[1]
    if name == "_has_compatible_shallow_copy_type":
        return isinstance(args[0], DeviceTensor) == isinstance(args[1], DeviceTensor)
    tensors = [a for a in pytree.tree_leaves((args, kwargs)) if isinstance(a, torch.Tensor)]
    _check(name, tensors, kwargs)
    to_host = kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "cpu"
    out = _compute(func, args, kwargs)
    destination = _destination(name, args)
    if destination is not None and not isinstance(destination, DeviceTensor):
        return destination
    if to_host:
        return out
    STATE.card().operations[name] += 1
    return return_and_correct_aliasing(func, args, kwargs, pytree.tree_map(_wrapped, out))


def _check(name: str, tensors: Sequence[torch.Tensor], kwargs: Mapping[str, Any]) -> None:
    # a number in a tensor of the processor may meet a card's tensor
    places = sorted({str(t.device) for t in tensors if isinstance(t, DeviceTensor) or t.dim()})
    if name not in BETWEEN_DEVICES and len(places) > 1:
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, "
            f"{' and '.join(places)}! (aten::{name})"
        )
    if kwargs.get("device") is not None:
        STATE.check_device(torch.device(kwargs["device"]))
    types = {kwargs.get("dtype"), *(tensor.dtype for tensor in tensors)}
    if torch.bfloat16 in types and not STATE.bf16:
        raise RuntimeError(f"{STATE.kind}: bfloat16 is not supported (aten::{name})")


def _compute(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    changed = dict(kwargs)
    if changed.get("device") is not None:
        if torch.device(changed["device"]).type == STATE.kind:
            changed.pop("pin_memory", None)
        changed["device"] = torch.device("cpu")
    args, changed = pytree.tree_map(host, (args, changed))
    if torch.Tag.nondeterministic_seeded not in func.tags:
        return func(*args, **changed)
    card, generator = STATE.card(), torch.default_generator
    kept = generator.get_state()
    generator.set_state(card.random)
    try:
        return func(*args, **changed)
    finally:
        card.random = generator.get_state()
        generator.set_state(kept)


def _destination(name: str, args: Sequence[Any]) -> object:
    """Return the tensor that a copy writes to."""
    if name == "copy_":
        return args[0]
    return args[1] if name == "_copy_from" else None


def _wrapped(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and not isinstance(value, DeviceTensor):
        return DeviceTensor(value)
    return value

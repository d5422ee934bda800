"""What torch's dispatcher needs beside tensors: factories, page-locked memory, autocast."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.utils import _pytree as pytree

from simulated_accelerator.state import STATE
from simulated_accelerator.tensor import run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LOWER_PRECISION = [
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d.input",
    "conv_transpose3d.input",
    "convolution",
    "_convolution",
    "linear",
    "matmul",
    "mm",
    "bmm",
    "addmm",
    "addmv",
    "addbmm",
    "baddbmm",
    "mv",
    "prelu",
    "scaled_dot_product_attention",
]
"""Operators that autocast runs in the lower precision."""
FULL_PRECISION = [
    "nll_loss",
    "nll_loss_nd",
    "nll_loss2d",
    "cross_entropy_loss",
    "log_softmax.int",
    "softmax.int",
    "mse_loss",
    "l1_loss",
    "smooth_l1_loss",
    "kl_div",
    "binary_cross_entropy_with_logits",
    "layer_norm",
    "group_norm",
    "norm.Scalar",
    "norm.ScalarOpt_dim",
    "exp",
    "log",
    "log1p",
    "pow.Tensor_Scalar",
    "sum",
    "sum.dim_IntList",
    "prod",
    "cumsum",
    "rsqrt",
    "reciprocal",
    "softplus",
]
"""Operators that autocast runs in fp32."""

_registered: list[torch.library.Library] = []  # a library ends when its object does


def _library(namespace: str = "aten") -> torch.library.Library:
    library = torch.library.Library(namespace, "IMPL")
    _registered.append(library)
    return library


def _operator(name: str) -> Any:
    base, _, overload = name.partition(".")
    return getattr(getattr(torch.ops.aten, base), overload or "default")


def _factories() -> Iterator[tuple[str, Any]]:
    """Find the operators that make one tensor from none, such as ``zeros``."""
    for full in torch._C._dispatch_get_all_op_names():
        name = full.removeprefix("aten::")
        if name == full or name.endswith("out") or "names" in name:
            continue
        try:
            operator = _operator(name)
        except (AttributeError, RuntimeError):
            continue
        arguments = operator._schema.arguments
        takes_tensors = any("Tensor" in str(argument.type) for argument in arguments)
        takes_device = any(argument.name == "device" for argument in arguments)
        returns = [str(value.type) for value in operator._schema.returns]
        if takes_device and not takes_tensors and returns == ["Tensor"]:
            yield name, operator


def register_factories() -> None:
    """Let ``torch.zeros(..., device=card)`` and copies from the processor reach ``run``."""

    def implementation(operator: Any) -> Callable[..., Any]:
        def make(*args: Any, **kwargs: Any) -> Any:
            named = kwargs.get("device") or torch.device(STATE.kind)
            return run(operator, args, {**kwargs, "device": named})

        return make

    def copy_from(source: Any, target: Any, non_blocking: bool = False) -> Any:
        return run(torch.ops.aten.copy_.default, (target, source), {})

    library = _library()
    for name, operator in _factories():
        library.impl(name, implementation(operator), "PrivateUse1")
    library.impl("_copy_from", copy_from, "PrivateUse1")


def register_pinned_memory() -> None:
    """Let tensors of the processor be marked as page-locked; there is nothing to lock."""

    def pin(tensor: Any, device: object = None) -> Any:
        copy = tensor.clone()
        copy.simulated_pin = True
        return copy

    def is_pinned(tensor: Any, device: object = None) -> bool:
        return getattr(tensor, "simulated_pin", False)

    library = _library()
    library.impl("_pin_memory", pin, "CPU")
    library.impl("is_pinned", is_pinned, "CPU")


def register_autocast() -> None:
    """Give the kind the autocast rules of a real one; torch registers none, not even a default."""
    everything = _library("_")
    everything.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    library = _library()
    keys: Any = torch._C.DispatchKey
    own_key = torch._C.DispatchKeySet(keys.AutocastPrivateUse1)

    def implementation(operator: Any, *, lower: bool) -> Callable[..., Any]:
        def convert(value: Any) -> Any:
            if not isinstance(value, torch.Tensor) or value.device.type != STATE.kind:
                return value
            if not value.is_floating_point() or value.dtype == torch.float64:
                return value
            return value.to(torch.get_autocast_dtype(STATE.kind) if lower else torch.float32)

        def call(*args: Any, **kwargs: Any) -> Any:
            with torch._C._ExcludeDispatchKeyGuard(own_key):
                args, kwargs = pytree.tree_map(convert, (args, kwargs))
                return operator(*args, **kwargs)

        return call

    for names, lower in ((LOWER_PRECISION, True), (FULL_PRECISION, False)):
        for name in names:
            kernel = implementation(_operator(name), lower=lower)
            library.impl(name, kernel, "AutocastPrivateUse1")

"""Weights between modules, NumPy arrays and files, under canonical (torchvision) names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from runner.errors import CheckpointError
from runner.framework.engine import build_model
from runner.framework.weights import check_fit
from runner_torch.autoload import torch
from runner_torch.messages import unreadable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Any

    from numpy.typing import NDArray

    from runner.contracts import EngineSpec

PREFIXES = ("module.", "submodule.", "_orig_mod.")
"""What DataParallel, vendor wrappers and ``torch.compile`` put before every name."""
CONTAINERS = ("state_dict", "model_state_dict", "model")
"""Keys under which training scripts keep the state dict."""
_CONTAINERS = " or ".join(map(repr, CONTAINERS))


def array_of(tensor: torch.Tensor) -> NDArray[Any]:
    """Copy a tensor into a contiguous array of its own."""
    array: NDArray[Any] = np.array(tensor.detach().cpu().numpy(), order="C", copy=True)
    return array


def tensor_of(array: NDArray[Any]) -> torch.Tensor:
    """View an array as a tensor; one that is read-only or not contiguous is copied first."""
    return torch.from_numpy(np.require(array, requirements=("C", "W")))


def copy_weights(module: torch.nn.Module) -> dict[str, NDArray[Any]]:
    """Copy all parameters and buffers to the host."""
    return {name: array_of(tensor) for name, tensor in module.state_dict().items()}


def load_weights(module: torch.nn.Module, weights: Mapping[str, NDArray[Any]]) -> None:
    """Copy arrays into all parameters and buffers; memory layout and device stay as they are.

    Raises:
        CheckpointError: A name is missing or unexpected, or a shape differs.
    """
    targets = module.state_dict()
    check_fit({name: tuple(t.shape) for name, t in targets.items()}, weights)
    with torch.no_grad():
        for name, tensor in targets.items():
            tensor.copy_(tensor_of(weights[name]))


def evaluation_module(spec: EngineSpec, weights: Mapping[str, NDArray[Any]]) -> torch.nn.Module:
    """Build the model once more, in fp32 on the CPU and in evaluation mode.

    Torch's random state is left as it was, so a training run can go on afterwards.
    """
    with torch.random.fork_rng(devices=[]):
        module = build_model(spec, torch.nn.Module)
    load_weights(module, weights)
    return module.eval()


def read_weights(path: Path) -> dict[str, NDArray[Any]]:
    """Read a file that ``torch.save`` wrote: a state dict, or a training script's checkpoint.

    Nothing in the file is executed. Prefixes of wrapper modules are removed. Files from before
    torch 0.4.1 lack ``num_batches_tracked`` of batch normalisation; it is added as 0, as torch
    does when it loads them. Numbers in bf16, fp16 and shorter formats become fp32, exactly.

    Raises:
        CheckpointError: The file cannot be read, or holds no state dict.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(
            f"{path} cannot be read as a torch weights file: {unreadable(error)}; expected "
            f"a state dict, or a checkpoint with a state dict under {_CONTAINERS}, that holds "
            "tensors and plain values only (re-save it with torch.save(state_dict, path))"
        ) from error
    state = _find_state_dict(content, path)
    arrays = {_canonical(name): array_of(_widened(tensor)) for name, tensor in state.items()}
    for name in [n for n in arrays if n.endswith("running_mean")]:
        counter = name.removesuffix("running_mean") + "num_batches_tracked"
        arrays.setdefault(counter, np.zeros((), dtype=np.int64))
    return arrays


def _widened(tensor: torch.Tensor) -> torch.Tensor:
    """Return floating point numbers of less than 32 bits, most of which NumPy lacks, as fp32."""
    return tensor.float() if tensor.is_floating_point() and tensor.itemsize < 4 else tensor


def _find_state_dict(content: object, path: Path) -> dict[str, torch.Tensor]:
    candidates = [content]
    if isinstance(content, dict):
        candidates += [content[key] for key in CONTAINERS if key in content]
    for candidate in candidates:
        if _is_state_dict(candidate):
            return candidate  # type: ignore[return-value]  # checked by _is_state_dict
    found = (
        f"keys {sorted(map(str, content))}" if isinstance(content, dict) else repr(type(content))
    )
    raise CheckpointError(
        f"{path} holds no state dict: found {found}; expected names and tensors at the top, "
        f"or under {_CONTAINERS}"
    )


def _is_state_dict(candidate: object) -> bool:
    return (
        isinstance(candidate, dict)
        and bool(candidate)
        and all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in candidate.items())
    )


def _canonical(name: str) -> str:
    while True:
        prefix = next((p for p in PREFIXES if name.startswith(p)), None)
        if prefix is None:
            return name
        name = name.removeprefix(prefix)

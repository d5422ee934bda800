"""The state of an optimizer as named arrays and JSON values, without pickle."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.errors import CheckpointError, PluginError
from runner_torch.autoload import torch
from runner_torch.weights import array_of, tensor_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from numpy.typing import NDArray


def optimizer_state(
    optimizer: torch.optim.Optimizer, module: torch.nn.Module
) -> tuple[dict[str, NDArray[Any]], dict[str, dict[str, Any]]]:
    """Copy what an optimizer keeps for each parameter.

    Returns:
        Arrays named ``<parameter>/<slot>``, such as ``fc.weight/momentum_buffer``, and the plain
        values as ``{parameter: {slot: value}}``.

    Raises:
        PluginError: The optimizer keeps something that is neither a tensor nor a JSON scalar.
    """
    arrays: dict[str, NDArray[Any]] = {}
    values: dict[str, dict[str, Any]] = {}
    for name, parameter in module.named_parameters():
        for slot, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, torch.Tensor):
                arrays[f"{name}/{slot}"] = array_of(value)
            elif value is None or isinstance(value, bool | int | float | str):
                values.setdefault(name, {})[slot] = value
            else:
                raise PluginError(
                    f"optimizer {type(optimizer).__name__} keeps a {type(value).__name__} as "
                    f"{slot!r}, which a checkpoint cannot hold; it must keep tensors and numbers"
                )
    return arrays, values


def load_optimizer_state(
    optimizer: torch.optim.Optimizer,
    module: torch.nn.Module,
    arrays: Mapping[str, NDArray[Any]],
    values: Mapping[str, Mapping[str, Any]],
) -> None:
    """Put back what ``optimizer_state`` returned, in the memory layout of the parameters.

    Raises:
        CheckpointError: The state is for a parameter that the optimizer does not have.
    """
    slots: dict[str, dict[str, Any]] = {name: dict(plain) for name, plain in values.items()}
    parameters = dict(module.named_parameters())
    for key, array in arrays.items():
        name, _, slot = key.rpartition("/")
        tensor = tensor_of(array)
        like = parameters.get(name)
        if like is not None and like.shape == tensor.shape:
            tensor = torch.empty_like(like, dtype=tensor.dtype).copy_(tensor)
        slots.setdefault(name, {})[slot] = tensor
    # torch numbers parameters by their place in the groups, and load_state_dict moves slots to
    # the right device (AdamW's step counter stays on the host, for example).
    optimized = [p for group in optimizer.param_groups for p in group["params"]]
    numbers = {id(parameter): number for number, parameter in enumerate(optimized)}
    unknown = [n for n in slots if n not in parameters or id(parameters[n]) not in numbers]
    if unknown:
        raise CheckpointError(
            f"the checkpoint has optimizer state for {', '.join(unknown[:4])} "
            f"({len(unknown)} in all), which the optimizer does not train; "
            "continue with the same model and optimizer"
        )
    state = {numbers[id(parameters[name])]: slots[name] for name in slots}
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})

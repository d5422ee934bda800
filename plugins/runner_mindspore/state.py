"""The state of an optimizer as named arrays, without pickle."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.errors import CheckpointError
from runner_mindspore.autoload import Tensor, ms, nn, ops
from runner_mindspore.weights import array_of, canonical_names

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from numpy.typing import NDArray


def optimizer_state(optimizer: nn.Optimizer, net: nn.Cell) -> dict[str, NDArray[Any]]:
    """Copy what an optimizer keeps.

    Returns:
        Arrays named ``<parameter>/<slot>``, such as ``fc.weight/moments``, and by MindSpore's name
        what is not kept for a parameter, such as ``global_step``.
    """
    return {name: array_of(tensor) for name, tensor in _slots(optimizer, net).items()}


def load_optimizer_state(
    optimizer: nn.Optimizer, net: nn.Cell, arrays: Mapping[str, NDArray[Any]]
) -> None:
    """Put back what ``optimizer_state`` returned.

    Raises:
        CheckpointError: The state is of another optimizer, or for other parameters.
    """
    slots = _slots(optimizer, net)
    problems = [f"missing: {name}" for name in slots if name not in arrays]
    problems += [f"unexpected: {name}" for name in arrays if name not in slots]
    problems += [
        f"shape: {name} is {list(arrays[name].shape)}, the optimizer has {list(slot.shape)}"
        for name, slot in slots.items()
        if name in arrays and arrays[name].shape != tuple(slot.shape)
    ]
    if problems:
        raise CheckpointError(
            f"the checkpoint's optimizer state does not fit: {'; '.join(problems[:4])} "
            f"({len(problems)} in all); continue with the same model and optimizer"
        )
    for name, slot in slots.items():
        ops.assign(slot, Tensor(arrays[name]).astype(slot.dtype))


def _slots(optimizer: nn.Optimizer, net: nn.Cell) -> dict[str, ms.Parameter]:
    """Return what an optimizer keeps, without the learning rate, which every step sets."""
    names = {parameter.name: name for name, parameter in canonical_names(net).items()}
    slots = {}
    for parameter in optimizer.get_parameters():
        slot, _, rest = parameter.name.partition(".")
        if rest in names:
            slots[f"{names[rest]}/{slot}"] = parameter
        elif parameter.name not in names and parameter is not optimizer.learning_rate:
            slots[parameter.name] = parameter
    return slots

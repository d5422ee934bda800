"""Whether weights fit a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.errors import CheckpointError
from runner.terminal.display import counted

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from numpy.typing import NDArray

SHOWN = 8
"""Differences that an error lists before it counts the rest."""


def check_fit(
    shapes: Mapping[str, tuple[int, ...]], weights: Mapping[str, NDArray[Any]], *, advice: str = ""
) -> None:
    """Compare weights with the model they are for.

    Args:
        shapes: Shape of each tensor of the model, by canonical name, in the model's order.
        weights: What is to be loaded.
        advice: What to do about it, where the caller knows.

    Raises:
        CheckpointError: A name is missing or unexpected, or a shape differs; all are counted.
    """
    problems = [f"missing: {name}" for name in shapes if name not in weights]
    problems += [f"unexpected: {name}" for name in weights if name not in shapes]
    problems += [
        f"shape: {name} is {list(weights[name].shape)}, the model has {list(shape)}"
        for name, shape in shapes.items()
        if name in weights and weights[name].shape != shape
    ]
    if not problems:
        return
    rest = len(problems) - SHOWN
    lines = problems[:SHOWN] + ([f"and {rest} more"] if rest > 0 else [])
    raise CheckpointError(
        f"the weights do not fit the model ({counted(len(problems), 'difference')}, "
        f"{counted(len(shapes), 'tensor')} in the model); {advice or _advice(shapes, weights)}\n  "
        + "\n  ".join(lines)
    )


def _advice(shapes: Mapping[str, tuple[int, ...]], weights: Mapping[str, NDArray[Any]]) -> str:
    """Say what to do about weights that differ from the model."""
    pairs = {n: (weights[n].shape, shape) for n, shape in shapes.items() if n in weights}
    different = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
    # Auxiliary heads have as many outputs as the last layer.
    counts = {(a[:1], b[:1]) for a, b in different.values()}
    one_count = len(counts) == 1 and all(a[1:] == b[1:] for a, b in different.values())
    if shapes.keys() == weights.keys() and one_count and list(shapes)[-1] in different:
        ((found,), (expected,)) = counts.pop()
        return (
            f"the number of classes differs: the weights have {found}, the model has {expected}; "
            "use weights for the same classes; to train a last layer for others, set "
            "model.fresh_classifier=true"
        )
    return "use weights of the same model, model options and number of classes"

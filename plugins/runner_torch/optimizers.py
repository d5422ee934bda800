"""Update rules, and which parameters they decay."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.framework.weight_decay import not_decayed
from runner_torch.autoload import torch
from runner_torch.precision import BATCH_NORMS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from runner.framework.options import AdamWOptions, SgdOptions

NORM_LAYERS = (
    BATCH_NORMS,
    torch.nn.GroupNorm,
    torch.nn.LayerNorm,
    torch.nn.InstanceNorm1d,
    torch.nn.InstanceNorm2d,
    torch.nn.InstanceNorm3d,
    torch.nn.RMSNorm,
)


def build_sgd(
    groups: Iterable[dict[str, Any]], options: SgdOptions, learning_rate: float
) -> torch.optim.Optimizer:
    """Build stochastic gradient descent: v = m*v + g + d*w, then w = w - lr*v, with decay d."""
    return torch.optim.SGD(
        groups,
        lr=learning_rate,
        momentum=options.momentum,
        dampening=options.dampening,
        nesterov=options.nesterov,
    )


def build_adamw(
    groups: Iterable[dict[str, Any]], options: AdamWOptions, learning_rate: float
) -> torch.optim.Optimizer:
    """Build Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""
    return torch.optim.AdamW(groups, lr=learning_rate, betas=options.betas, eps=options.eps)


def parameter_groups(
    module: torch.nn.Module, weight_decay: float, no_weight_decay: Sequence[str]
) -> list[dict[str, Any]]:
    """Split the trainable parameters into those with and those without weight decay.

    Args:
        module: The model.
        weight_decay: Decay of the first group.
        no_weight_decay: Rules for the second, as ``not_decayed`` takes them.

    Returns:
        One or two groups as torch's optimizers take them; the first is the decayed one unless it
        is empty. Parameters keep the order of the model.

    Raises:
        UsageError: A rule matches nothing.
    """
    parameters = {n: p for n, p in module.named_parameters() if p.requires_grad}
    layers = {n for n, layer in module.named_modules() if isinstance(layer, NORM_LAYERS)}
    norms = {name for name in parameters if name.rpartition(".")[0] in layers}
    exempt = not_decayed(list(parameters), norms, no_weight_decay)
    decayed = [p for n, p in parameters.items() if n not in exempt]
    kept = [p for n, p in parameters.items() if n in exempt]
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def describe_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the class and the sizes of the parameter groups (JSON)."""
    groups = [
        {
            "weight_decay": group["weight_decay"],
            "tensors": len(group["params"]),
            "values": sum(p.numel() for p in group["params"]),
        }
        for group in optimizer.param_groups
    ]
    return {"class": type(optimizer).__name__, "groups": groups}

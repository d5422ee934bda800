"""Update rules, and which parameters they decay."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from runner.errors import UsageError
from runner_torch.autoload import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from runner_torch.options import AdamWOptions, SgdOptions

NORM_LAYERS = (
    torch.nn.BatchNorm1d,
    torch.nn.BatchNorm2d,
    torch.nn.BatchNorm3d,
    torch.nn.SyncBatchNorm,
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
        no_weight_decay: Rules for the second: ``bias`` (names that end in it), ``norm``
            (parameters of normalisation layers), or patterns for names such as ``*.bn?.weight``.

    Returns:
        One or two groups as torch's optimizers take them; the first is the decayed one unless it
        is empty. Parameters keep the order of the model.

    Raises:
        UsageError: A rule matches nothing.
    """
    parameters = {n: p for n, p in module.named_parameters() if p.requires_grad}
    exempt: set[str] = set()
    for rule in no_weight_decay:
        matched = _matching(module, parameters, rule)
        if not matched:
            raise UsageError(
                f"optimizer.no_weight_decay: {rule!r} matches none of the {len(parameters)} "
                f"parameters ({_examples(list(parameters))}); remove it, or use 'bias', 'norm' "
                "or a pattern such as '*.bn?.weight'"
            )
        exempt |= matched
    decayed = [p for n, p in parameters.items() if n not in exempt]
    kept = [p for n, p in parameters.items() if n in exempt]
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _matching(module: torch.nn.Module, names: Iterable[str], rule: str) -> set[str]:
    if rule == "bias":
        return {name for name in names if name.endswith("bias")}
    if rule == "norm":
        layers = {n for n, layer in module.named_modules() if isinstance(layer, NORM_LAYERS)}
        return {name for name in names if name.rpartition(".")[0] in layers}
    return {name for name in names if fnmatchcase(name, rule)}


def _examples(names: Sequence[str], limit: int = 4) -> str:
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")


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

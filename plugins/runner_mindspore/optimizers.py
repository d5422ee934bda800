"""Update rules, and which parameters they decay."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from runner.errors import PluginError
from runner.framework.weight_decay import not_decayed
from runner_mindspore.autoload import Tensor, ms, nn, ops
from runner_mindspore.weights import canonical_names

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from runner.entries import EngineSpec
    from runner.framework.options import AdamWOptions, SgdOptions

NORM_LAYERS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
)


def build_sgd(
    groups: Iterable[dict[str, Any]], options: SgdOptions, learning_rate: float
) -> nn.Optimizer:
    """Build stochastic gradient descent: v = m*v + g + d*w, then w = w - lr*v, with decay d.

    ``nn.Momentum`` is the faster of the two, but ignores ``use_nesterov`` on the CPU and has no
    dampening.
    """
    if options.nesterov or options.dampening:
        return nn.SGD(
            groups,
            learning_rate,
            momentum=options.momentum,
            dampening=options.dampening,
            nesterov=options.nesterov,
        )
    return nn.Momentum(groups, learning_rate, options.momentum)


def build_adamw(
    groups: Iterable[dict[str, Any]], options: AdamWOptions, learning_rate: float
) -> nn.Optimizer:
    """Build Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""
    return AdamW(groups, learning_rate, betas=options.betas, eps=options.eps)


_adamw = ops.MultitypeFuncGraph("adamw")


@_adamw.register("Function", *["Tensor"] * 10)
def _adamw_one(
    adam: ops.Adam,
    rate: Tensor,
    epsilon: Tensor,
    lr: Tensor,
    beta1: Tensor,
    beta2: Tensor,
    decay: Tensor,
    weight: ms.Parameter,
    mean: ms.Parameter,
    square: ms.Parameter,
    gradient: Tensor,
) -> tuple[Tensor, ...]:
    """Decay one parameter, then take Adam's step with a rate and epsilon that correct its bias."""
    decayed = ops.depend(gradient, ops.assign(weight, weight * (1 - lr * decay)))
    none = ops.zeros_like(rate)  # the powers of the betas, from which ops.Adam would correct it
    return adam(weight, mean, square, none, none, rate, beta1, beta2, epsilon, decayed)


class AdamW(nn.Optimizer):
    """Adam with decoupled weight decay and bias correction, as ``torch.optim.AdamW``.

    ``nn.AdamWeightDecay`` has no bias correction, and ``nn.Adam`` adds epsilon before it.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        learning_rate: float,
        *,
        betas: tuple[float, float],
        eps: float,
    ) -> None:
        super().__init__(learning_rate, groups)
        self.means = self.parameters.clone(prefix="mean", init="zeros")
        self.squares = self.parameters.clone(prefix="square", init="zeros")
        self.beta1, self.beta2 = (Tensor(beta, ms.float32) for beta in betas)
        # of the rounded betas, which the means are taken with; in double precision
        logs = [math.log(np.float32(beta)) if beta else -math.inf for beta in betas]
        self.log_beta1, self.log_beta2 = (Tensor(log, ms.float32) for log in logs)
        self.eps = Tensor(eps, ms.float32)
        self.adam = ops.Adam()

    @ms.jit
    def construct(self, gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Take one step."""
        lr = self.get_lr()
        step = ops.assign_add(self.global_step, self.global_step_increase_tensor)
        step = step.astype(ms.float32).reshape(())
        bias1 = -ops.expm1(step * self.log_beta1)
        bias2 = ops.sqrt(-ops.expm1(step * self.log_beta2))
        # as in the paper's section 2; ops.Adam itself adds epsilon before it corrects the bias
        rate, epsilon = lr * bias2 / bias1, self.eps * bias2
        update = ops.partial(_adamw, self.adam, rate, epsilon, lr, self.beta1, self.beta2)
        return self.hyper_map(
            update, self.weight_decay, self.parameters, self.means, self.squares, gradients
        )


def build_optimizer(spec: EngineSpec, net: nn.Cell) -> nn.Optimizer | None:
    """Build the optimizer of a spec, if there is one.

    Raises:
        UsageError: A rule of ``no_weight_decay`` matches nothing.
        PluginError: The entry builds something whose learning rate cannot be set.
    """
    if spec.optimizer is None:
        return None
    groups = parameter_groups(net, spec.weight_decay, spec.no_weight_decay)
    # every step sets its own learning rate
    optimizer = spec.optimizer.build(groups, spec.optimizer_options, 0.0)
    if not isinstance(optimizer, nn.Optimizer):
        raise PluginError(
            f"optimizer {spec.optimizer.name} was built as {type(optimizer).__name__}; the "
            "entry's build must return a mindspore.nn.Optimizer"
        )
    if not isinstance(optimizer.learning_rate, ms.Parameter):
        raise PluginError(
            f"optimizer {spec.optimizer.name} has a learning rate of its own; the entry's build "
            "must pass on the number that it is given, which every step then changes"
        )
    return optimizer


def parameter_groups(
    net: nn.Cell, weight_decay: float, no_weight_decay: Sequence[str]
) -> list[dict[str, Any]]:
    """Split the trainable parameters into those with and those without weight decay.

    Groups are always given, because without them MindSpore's optimizers leave out parameters with
    ``beta`` or ``gamma`` in their names, and decay all others.

    Args:
        net: The model.
        weight_decay: Decay of the first group.
        no_weight_decay: Rules for the second, as ``not_decayed`` takes them.

    Returns:
        One or two groups as MindSpore's optimizers take them, and the order of the parameters,
        which is the model's; the first is the decayed group unless it is empty.

    Raises:
        UsageError: A rule matches nothing.
    """
    parameters = {n: p for n, p in canonical_names(net).items() if p.requires_grad}
    layers = (cell for _, cell in net.cells_and_names() if isinstance(cell, NORM_LAYERS))
    in_norms = {id(p) for cell in layers for p in cell.get_parameters()}
    norms = {name for name, p in parameters.items() if id(p) in in_norms}
    exempt = not_decayed(list(parameters), norms, no_weight_decay)
    decayed = [p for n, p in parameters.items() if n not in exempt]
    kept = [p for n, p in parameters.items() if n in exempt]
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]
    order = {"order_params": list(parameters.values())}
    return [*(group for group in groups if group["params"]), order]


def describe_optimizer(optimizer: nn.Optimizer) -> dict[str, Any]:
    """Return the class and the sizes of the parameter groups (JSON)."""
    decays = [float(decay) for decay in optimizer.group_weight_decay]
    groups = []
    for decay in dict.fromkeys(decays):
        members = [p for p, d in zip(optimizer.parameters, decays, strict=True) if d == decay]
        groups.append(
            {
                "weight_decay": decay,
                "tensors": len(members),
                "values": sum(p.size for p in members),
            }
        )
    return {"class": type(optimizer).__name__, "groups": groups}

"""Networks that compute in a lower format as a whole, which Apex and MindSpore call O2 and O3.

Torch's autocast, which is the level ``auto``, chooses the format operator by operator instead.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, final

from runner.errors import UsageError
from runner_torch.autoload import torch
from runner_torch.messages import reason

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from typing import Any

    from runner.recipe.schema import PrecisionSection

COMPUTE_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
BATCH_NORMS = torch.nn.modules.batchnorm._BatchNorm  # the only name for all of them


def casts_whole_network(section: PrecisionSection) -> bool:
    """Say whether the recipe asks for a lower format in the whole network."""
    return section.compute != "fp32" and section.level != "auto"


def check_compiled(section: PrecisionSection) -> None:
    """Refuse what compiled networks do not compute in the format that the recipe names.

    Raises:
        UsageError: It is batch normalisation in the lower format.
    """
    if casts_whole_network(section) and section.effective_batch_norm == "compute":
        raise UsageError(
            "framework.compile fuses batch normalisation into kernels that compute in fp32, and "
            f"the recipe wants it in {section.compute}; set precision.level to O2 and "
            "precision.batch_norm to level, or framework.compile to false"
        )


def prepare(network: torch.nn.Module, section: PrecisionSection) -> torch.nn.Module:
    """Return what computes a network's output in the recipe's formats.

    That is the network itself, to be called within ``autocast``, or what casts it.
    """
    return CastNetwork(network, section) if casts_whole_network(section) else network


def autocast(kind: str, section: PrecisionSection) -> AbstractContextManager[object]:
    """Return a context in which convolutions and matrix products run in the recipe's format.

    Nothing is chosen in it for a network that is cast as a whole.
    """
    if section.compute == "fp32" or casts_whole_network(section):
        return contextlib.nullcontext()
    return torch.autocast(kind, dtype=COMPUTE_TYPES[section.compute])


@final
class CastNetwork(torch.nn.Module):
    """Computes with copies of a network's weights in a lower format, made in every pass.

    The network's own weights stay in fp32: they are what Apex calls master weights, to which
    autograd brings the gradients, and what is saved, averaged and clipped. Batch normalisation
    keeps its fp32 weights and statistics, unless it is cast like the rest; it takes and returns
    the lower format either way. Statistics and other buffers that were cast are copied back after
    a training pass, so they hold values of the lower format, as Apex's O3 has them.

    The output is in the lower format.
    """

    def __init__(self, network: torch.nn.Module, section: PrecisionSection) -> None:
        super().__init__()
        self.network = network
        self._format = COMPUTE_TYPES[section.compute]
        kept = _batch_norm_tensors(network) if section.effective_batch_norm == "fp32" else set()
        self._weights = [
            (name, tensor)
            for name, tensor in network.named_parameters()
            if tensor.is_floating_point() and name not in kept
        ]
        self._others = [
            (name, tensor)
            for name, tensor in network.named_buffers()
            if tensor.is_floating_point() and name not in kept
        ]

    def forward(self, images: torch.Tensor) -> Any:
        """Return what the network returns for images ``[B, C, H, W]``, in the lower format."""
        cast = {name: tensor.to(self._format) for name, tensor in self._weights}
        others = {name: tensor.to(self._format) for name, tensor in self._others}
        inputs = (images.to(self._format),)
        output = torch.func.functional_call(self.network, {**cast, **others}, inputs)
        if self.network.training:
            for name, tensor in self._others:
                tensor.copy_(others[name])
        return output


def _batch_norm_tensors(network: torch.nn.Module) -> set[str]:
    """Return the names of weights and statistics of batch normalisation."""
    return {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in network.named_modules()
        if isinstance(module, BATCH_NORMS)
        for name, _ in (*module.named_parameters(), *module.named_buffers())
    }


def cast_problem(device: torch.device, section: PrecisionSection) -> str | None:
    """Say what keeps a device from training a small network that is cast as a whole.

    Not every device has kernels for batch normalisation with inputs and weights of two formats.
    """
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).to(device)
    try:
        CastNetwork(network, section)(torch.ones(2, 3, 4, 4, device=device)).sum().backward()
    except RuntimeError as error:
        return reason(error)
    return None

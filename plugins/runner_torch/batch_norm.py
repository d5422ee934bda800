"""Batch normalisation whose statistics are of the images of all processes.

Shapes: B images of this process in a pass, N of all together, C channels, further dimensions as
they come. A channel's statistics are taken over all but the second dimension.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from runner_torch.autoload import torch
from runner_torch.precision import BATCH_NORMS

if TYPE_CHECKING:
    from typing import Any


def synchronize(module: torch.nn.Module, *, native: bool) -> torch.nn.Module:
    """Return a network whose batch normalisation takes its statistics over all processes.

    Names, weights and what it computes in evaluation mode stay as they are.

    Args:
        module: The network, whose layers are replaced.
        native: Whether the device has kernels for torch's own layer.
    """
    if native:
        layer = torch.nn.SyncBatchNorm
        converted: torch.nn.Module = layer.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]  # torch
        return converted
    if isinstance(module, BATCH_NORMS):
        return SyncBatchNorm(module)
    for name, child in module.named_children():
        module.add_module(name, synchronize(child, native=native))
    return module


@final
class SyncBatchNorm(BATCH_NORMS):
    """Batch normalisation over all processes, for devices on which torch's own layer fails.

    Made of operations that every device has. It computes in fp32, whatever the images are in.
    Statistics are merged from those of each process (Chan et al. 1979), so they are as exact as in
    one pass over all images.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__(
            layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats
        )
        self.weight, self.bias = layer.weight, layer.bias
        self.running_mean, self.running_var = layer.running_mean, layer.running_var
        self.num_batches_tracked = layer.num_batches_tracked
        self.training = layer.training

    def _check_input_dim(self, images: torch.Tensor) -> None:
        """Accept any number of dimensions, as the layer in whose place this is has been chosen."""

    # A compiler may move exchanges, which all processes must make in the same order.
    @torch.compiler.disable  # type: ignore[untyped-decorator]  # torch
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Normalise ``[B, C, ...]``; in evaluation mode without the other processes."""
        if not self.training:
            normalised: torch.Tensor = super().forward(images)
            return normalised
        own = _statistics(images)
        count, mean, variance = _merge(_gather(own))
        if self.track_running_stats:
            self._track(count, mean, variance)
        weight = torch.ones_like(mean) if self.weight is None else self.weight
        bias = torch.zeros_like(mean) if self.bias is None else self.bias
        arguments = (images, weight, bias, mean, variance, count, self.eps)
        output: torch.Tensor = _Normalize.apply(*arguments)
        return output

    def _track(self, count: torch.Tensor, mean: torch.Tensor, variance: torch.Tensor) -> None:
        """Move the running statistics towards those of a pass, as torch's layer does."""
        assert self.num_batches_tracked is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            share = self.momentum
            if share is None:  # the mean of all passes so far
                share = 1.0 / float(self.num_batches_tracked)
            unbiased = variance * (count / (count - 1))
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), share)


def _statistics(images: torch.Tensor) -> torch.Tensor:
    """Return number, means and biased variances of this process's values, ``[1 + 2 * C]``."""
    values = images.detach().float()
    dimensions = [0, *range(2, values.dim())]
    variance, mean = torch.var_mean(values, dim=dimensions, correction=0)
    count = torch.full((1,), values.numel() / values.shape[1], device=values.device)
    return torch.cat([count, mean, variance])


def _gather(own: torch.Tensor) -> torch.Tensor:
    """Return the tensors of all processes, ``[world_size, ...]``, on the device."""
    gathered = [torch.empty_like(own) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(gathered, own)
    return torch.stack(gathered)


def _merge(gathered: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return number ``[1]``, means and biased variances ``[C]`` of the values of all processes."""
    counts = gathered[:, :1]
    means, variances = gathered[:, 1:].chunk(2, dim=1)
    shares = counts / counts.sum(dim=0)
    mean = (means * shares).sum(dim=0)
    variance = ((variances + (means - mean).square()) * shares).sum(dim=0)
    return counts.sum(dim=0), mean, variance


class _Normalize(torch.autograd.Function):
    """Normalise with given statistics, which depend on the values of all processes.

    The gradient with respect to a value is that at constant statistics, less what the value does
    to mean and variance of all (Ioffe and Szegedy 2015); the latter takes two sums over all.
    """

    @staticmethod
    def forward(
        context: Any,
        images: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        mean: torch.Tensor,
        variance: torch.Tensor,
        count: torch.Tensor,
        eps: float,
    ) -> torch.Tensor:
        """Return ``[B, C, ...]`` in the format of the images."""
        scale = torch.rsqrt(variance + eps)
        context.save_for_backward(images, weight, mean, scale, count)
        factor = weight.float() * scale
        offset = bias.float() - mean * factor
        shape = _channels(images)
        output = torch.addcmul(offset.view(shape), images.float(), factor.view(shape))
        return output.to(images.dtype)

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients of images, weight and bias; the latter are of this process."""
        images, weight, mean, scale, count = context.saved_tensors
        shape = _channels(images)
        dimensions = [0, *range(2, images.dim())]
        outer = gradient.float()
        normalised = (images.float() - mean.view(shape)) * scale.view(shape)
        own = torch.stack([(outer * normalised).sum(dim=dimensions), outer.sum(dim=dimensions)])
        of_all = own.clone()
        torch.distributed.all_reduce(of_all)
        slope, level = of_all / count
        inner = outer - level.view(shape) - normalised * slope.view(shape)
        inner = inner * (weight.float() * scale).view(shape)
        return inner.to(images.dtype), own[0], own[1], None, None, None, None


def _channels(images: torch.Tensor) -> list[int]:
    """Return the shape that lays one value for each channel along the second dimension."""
    return [1, -1, *[1] * (images.dim() - 2)]

"""Batch normalisation whose statistics are of the images of all processes.

Shapes: B images of this process in a pass, C channels, further dimensions as they come; every
process has as many values. A channel's statistics are over all but the second dimension.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from runner_mindspore.autoload import Tensor, ms, nn, ops

if TYPE_CHECKING:
    from typing import Any

LAYERS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def synchronize(net: nn.Cell, world_size: int, *, native: bool) -> None:
    """Let the batch normalisation of a net take its statistics over all processes.

    Layers stay what they are, with their names, weights and what they compute in evaluation; what
    they train with is replaced, as ``nn.SyncBatchNorm`` does in itself. To be called when the
    net's number formats are decided: without a kernel, these layers compute in ``float32``, as a
    cell in a lower format hands on copies of its running statistics, which nothing can move.

    Args:
        net: The net, which is changed.
        world_size: Number of processes.
        native: Whether the device has a kernel for ``nn.SyncBatchNorm``.
    """
    for _, cell in net.cells_and_names():
        if isinstance(cell, LAYERS):
            share = cell.momentum  # of the new statistics; the constructor takes that of the old
            if native:
                layer = nn.SyncBatchNorm(cell.num_features, eps=cell.eps, momentum=1 - share)
                cell.bn_train = layer.bn_train
            else:
                cell.to_float(ms.float32)
                cell.bn_train = SharedBatchNorm(cell.eps, share, world_size)


@final
class SharedBatchNorm(nn.Cell):
    """What ``ops.BatchNorm`` does in training, over all processes, in ``float32``.

    Made of what MindSpore has on every device. Statistics are merged from those of each process
    (Chan et al. 1979), so they are as exact as in one pass over all images.
    """

    def __init__(self, eps: float, share: float, world_size: int) -> None:
        super().__init__(auto_prefix=False)
        self.share, self.world_size = share, world_size
        self.gather = ops.AllGather()
        self.normalize = _Normalize(eps, world_size)

    def construct(
        self, images: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, variance: Tensor
    ) -> tuple[Tensor, ...]:
        """Normalise ``[B, C, ...]`` and move the running statistics towards those of this pass."""
        values = ops.stop_gradient(images).astype(ms.float32)
        count = self.world_size * (values.size // values.shape[1])
        own_mean = values.mean(_axes(values))
        own_variance = (values - own_mean.reshape(_channels(values))).square().mean(_axes(values))
        gathered = self.gather(ops.stack((own_mean, own_variance)).expand_dims(0))
        means, variances = gathered[:, 0], gathered[:, 1]
        of_all = means.mean(0)
        spread = (variances + (means - of_all).square()).mean(0)
        unbiased = spread * (count / max(count - 1, 1))
        moved = (
            ops.assign(mean, mean + (of_all - mean) * self.share),
            ops.assign(variance, variance + (unbiased - variance) * self.share),
        )
        of_all = ops.depend(of_all, moved)
        return (self.normalize(images, gamma, beta, of_all, spread),)


@final
class _Normalize(nn.Cell):
    """Normalise with given statistics, which depend on the values of all processes.

    The gradient with respect to a value is that at constant statistics, less what the value does
    to mean and variance of all (Ioffe and Szegedy 2015); the latter takes two sums over all.
    """

    def __init__(self, eps: float, world_size: int) -> None:
        super().__init__(auto_prefix=False)
        self.eps, self.world_size = eps, world_size
        self.sum = ops.AllReduce()

    def construct(
        self, images: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, variance: Tensor
    ) -> Tensor:
        """Return ``[B, C, ...]`` in the format of the images."""
        shape = _channels(images)
        factor = gamma.astype(ms.float32) * ops.rsqrt(variance + self.eps)
        offset = beta.astype(ms.float32) - mean * factor
        output = images.astype(ms.float32) * factor.reshape(shape) + offset.reshape(shape)
        return output.astype(images.dtype)

    def bprop(  # the arguments of construct, its output, and the gradient of that
        self,
        images: Tensor,
        gamma: Tensor,
        beta: Tensor,
        mean: Tensor,
        variance: Tensor,
        _output: Tensor,
        gradient: Tensor,
    ) -> tuple[Any, ...]:
        """Return the gradients of images, gamma and beta; the latter are of this process."""
        axes, shape = _axes(images), _channels(images)
        scale = ops.rsqrt(variance + self.eps)
        outer = gradient.astype(ms.float32)
        normalised = (images.astype(ms.float32) - mean.reshape(shape)) * scale.reshape(shape)
        own_slope, own_level = (outer * normalised).sum(axes), outer.sum(axes)
        sums = self.sum(ops.stack((own_slope, own_level)))
        # indexing a tensor with an integer fails here now and then, in PyNative mode
        slope, level = ops.split(sums / (self.world_size * (images.size // images.shape[1])), 1)
        inner = outer - level.reshape(shape)
        inner = inner - normalised * slope.reshape(shape)
        inner = inner * (gamma.astype(ms.float32) * scale).reshape(shape)
        return (
            inner.astype(images.dtype),
            own_slope.astype(gamma.dtype),
            own_level.astype(beta.dtype),
            ops.zeros_like(mean),
            ops.zeros_like(variance),
        )


def _axes(images: Tensor) -> tuple[int, ...]:
    """Return all dimensions but that of the channels."""
    return (0, *range(2, images.ndim))


def _channels(images: Tensor) -> tuple[int, ...]:
    """Return the shape that lays one value for each channel along the second dimension."""
    return (1, -1, *([1] * (images.ndim - 2)))

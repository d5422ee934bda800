"""ResNet, ResNeXt and MobileNetV2 as torchvision defines them, with fresh weights.

Layers have torchvision's names, so that weights map one to one. Every model takes images
``[B, 3, H, W]`` and returns logits ``[B, K]``. Fresh weights repeat after ``ms.set_seed``.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from runner.framework.models import check_conv_init
from runner_mindspore.autoload import Tensor, ms, nn, ops

if TYPE_CHECKING:
    from runner.framework.options import MobileNetOptions, ResNetOptions


def build_resnet(name: str, options: ResNetOptions, num_classes: int) -> nn.Cell:
    """Build a ResNet or ResNeXt by torchvision's name, or ``resnext152_64x4d``.

    The latter has 152 layers, 64 groups and 4 channels per group (MindSpore models
    resnext152_64x4d), which torchvision has no name for.

    Raises:
        UsageError: An option has no effect on this model.
    """
    design = RESNETS[name]
    check_conv_init(options, name, groups=design.groups)
    net = ResNet(design, options, num_classes)
    if options.classifier_init == "normal":
        weight = net.fc.weight
        normal = ms.common.initializer.HeNormal(negative_slope=math.sqrt(5))
        weight.set_data(ms.common.initializer.initializer(normal, weight.shape, weight.dtype))
    for _, cell in net.cells_and_names():
        if options.zero_init_last_gamma and isinstance(cell, BasicBlock | Bottleneck):
            cell.last_gamma.set_data(ops.zeros_like(cell.last_gamma))
        if options.conv_init == "fan_out_per_group" and isinstance(cell, nn.Conv2d):
            cell.weight.set_data(cell.weight * math.sqrt(cell.group))
    return net


def build_mobilenet_v2(
    name: str,  # noqa: ARG001  there is one width
    options: MobileNetOptions,
    num_classes: int,
) -> nn.Cell:
    """Build MobileNetV2."""
    return MobileNetV2(num_classes, dropout=options.dropout)


def _conv(inputs: int, outputs: int, size: int, *, stride: int = 1, groups: int = 1) -> nn.Cell:
    """Make a convolution without bias, whose output is as large as its input over the stride."""
    return nn.Conv2d(
        inputs,
        outputs,
        size,
        stride,
        pad_mode="pad",
        padding=size // 2,
        group=groups,
        has_bias=False,
        weight_init=ms.common.initializer.HeNormal(mode="fan_out", nonlinearity="relu"),
    )


def _norm(channels: int) -> nn.Cell:
    """Make a batch normalisation; this momentum is what torch calls 0.1."""
    return nn.BatchNorm2d(channels, eps=1e-5, momentum=0.9)


class _Design(NamedTuple):
    """What distinguishes the members of the ResNet family."""

    depths: tuple[int, int, int, int]
    """Blocks of each stage."""
    bottleneck: bool = True
    groups: int = 1
    width_per_group: int = 64

    @property
    def expansion(self) -> int:
        """Channels that a block returns, over its nominal number of channels."""
        return 4 if self.bottleneck else 1

    def block(self, inputs: int, planes: int, stride: int) -> nn.Cell:
        """Make a block for features of ``inputs`` channels."""
        if not self.bottleneck:
            return BasicBlock(inputs, planes, stride)
        width = planes * self.width_per_group // 64 * self.groups
        return Bottleneck(inputs, width, planes * self.expansion, stride, groups=self.groups)


RESNETS = {
    "resnet18": _Design((2, 2, 2, 2), bottleneck=False),
    "resnet34": _Design((3, 4, 6, 3), bottleneck=False),
    "resnet50": _Design((3, 4, 6, 3)),
    "resnet101": _Design((3, 4, 23, 3)),
    "resnet152": _Design((3, 8, 36, 3)),
    "resnext50_32x4d": _Design((3, 4, 6, 3), groups=32, width_per_group=4),
    "resnext101_64x4d": _Design((3, 4, 23, 3), groups=64, width_per_group=4),
    "resnext152_64x4d": _Design((3, 8, 36, 3), groups=64, width_per_group=4),
}


class ResNet(nn.Cell):
    """A ResNet (He et al. 2016) or ResNeXt (Xie et al. 2017)."""

    def __init__(self, design: _Design, options: ResNetOptions, num_classes: int) -> None:
        super().__init__()
        small = options.stem == "small"
        self.conv1 = _conv(3, 64, 3) if small else _conv(3, 64, 7, stride=2)
        self.bn1 = _norm(64)
        self.relu = nn.ReLU()
        self.maxpool = nn.Identity() if small else _max_pool(options.max_pool_padding)
        inputs = 64
        stages = []
        for planes, depth, stride in zip(
            (64, 128, 256, 512), design.depths, (1, 2, 2, 2), strict=True
        ):
            blocks = [design.block(inputs, planes, stride)]
            inputs = planes * design.expansion
            blocks += [design.block(inputs, planes, 1) for _ in range(depth - 1)]
            stages.append(nn.SequentialCell(blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        bound = ms.common.initializer.Uniform(1 / math.sqrt(inputs))
        self.fc = nn.Dense(inputs, num_classes, weight_init=bound, bias_init=bound)

    def construct(self, images: Tensor) -> Tensor:
        """Return logits."""
        features = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        features = self.layer4(self.layer3(self.layer2(self.layer1(features))))
        return self.fc(features.mean((2, 3)))


def _max_pool(padding: str) -> nn.Cell:
    """Make the max pooling of a stem: 3x3 windows, half as many each way as there are pixels.

    Padded windows of ``nn.MaxPool2d`` itself are computed with indices, which neither ONNX nor a
    MINDIR of any batch size can hold. Zeros are as good, as nothing after a ReLU is less.
    """
    if padding == "end":
        return nn.MaxPool2d(3, 2, pad_mode="same")
    frame = nn.Pad(((0, 0), (0, 0), (1, 1), (1, 1)))
    return nn.SequentialCell([frame, nn.MaxPool2d(3, 2, pad_mode="valid")])


class BasicBlock(nn.Cell):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv(inputs, outputs, 3, stride=stride)
        self.bn1 = _norm(outputs)
        self.relu = nn.ReLU()
        self.conv2 = _conv(outputs, outputs, 3)
        self.bn2 = _norm(outputs)
        self.downsample = _downsample(inputs, outputs, stride)

    @property
    def last_gamma(self) -> ms.Parameter:
        """Scale of the last batch normalisation."""
        return self.bn2.gamma

    def construct(self, inputs: Tensor) -> Tensor:
        """Return features."""
        features = self.relu(self.bn1(self.conv1(inputs)))
        features = self.bn2(self.conv2(features))
        return self.relu(features + self.downsample(inputs))


class Bottleneck(nn.Cell):
    """A 1x1, a 3x3 and a 1x1 convolution, and a shortcut; the 3x3 convolution has the stride."""

    def __init__(self, inputs: int, width: int, outputs: int, stride: int, *, groups: int) -> None:
        super().__init__()
        self.conv1 = _conv(inputs, width, 1)
        self.bn1 = _norm(width)
        self.conv2 = _conv(width, width, 3, stride=stride, groups=groups)
        self.bn2 = _norm(width)
        self.conv3 = _conv(width, outputs, 1)
        self.bn3 = _norm(outputs)
        self.relu = nn.ReLU()
        self.downsample = _downsample(inputs, outputs, stride)

    @property
    def last_gamma(self) -> ms.Parameter:
        """Scale of the last batch normalisation."""
        return self.bn3.gamma

    def construct(self, inputs: Tensor) -> Tensor:
        """Return features."""
        features = self.relu(self.bn1(self.conv1(inputs)))
        features = self.relu(self.bn2(self.conv2(features)))
        features = self.bn3(self.conv3(features))
        return self.relu(features + self.downsample(inputs))


def _downsample(inputs: int, outputs: int, stride: int) -> nn.Cell:
    """Make a shortcut, with weights where it must change the shape."""
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.SequentialCell([_conv(inputs, outputs, 1, stride=stride), _norm(outputs)])


BOTTLENECKS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Expansion, channels, blocks and first stride of each stage (Sandler et al. 2018, table 2)."""


class MobileNetV2(nn.Cell):
    """MobileNetV2 (Sandler et al. 2018)."""

    def __init__(self, num_classes: int, *, dropout: float) -> None:
        super().__init__()
        layers = [_conv_norm_relu(3, 32, 3, stride=2)]
        inputs = 32
        for expansion, outputs, depth, first_stride in BOTTLENECKS:
            for position in range(depth):
                stride = first_stride if position == 0 else 1
                layers.append(InvertedResidual(inputs, outputs, stride, expansion=expansion))
                inputs = outputs
        self.features = nn.SequentialCell([*layers, _conv_norm_relu(inputs, 1280, 1)])
        normal = ms.common.initializer.Normal(0.01)
        dense = nn.Dense(1280, num_classes, weight_init=normal, bias_init="zeros")
        self.classifier = nn.SequentialCell([SeededDropout(1280, dropout), dense])

    def construct(self, images: Tensor) -> Tensor:
        """Return logits."""
        return self.classifier(self.features(images).mean((2, 3)))


class InvertedResidual(nn.Cell):
    """A 1x1, a depthwise 3x3 and a linear 1x1 convolution, and a shortcut where shapes allow it."""

    def __init__(self, inputs: int, outputs: int, stride: int, *, expansion: int) -> None:
        super().__init__()
        width = inputs * expansion
        layers = [] if expansion == 1 else [_conv_norm_relu(inputs, width, 1)]
        layers.append(_conv_norm_relu(width, width, 3, stride=stride, groups=width))
        self.conv = nn.SequentialCell([*layers, _conv(width, outputs, 1), _norm(outputs)])
        self.shortcut = stride == 1 and inputs == outputs

    def construct(self, inputs: Tensor) -> Tensor:
        """Return features."""
        return inputs + self.conv(inputs) if self.shortcut else self.conv(inputs)


def _conv_norm_relu(
    inputs: int, outputs: int, size: int, *, stride: int = 1, groups: int = 1
) -> nn.Cell:
    conv = _conv(inputs, outputs, size, stride=stride, groups=groups)
    return nn.SequentialCell([conv, _norm(outputs), nn.ReLU6()])


_NUMBERS = itertools.count()
"""What the parameters of a graph are told apart by."""


class SeededDropout(nn.Cell):
    """Dropout whose masks come from a generator of the host.

    MindSpore's own dropout has a random state that can be neither saved nor restored, so that a
    run could not continue exactly.
    """

    def __init__(self, features: int, probability: float) -> None:
        super().__init__()
        self.probability = probability
        self._features = features
        self._number = next(_NUMBERS)
        # A compiled graph holds on to the parameters that it was compiled with, and there is one
        # graph for each number of images: so there is one mask for each. In a dictionary they are
        # not among the parameters of the net.
        self._masks: dict[int, ms.Parameter] = {}

    def draw(self, random: np.random.Generator, images: int) -> None:
        """Draw the mask of the next training pass, over ``images`` images."""
        kept = random.random((images, self._features), np.float32) >= self.probability
        mask = Tensor(kept / np.float32(1 - self.probability))
        if images in self._masks:
            ops.assign(self._masks[images], mask)
        else:
            name = f"dropout_{self._number}.mask_{images}"
            self._masks[images] = ms.Parameter(mask, name=name, requires_grad=False)

    def construct(self, inputs: Tensor) -> Tensor:
        """Drop features ``[B, C]`` in training; ``draw`` must have been called for B images."""
        if not self.training:
            return inputs
        return inputs * self._masks[inputs.shape[0]].astype(inputs.dtype)

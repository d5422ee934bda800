"""The torchvision classifiers, with fresh weights.

torchvision is imported inside the functions: it imports torch, which ``autoload`` must do first.
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING

from runner.framework.models import check_conv_init
from runner_torch.autoload import torch

if TYPE_CHECKING:
    from runner.framework.options import MobileNetOptions, ResNetOptions
    from runner.options import NoOptions
    from runner_torch.options import DropoutOptions, GoogLeNetOptions


def build_resnet(name: str, options: ResNetOptions, num_classes: int) -> torch.nn.Module:
    """Build a ResNet or ResNeXt by torchvision's name, or ``resnext152_64x4d``.

    The latter has 152 layers, 64 groups and 4 channels per group (MindSpore models
    resnext152_64x4d), which torchvision has no name for.

    Raises:
        UsageError: An option has no effect on this model.
    """
    from torchvision.models.resnet import Bottleneck, ResNet

    zero_init = options.zero_init_last_gamma
    if name == "resnext152_64x4d":
        model: torch.nn.Module = ResNet(
            Bottleneck,
            [3, 8, 36, 3],
            num_classes=num_classes,
            zero_init_residual=zero_init,
            groups=64,
            width_per_group=4,
        )
    else:
        model = _torchvision_model(name, num_classes=num_classes, zero_init_residual=zero_init)
    if options.stem == "small":
        stem = torch.nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
        torch.nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
        model.conv1 = stem
        model.maxpool = torch.nn.Identity()
    elif options.max_pool_padding == "end":
        model.maxpool = EndPaddedMaxPool()
    convolutions = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    check_conv_init(options, name, groups=max(conv.groups for conv in convolutions))
    if options.classifier_init == "normal":
        torch.nn.init.kaiming_normal_(model.get_parameter("fc.weight"), a=math.sqrt(5))
    if options.conv_init == "fan_out_per_group":
        with torch.no_grad():
            for conv in convolutions:
                conv.weight.mul_(math.sqrt(conv.groups))
    return model


def build_dropout(
    name: str, options: DropoutOptions | MobileNetOptions, num_classes: int
) -> torch.nn.Module:
    """Build a model whose one option is its dropout: AlexNet, VGG or MobileNetV2."""
    return _torchvision_model(name, num_classes=num_classes, dropout=options.dropout)


def build_googlenet(name: str, options: GoogLeNetOptions, num_classes: int) -> torch.nn.Module:
    """Build GoogLeNet; in training mode it returns a tuple of main and auxiliary logits."""
    return _torchvision_model(
        name,
        num_classes=num_classes,
        aux_logits=options.aux_heads,
        init_weights=True,
        dropout=options.dropout,
        dropout_aux=options.aux_dropout,
    )


def build_plain(name: str, options: NoOptions, num_classes: int) -> torch.nn.Module:  # noqa: ARG001
    """Build a model without options."""
    return _torchvision_model(name, num_classes=num_classes)


def _torchvision_model(name: str, **arguments: object) -> torch.nn.Module:
    import torchvision

    model: torch.nn.Module = torchvision.models.get_model(name, weights=None, **arguments)
    return model


class EndPaddedMaxPool(torch.nn.Module):
    """Max pooling of 3x3 windows with stride 2, padded as in MindSpore's ``same`` mode.

    An even number of pixels lacks one, which is added at the end; an odd number lacks two, which
    are added on both sides.
    """

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Pool ``[B, C, H, W]`` to half the height and width, rounded up."""
        height, width = images.shape[-2:]
        if torch.onnx.is_in_onnx_export():
            with warnings.catch_warnings():
                # that the size becomes a constant, which it must be in a graph
                warnings.simplefilter("ignore")
                height, width = int(height), int(width)
        return torch.nn.functional.max_pool2d(
            images, 3, stride=2, padding=(height % 2, width % 2), ceil_mode=True
        )

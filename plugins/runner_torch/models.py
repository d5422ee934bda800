"""The torchvision classifiers, with fresh weights.

torchvision is imported inside the functions: it imports torch, which ``autoload`` must do first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner_torch.autoload import torch

if TYPE_CHECKING:
    from runner.framework.options import MobileNetOptions, ResNetOptions
    from runner.options import NoOptions
    from runner_torch.options import DropoutOptions, GoogLeNetOptions


def build_resnet(name: str, options: ResNetOptions, num_classes: int) -> torch.nn.Module:
    """Build a ResNet or ResNeXt by torchvision's name, or ``resnext152_64x4d``.

    The latter has 152 layers, 64 groups and 4 channels per group (MindSpore models
    resnext152_64x4d), which torchvision has no name for.
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

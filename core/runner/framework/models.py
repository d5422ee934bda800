"""Checks of model options."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.errors import UsageError

if TYPE_CHECKING:
    from runner.framework.options import ResNetOptions


def check_conv_init(options: ResNetOptions, model: str, *, groups: int) -> None:
    """Refuse an initialisation per group of a model without groups.

    Args:
        options: Options of the model.
        model: Name of the model.
        groups: Groups of its grouped convolutions.

    Raises:
        UsageError: The option has no effect.
    """
    if options.conv_init == "fan_out_per_group" and groups == 1:
        raise UsageError(
            f"model.options.conv_init is fan_out_per_group, but {model} has no grouped "
            "convolutions, so it has no effect; remove it, or use a ResNeXt"
        )

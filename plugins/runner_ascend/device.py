"""The vendor's own switches of an Ascend NPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.errors import DeviceError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from runner_ascend.options import NpuOptions


def configure(options: NpuOptions) -> Mapping[str, Any]:
    """Put the options into effect, and return those that were set.

    Raises:
        DeviceError: The installed ``torch_npu`` does not have a switch, or refuses a value.
    """
    import torch_npu

    npu = torch_npu.npu
    wanted = {
        "jit_compile": options.jit_compile,
        "precision_mode": options.precision_mode,
        "internal_format": options.internal_format,
    }
    wanted = {name: value for name, value in wanted.items() if value is not None}
    try:
        if options.jit_compile is not None:
            npu.set_compile_mode(jit_compile=options.jit_compile)
        if options.precision_mode is not None:
            npu.set_option({"ACL_PRECISION_MODE": options.precision_mode})
        if options.internal_format is not None:
            npu.config.allow_internal_format = options.internal_format
    except (AttributeError, ValueError, RuntimeError) as error:
        settings = ", ".join(f"device.{name}={value}" for name, value in wanted.items())
        raise DeviceError(
            f"torch_npu {torch_npu.__version__} does not accept {settings}: {error}; "
            "remove what it does not know"
        ) from error
    return wanted

"""What a framework's errors in a pass through the model mean, and what to do about them.

The framework's own text is kept below the sentence: it names the layer or the kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from runner.errors import DeviceError, UsageError
from runner.framework.engine import out_of_memory

if TYPE_CHECKING:
    import re

    from runner.contracts import EngineSpec
    from runner.errors import RunnerError

FAILURES = (RuntimeError, ValueError, AssertionError, IndexError, MemoryError)
"""What frameworks raise in a pass; plugins' own mistakes may be other exceptions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wording:
    """How a framework words its errors: patterns that its messages hold."""

    framework: str
    memory: re.Pattern[str]
    """Neither the device nor the host has memory left."""
    kernel: re.Pattern[str]
    """There is no kernel for an operation, on this device or in this format."""
    shape: re.Pattern[str]
    """A tensor has another shape than a layer takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """What went through the model."""

    images: int
    height: int
    width: int
    training: bool


def explain_building(
    error: BaseException, wording: Wording, spec: EngineSpec, device: str
) -> RunnerError | None:
    """Return what it means that an engine cannot be built; ``None`` if memory is not the matter."""
    text = str(error).strip()
    if not isinstance(error, MemoryError) and not wording.memory.search(text):
        return None
    average = ", switch off train.ema_decay" if spec.ema_decay is not None else ""
    return DeviceError(
        f"device {device} has no memory for model {spec.model.name} with {spec.num_classes} "
        f"classes and its optimizer; choose a smaller model{average}, or use an idle device; "
        f"{wording.framework} says:\n{text or type(error).__name__}"
    )


def explain(
    error: BaseException, wording: Wording, spec: EngineSpec, device: str, done: Pass
) -> RunnerError | None:
    """Return what a failure means; ``None`` if it is no matter of memory, kernels or shapes.

    Args:
        error: What the framework raised.
        wording: How it words its errors.
        spec: The model, and how it was to be computed.
        device: Name of the device.
        done: The pass.
    """
    text = str(error).strip()
    if isinstance(error, MemoryError) or wording.memory.search(text):
        setting = "train.micro_batch_size" if done.training else "eval.batch_size"
        first = text.partition("\n")[0] or type(error).__name__
        return out_of_memory(first, device, done.images, setting)
    said = f"{wording.framework} says:\n{text}"
    if isinstance(error, NotImplementedError) or wording.kernel.search(text):
        compute = spec.precision.compute
        other = "" if compute == "fp32" else "--set precision.compute=fp32, "
        return DeviceError(
            f"device {device} cannot compute model {spec.model.name} in {compute}: it lacks an "
            f"operation; choose {other}another model or another device; {said}"
        )
    if wording.shape.search(text):
        step = "training" if done.training else "evaluation"
        return UsageError(
            f"model {spec.model.name} does not take images of {done.width} x {done.height} pixels "
            f"in {step}; change their size in transforms.{'train' if done.training else 'eval'} "
            "(larger ones, where its layers leave nothing of small ones; each model has its own, "
            f"often 224 x 224), or choose another model; {said}"
        )
    return None

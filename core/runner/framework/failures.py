"""What a framework's errors in a pass through the model mean, and what to do about them.

The framework's own text is kept below the sentence: it names the layer or the kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from runner.errors import DeviceError, UsageError
from runner.terminal.display import counted

if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Sequence

    from runner.entries import EngineSpec
    from runner.errors import RunnerError

FAILURES = (RuntimeError, ValueError, AssertionError, IndexError, MemoryError)
"""What frameworks raise in a pass; plugins' own mistakes may be other exceptions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wording:
    """How a framework words its errors: patterns that its messages hold."""

    framework: str
    memory: re.Pattern[str]
    """Neither the device nor the host has memory left."""
    memory_errors: tuple[type[BaseException], ...] = (MemoryError,)
    """Exceptions that mean it, whatever their message."""
    kernel: re.Pattern[str]
    """There is no kernel for an operation, on this device or in this format."""
    shape: re.Pattern[str]
    """A tensor has another shape than a layer takes."""
    reason: Callable[[BaseException], str]
    """Return the class of an error and what it says, in one line."""

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Return whether an error means that there is no memory left."""
        return isinstance(error, self.memory_errors) or bool(self.memory.search(str(error)))


def explain_building(
    error: BaseException, wording: Wording, spec: EngineSpec, device: str
) -> RunnerError | None:
    """Return what it means that an engine cannot be built; ``None`` if memory is not the matter."""
    if not wording.is_out_of_memory(error):
        return None
    text = str(error).strip()
    average = ", switch off train.ema_decay" if spec.ema_decay is not None else ""
    return DeviceError(
        f"device {device} has no memory for model {spec.model.name} with {spec.num_classes} "
        f"classes and its optimizer; choose a smaller model{average}, or use an idle device; "
        f"{wording.framework} says:\n{text or type(error).__name__}"
    )


def explain(
    error: BaseException,
    wording: Wording,
    spec: EngineSpec,
    device: str,
    images: int,
    size: Sequence[int],
    *,
    training: bool,
) -> RunnerError | None:
    """Return what a failure means; ``None`` if it is no matter of memory, kernels or shapes.

    Args:
        error: What the framework raised.
        wording: How it words its errors.
        spec: The model, and how it was to be computed.
        device: Name of the device.
        images: Images that went through the model.
        size: Their height and width in pixels.
        training: Whether it was in training.
    """
    if wording.is_out_of_memory(error):
        setting = "train.micro_batch_size" if training else "eval.batch_size"
        return DeviceError(
            f"device {device} is out of memory with {counted(images, 'image')} per pass "
            f"({wording.reason(error)}); lower {setting}, for example --set "
            f"{setting}={max(1, images // 2)}, or use an idle device"
        )
    text = str(error).strip()
    said = f"{wording.framework} says:\n{text}"
    if isinstance(error, NotImplementedError) or wording.kernel.search(text):
        compute = spec.precision.compute
        other = "" if compute == "fp32" else "--set precision.compute=fp32, "
        return DeviceError(
            f"device {device} cannot compute model {spec.model.name} in {compute}: it lacks an "
            f"operation; choose {other}another model or another device; {said}"
        )
    if wording.shape.search(text):
        step, transforms = ("training", "train") if training else ("evaluation", "eval")
        height, width = size
        return UsageError(
            f"model {spec.model.name} does not take images of {width} x {height} pixels "
            f"in {step}; change their size in transforms.{transforms} "
            "(larger ones, where its layers leave nothing of small ones; each model has its own, "
            f"often 224 x 224), or choose another model; {said}"
        )
    return None


def one_value_per_channel(images: int | None, micro_batch_size: int) -> UsageError:
    """Say how to avoid a pass that batch normalisation cannot handle.

    Args:
        images: Images of the step; ``None`` before there is one, of the last step of an epoch.
        micro_batch_size: Images that one pass may have.
    """
    before = "every step" if micro_batch_size == 1 else "the last batch of an epoch"
    step = before if images is None else f"a step of {counted(images, 'image')}"
    advice = (
        "let each device take 2 or more images in a pass, with train.batch_size and, where it is "
        "set, train.micro_batch_size"
        if micro_batch_size == 1
        else "leave a small last batch out with --set train.last_batch=drop, or choose a "
        "train.batch_size and train.micro_batch_size that do not leave one image over"
    )
    return UsageError(
        "batch normalisation needs more than one value per channel, but a pass has 1 image whose "
        f"features are one pixel ({step}, {micro_batch_size} per pass); {advice}, or enlarge the "
        "images in transforms.train"
    )

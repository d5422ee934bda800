"""What is said when torch fails."""

from __future__ import annotations

import re

from runner.errors import DeviceError, UsageError

ONE_VALUE = "Expected more than 1 value per channel when training"
"""How the message of batch normalisation begins that has one value to normalise over."""


_ESCAPE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_UNPICKLER = "WeightsUnpickler error: "


def reason(error: BaseException) -> str:
    """Return the first line of what went wrong first; torch wraps it in pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return _named(error, str(error))


def unreadable(error: BaseException) -> str:
    """Return why ``torch.load`` failed, in one sentence.

    Its messages begin with advice, and the cause follows pages later.
    """
    text = str(error)
    cause = text.partition(_UNPICKLER)[2]
    return _named(error, re.split(r"\.\s", cause or text)[0])


def _named(error: BaseException, text: str) -> str:
    line = _ESCAPE.sub("", text).strip().partition("\n")[0]
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


def out_of_memory(error: BaseException, device: str, images: int, setting: str) -> DeviceError:
    """Say which recipe key to lower.

    Args:
        error: What torch raised.
        device: Name of the device.
        images: Images in one pass through the model.
        setting: Recipe key that bounds them.
    """
    return DeviceError(
        f"device {device} is out of memory with {images} images per pass ({reason(error)}); "
        f"lower {setting}, for example --set {setting}={max(1, images // 2)}, or use an idle device"
    )


def one_value_per_channel(images: int, micro_batch_size: int) -> UsageError:
    """Say how to avoid a pass that batch normalisation cannot handle.

    Args:
        images: Images of the step.
        micro_batch_size: Images that one pass may have.
    """
    last = images % micro_batch_size or min(images, micro_batch_size)
    return UsageError(
        f"batch normalisation needs more than one value per channel, but a pass has {last} image "
        f"whose features are one pixel (a step of {images} images, {micro_batch_size} per pass); "
        "leave a small last batch out with --set train.last_batch=drop, or choose a "
        "train.micro_batch_size that does not leave one image over"
    )

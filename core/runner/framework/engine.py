"""Checks and messages of engines."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from runner.contracts import ArtifactInfo
from runner.errors import CheckpointError, DeviceError, PluginError, RunnerError, UsageError
from runner.terminal.display import counted

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from runner.contracts import EngineSpec

ModelT = TypeVar("ModelT")

INPUT, OUTPUT, BATCH = "input", "logits", "batch"
"""Names in exported graphs: the input, the output, and the size of the batch."""


def build_model(spec: EngineSpec, expected: type[ModelT]) -> ModelT:
    """Build the model of a spec.

    Raises:
        PluginError: The entry's ``build`` raises, or returns something else than ``expected``.
    """
    name = spec.model.name
    try:
        model = spec.model.build(spec.model_options, spec.num_classes)
    except (RunnerError, MemoryError):
        raise
    except Exception as error:
        raise PluginError(
            f"model {name} cannot be built with {counted(spec.num_classes, 'class')}: "
            f"{type(error).__name__}: {error}; correct its model.options or the entry's build"
        ) from error
    if not isinstance(model, expected):
        wanted = f"{expected.__module__.partition('.')[0]} {expected.__name__}"
        raise PluginError(
            f"model {name} was built as {type(model).__name__}; the entry's build "
            f"must return a {wanted}"
        )
    return model


def check_logits(found: object, model: str, images: int, num_classes: int) -> None:
    """Check the shape of what a model returned.

    Args:
        found: The shape as a tuple, or what the model returned if it has none.
        model: Name of the model.
        images: Images that it was given.
        num_classes: Classes that it was built with.

    Raises:
        PluginError: It is not logits ``[B, K]``.
    """
    if found == (images, num_classes):
        return
    what = f"shape {list(found)}" if isinstance(found, tuple) else f"a {type(found).__name__}"
    raise PluginError(
        f"model {model} returned {what} for {counted(images, 'image')}, expected logits of "
        f"shape {[images, num_classes]}; the entry's build must make as many outputs as the "
        f"num_classes it is given, {num_classes}"
    )


def check_identity(expected: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Compare what must be the same in a run that continues another.

    Raises:
        CheckpointError: The state is of another framework, optimizer, precision, ...
    """
    for key, wanted in expected.items():
        found = values.get(key)
        if found != wanted:
            raise CheckpointError(
                f"the checkpoint's state has {key} {found!r}, this run has {wanted!r}; "
                "continue with the recipe that the run was started with"
            )


def out_of_memory(reason: str, device: str, images: int, setting: str) -> DeviceError:
    """Say which recipe key to lower.

    Args:
        reason: What the framework said.
        device: Name of the device.
        images: Images in one pass through the model.
        setting: Recipe key that bounds them.
    """
    return DeviceError(
        f"device {device} is out of memory with {counted(images, 'image')} per pass ({reason}); "
        f"lower {setting}, for example --set {setting}={max(1, images // 2)}, or use an idle device"
    )


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


def artifact_info(
    spec: EngineSpec, *, format_name: str, file: str, details: Mapping[str, Any]
) -> ArtifactInfo:
    """Describe a graph from normalised images ``[B, 3, H, W]`` to logits ``[B, K]``, for any B."""
    return ArtifactInfo(
        format=format_name,
        file=file,
        input_name=INPUT,
        input_shape=(BATCH, 3, *spec.image_size),
        output_name=OUTPUT,
        details=details,
    )

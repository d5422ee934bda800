"""What the commands under ``runner offline`` do; ``cli`` prints what they return."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING

from runner.artifacts import artifact as artifacts
from runner.artifacts.offline import labels, logits, pixels, score
from runner.errors import UsageError
from runner.planning.loading import load
from runner.plugins import loading
from runner.session.opening import open_split
from runner.storage import checkpoint
from runner.storage.events import EventLog
from runner.training.model_plan import plan_for, refuse_device

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from runner.artifacts.offline.logits import Timing
    from runner.artifacts.offline.pixels import HostPart
    from runner.artifacts.offline.score import Score
    from runner.data.decode_options import Notice
    from runner.planning.plan import Plan
    from runner.storage.events import Listener


def predict(
    path: Path,
    overrides: Sequence[str],
    *,
    recipe_name: str | None,
    output: Path,
    dtype: str,
    batch_size: int | None,
    listener: Listener | None,
    trusted: bool = False,
) -> tuple[Score, Timing]:
    """Write an artifact's logits for every image of the validation split, and score the files.

    Raises:
        UsageError: ``path`` is no artifact, or the output folder is in use.
        CheckpointError: The classes of the data are not those of the model.
    """
    logits.check_output(output)
    if not artifacts.is_artifact(path):
        raise UsageError(
            f"{path} is no exported artifact; expected a folder that `runner export` wrote, such "
            "as runs/quickstart/20260131-120000/exports/onnx"
        )
    refuse_device(overrides)
    registry = loading.load()
    events = EventLog(listener)
    resolved = plan_for(path, overrides, recipe_name, registry, events)
    artifact = artifacts.read(path, trusted=trusted)
    artifacts.tell_unchecked(artifact, events)
    batch_size = artifacts.batch_size(artifact, batch_size, otherwise=1)
    model = artifacts.open_predictor(artifact, registry)
    split = open_split(resolved, "val", events, artifact.transforms, artifact.decoding)
    with closing(split.loader):
        checkpoint.check_classes(artifact.classes, split.classes, "the dataset", model=path)
        timing = logits.predict(model, split, output, dtype=dtype, batch_size=batch_size)
    classes = len(artifact.classes)
    result = score.score_folder(output, dtype=dtype, classes=classes, label_offset=0)
    return result, timing


def write_pixels(
    source: str,
    overrides: Sequence[str],
    *,
    recipe_name: str | None,
    output: Path,
    device_crop: bool,
    listener: Listener | None,
) -> tuple[HostPart, int]:
    """Write the pixels of every validation image of a recipe or an artifact.

    Args:
        source: An artifact, which says what its device does, or a recipe.
        overrides: Changes to the recipe.
        recipe_name: The recipe with the dataset, for an artifact outside a run.
        output: Folder to make.
        device_crop: Leave the last centre crop of a recipe to the device.
        listener: Learns what happens.

    Returns:
        What was done to the images, and how many there are.

    Raises:
        UsageError: The device would cut something else than the evaluation, or ``device_crop``
            has no effect.
    """
    resolved, artifact = _find(source, overrides, recipe_name)
    transforms = artifact.transforms if artifact else resolved.recipe.transforms.eval
    if artifact:
        if device_crop:
            raise UsageError(
                "an artifact says itself what its device does: --device-crop has no effect on it"
            )
        device_crop = bool(artifact.info.details.get(pixels.DEVICE_CROP))
    part = pixels.on_host(transforms, device_crop=device_crop)
    decoding = (artifact or resolved.recipe.dataset).decoding
    split = open_split(resolved, "val", EventLog(listener), part.transforms, decoding)
    with closing(split.loader):
        return part, pixels.write(split.dataset, split.loader, output)


def write_pixels_of_folder(
    folder: Path, preset: str, *, output: Path, workers: int, listener: Listener | None = None
) -> tuple[HostPart, int]:
    """Write the pixels of every image below a folder, with the steps of a preset.

    Returns:
        What was done to the images, and how many there are.

    Raises:
        UsageError: There is no such folder.
        DataError: An image is damaged, or there is none.
    """
    events = EventLog(listener)

    def report(notice: Notice) -> None:
        events.emit("data.noticed", split="images", **asdict(notice))

    dataset, loader = pixels.open_folder(folder, preset, workers=workers, report_noticed=report)
    transforms = pixels.PRESETS[preset]
    part = pixels.on_host(transforms, device_crop=False)
    with closing(loader):
        return part, pixels.write(dataset, loader, output)


def write_labels(
    source: str, overrides: Sequence[str], *, recipe_name: str | None, output: Path
) -> int:
    """Write the label of every validation image of a recipe or an artifact.

    Returns:
        The number of images.
    """
    dataset = _find(source, overrides, recipe_name)[0].open_split("val")
    labels.write(labels.names_of(dataset), dataset.labels.tolist(), output)
    return len(dataset.labels)


def lay_out(recipe_name: str, overrides: Sequence[str], *, output: Path, flat: bool) -> int:
    """Lay the validation images of a recipe out anew, as links.

    Returns:
        The number of images.
    """
    dataset = load(recipe_name, overrides).plan.open_split("val")
    return labels.lay_out(dataset, output, flat=flat)


def _find(
    source: str, overrides: Sequence[str], recipe_name: str | None
) -> tuple[Plan, artifacts.Artifact | None]:
    """Return the plan of a recipe or of an artifact, and the artifact if it is one."""
    from pathlib import Path

    path = Path(source)
    if artifacts.is_artifact(path):
        artifact = artifacts.read(path)
        registry = loading.load()
        return plan_for(path, overrides, recipe_name, registry, EventLog()), artifact
    if recipe_name:
        raise UsageError(
            f"{source} is no exported artifact: --recipe has no effect on it; to use the recipe "
            f"itself, name it in its place: {recipe_name}"
        )
    return load(source, overrides).plan, None

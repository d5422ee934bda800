"""Pixels of every image in files, for a program elsewhere that decodes no images.

    <stem>.bin    one image: uint8, RGB, [H, W, C], without header

Such a program normalises on its device, and may leave the last crop to it as well. ``on_host``
then says what remains to be done here, and where the device has to cut so that it gets the same
pixels as an evaluation.
"""

from __future__ import annotations

import shutil
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from runner.artifacts.offline.logits import check_output, check_stems
from runner.data.decode_options import unreported
from runner.data.image_files import ImageFiles
from runner.data.layouts.images import IMAGE_ENDINGS, list_images, stem_of
from runner.data.loader import ImageLoader
from runner.data.transforms.options import CenterCrop, Resize, crop_offset, fixed_size, output_size
from runner.errors import DataError, StorageError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from runner.contracts import DamagedImage, Dataset, Loader
    from runner.data.decode_options import Notice
    from runner.data.transforms.options import Transform

SUFFIX = ".bin"
_IMAGES_AT_ONCE = 32

DEVICE_CROP = "device_crop"
"""Key of ``ArtifactInfo.details``: true where the exported model does the last crop itself."""

PRESETS: dict[str, tuple[Transform, ...]] = {
    "resnet": (Resize(name="resize", shorter_side=256), CenterCrop(name="center_crop", size=256)),
    "inceptionv3": (
        Resize(name="resize", shorter_side=342),
        CenterCrop(name="center_crop", size=299),
    ),
    "inceptionv4": (
        Resize(name="resize", shorter_side=342),
        CenterCrop(name="center_crop", size=299),
    ),
}
"""Steps for a folder of images without a recipe; ``resnet`` leaves the crop to the device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Crop:
    """A rectangle that the device cuts out, in pixels."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HostPart:
    """What is done to an image before it is written."""

    transforms: tuple[Transform, ...]
    height: int
    """Of the written image, in pixels."""
    width: int
    crop: Crop | None
    """What the device has left to do; ``None`` where the written image is the network's input."""


def on_host(transforms: Sequence[Transform], *, device_crop: bool) -> HostPart:
    """Divide the steps of an evaluation between host and device.

    With ``device_crop`` the device does the last step, a centre crop. The host cuts the largest
    square that every resized image has, so that all files have one size. Both cuts together equal
    the one of an evaluation only where their margins differ by a multiple of four pixels: offsets
    round half to even, and an odd shift of the offset would round the other way.

    Raises:
        UsageError: The steps do not end with a crop, or the device would cut elsewhere.
        DataError: The steps do not end at a fixed size.
    """
    height, width = fixed_size(transforms)
    if not device_crop:
        return HostPart(transforms=tuple(transforms), height=height, width=width, crop=None)
    last, before = transforms[-1], tuple(transforms[:-1])
    if not isinstance(last, CenterCrop):
        raise UsageError(
            f"the evaluation ends with {last.name}, and a device can take over a center_crop only; "
            "let the host do all steps"
        )
    known = output_size(before)
    if known is not None:
        crop = Crop(
            top=crop_offset(known[0], last.size),
            left=crop_offset(known[1], last.size),
            height=last.size,
            width=last.size,
        )
        if min(known) < last.size:
            raise UsageError(_larger(last.size, min(known)))
        return HostPart(transforms=before, height=known[0], width=known[1], crop=crop)
    side = before[-1].shorter_side if before and isinstance(before[-1], Resize) else None
    if side is None:
        raise UsageError(
            "images have different sizes before the last center_crop, and nothing tells how large "
            "all of them are; add {name: resize, shorter_side: 256} before it, or let the host do "
            "all steps"
        )
    if side < last.size:
        raise UsageError(_larger(last.size, side))
    if (side - last.size) % 4:
        raise UsageError(
            f"a crop of {last.size} from images cut to {side} would not be the evaluation's for "
            f"every image: the difference of {side - last.size} pixels is no multiple of 4, and "
            "offsets round half to even; let the host do all steps"
        )
    margin = (side - last.size) // 2
    return HostPart(
        transforms=(*before, CenterCrop(name="center_crop", size=side)),
        height=side,
        width=side,
        crop=Crop(top=margin, left=margin, height=last.size, width=last.size),
    )


def _larger(crop: int, side: int) -> str:
    return (
        f"the crop of {crop} pixels is larger than the images of {side} pixels, and a device "
        "cannot add a border; let the host do all steps"
    )


def write(dataset: Dataset, loader: Loader, output: Path) -> int:
    """Write one file for each image of a split; the folder is complete or not there.

    Images that the loader skips as damaged have no file.

    Args:
        dataset: Names the images; their order does not matter.
        loader: Gives their pixels, at one size.
        output: Folder to make, which holds nothing yet.

    Returns:
        The number of files.

    Raises:
        UsageError: The folder is in use, or is where the command was started.
        DataError: Two images would have one file, or an image is damaged.
        StorageError: A file cannot be written.
    """
    check_output(output)
    output = output.resolve()
    if output == Path.cwd():  # it is replaced as a whole
        raise UsageError(f"{output} is the current folder; name one in it for --output")
    paths = [dataset.describe(index) for index in range(len(dataset.labels))]
    check_stems(paths)
    temporary = output.with_name(f".{output.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    count = 0
    try:
        temporary.mkdir(parents=True)
        with closing(loader.eval_batches(_IMAGES_AT_ONCE)) as batches:
            for batch in batches:
                for index, pixels in zip(batch.indices.tolist(), batch.images, strict=True):
                    (temporary / (stem_of(paths[index]) + SUFFIX)).write_bytes(pixels.tobytes())
                count += len(batch.images)
        temporary.replace(output)
    except OSError as error:
        raise StorageError(f"cannot write {output}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return count


def open_folder(
    folder: Path,
    preset: str,
    *,
    workers: int,
    report_noticed: Callable[[Notice], None] = unreported,
) -> tuple[Dataset, Loader]:
    """Open the images below a folder, without labels, with the steps of a preset.

    Raises:
        UsageError: There is no such folder.
        DataError: There is no image in it.
    """
    from runner.recipe.schema import LoaderSection

    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder; expected one that holds images")
    paths, ignored = list_images(str(folder), "", IMAGE_ENDINGS)
    if not paths:
        raise DataError(
            f"no image in {folder}; expected files that end in {', '.join(IMAGE_ENDINGS)}"
        )
    dataset = ImageFiles(
        folder=str(folder),
        paths=paths,
        labels=np.zeros(len(paths), np.int64),
        classes=("unknown",),
        ignored_files=ignored,
    )
    loader = ImageLoader(
        dataset,
        PRESETS[preset],
        LoaderSection(workers=workers),
        seed=0,
        report_damaged=_never,
        report_noticed=report_noticed,
    )
    return dataset, loader


def _never(damaged: DamagedImage) -> None:
    raise AssertionError(f"{damaged.description} was skipped, and damaged images are errors here")

"""The commands under ``runner offline``."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from runner.cli.stdout import Diverted
from runner.errors import UsageError
from runner.terminal import display, streams

if TYPE_CHECKING:
    from runner.artifacts.offline.pixels import HostPart

app = typer.Typer(
    help="Exchange files with programs that run models on other machines.",
    no_args_is_help=True,
)

TrustOption = Annotated[
    bool, typer.Option("--trust", help="Let an artifact run code of its own, with your rights.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON to standard output.")]
SetOption = Annotated[
    Optional[list[str]],  # noqa: UP045  typer evaluates this on Python 3.10
    typer.Option("--set", metavar="KEY=VALUE", help="Change a value, such as dataset.root."),
]
RecipeOption = Annotated[
    str, typer.Option(help="The recipe with the dataset, for an artifact outside a run.")
]
SourceArgument = Annotated[
    str, typer.Argument(metavar="SOURCE", help="An exported artifact, or a recipe.")
]


class Dtype(str, Enum):
    """Type of the logits in the files."""

    float16 = "float16"
    float32 = "float32"


class Preset(str, Enum):
    """Steps for a folder of images without a recipe."""

    resnet = "resnet"
    inceptionv3 = "inceptionv3"
    inceptionv4 = "inceptionv4"


class Layout(str, Enum):
    """How validation images lie in folders."""

    flat = "flat"
    class_folders = "class_folders"


@app.command(cls=Diverted)
def run(
    artifact: Annotated[Path, typer.Argument(help="A folder that `runner export` wrote.")],
    output: Annotated[Path, typer.Option(help="Folder to write to; it must be empty.")],
    recipe: RecipeOption = "",
    dtype: Annotated[Dtype, typer.Option(help="Type of the logits.")] = Dtype.float16,
    batch_size: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="Images in one call; 1, or what the model is fixed to."),
    ] = None,
    set_: SetOption = None,
    trust: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Predict the validation split, write raw logits, labels and the time, and score them."""
    from dataclasses import asdict

    from runner.artifacts.offline import commands
    from runner.cli.console import Console

    result, timing = commands.predict(
        artifact,
        set_ or [],
        recipe_name=recipe or None,
        output=output,
        dtype=dtype.value,
        batch_size=batch_size,
        listener=Console(),
        trusted=trust,
    )
    if as_json:
        streams.deliver_json({**result.as_data(), **asdict(timing)})
    else:
        streams.show(f"{result.line()}\n{timing.line()}")


@app.command(cls=Diverted)
def pixels(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="An exported artifact, a recipe, or, with --preset, a folder."
        ),
    ],
    output: Annotated[Path, typer.Option(help="Folder to make.")],
    device_crop: Annotated[
        bool, typer.Option("--device-crop", help="Leave a recipe's last center_crop to the device.")
    ] = False,
    preset: Annotated[
        Optional[Preset],  # noqa: UP045
        typer.Option(help="Steps for a folder of images that no recipe describes."),
    ] = None,
    workers: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="Threads, with --preset; else loader.workers says."),
    ] = None,
    recipe: RecipeOption = "",
    set_: SetOption = None,
) -> None:
    """Write the pixels of every validation image to <image>.bin: uint8, RGB, [H, W, C]."""
    from runner.artifacts.offline import commands
    from runner.cli.console import Console

    if preset:
        if recipe or set_ or device_crop:
            raise UsageError(
                "--preset is all that is done: --recipe, --set and --device-crop are"
                " for artifacts and recipes"
            )
        part, count = commands.write_pixels_of_folder(
            Path(source),
            preset.value,
            output=output,
            workers=workers or _cpus(),
            listener=Console(),
        )
    else:
        if workers:
            raise UsageError("--workers is for --preset; say --set loader.workers=... here")
        part, count = commands.write_pixels(
            source,
            set_ or [],
            recipe_name=recipe or None,
            output=output,
            device_crop=device_crop,
            listener=Console(),
        )
    streams.show(f"{display.counted(count, 'file')} in {output}, {_description(part)}")


def _cpus() -> int:
    from runner.framework.cores import available_cores

    return available_cores()


def _description(part: HostPart) -> str:
    size = f"each uint8 [{part.height}, {part.width}, 3]"
    if part.crop is None:
        return f"{size}: the device only normalises"
    crop = part.crop
    return (
        f"{size}: the device cuts {crop.width} x {crop.height} pixels at left {crop.left}, top "
        f"{crop.top}, and normalises"
    )


@app.command(cls=Diverted)
def labels(
    source: SourceArgument,
    output: Annotated[
        Path, typer.Option(help="Such as val_label.txt (lines) or imagenet_label.json.")
    ],
    recipe: RecipeOption = "",
    set_: SetOption = None,
) -> None:
    """Write the label of every validation image, as lines or as one JSON object."""
    from runner.artifacts.offline import commands

    count = commands.write_labels(source, set_ or [], recipe_name=recipe or None, output=output)
    streams.show(f"{display.counted(count, 'label')} in {output}")


@app.command(cls=Diverted)
def layout(
    recipe: Annotated[str, typer.Argument(help="A recipe, which names the dataset.")],
    to: Annotated[Layout, typer.Option(help="The layout to make.")],
    output: Annotated[Path, typer.Option(help="The dataset's new root; it must be empty.")],
    set_: SetOption = None,
) -> None:
    """Lay the validation images out anew, as links: flat with val_label.txt, or by class."""
    from runner.artifacts.offline import commands

    count = commands.lay_out(recipe, set_ or [], output=output, flat=to is Layout.flat)
    streams.show(f"{display.counted(count, 'link')} in {output / 'val'}")


@app.command(cls=Diverted)
def info(
    folder: Annotated[Path, typer.Argument(help="Folder of images, or of .bin files of pixels.")],
    output: Annotated[Path, typer.Option(help="File to write.")],
    size: Annotated[
        Optional[tuple[int, int]],  # noqa: UP045
        typer.Option(metavar="WIDTH HEIGHT", help="Of the pixels in .bin files."),
    ] = None,
) -> None:
    """List the files of a folder: position, path, width and height."""
    from runner.artifacts.offline import labels

    count = labels.write_info(folder, output, size)
    streams.show(f"{display.counted(count, 'file')} in {output}")


@app.command(cls=Diverted)
def score(
    folder: Annotated[
        Path, typer.Argument(help="Folder of results; acc.log and result.json are written there.")
    ],
    results: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder of the logits; FOLDER/result_Files when left out."),
    ] = None,
    labels: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Labels, .txt or .json; FOLDER/imagenet_label.json when left out."),
    ] = None,
    dtype: Annotated[
        Optional[Dtype],  # noqa: UP045
        typer.Option(help="Type of the logits in .bin files; float16 when left out."),
    ] = None,
    classes: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="Logits in a file; found out if left out."),
    ] = None,
    output: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=0, help="The model's output to score, if it has several."),
    ] = None,
    label_offset: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=0, help="Added to labels; 1 for 1001 logits, else 0, if left out."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Score files of logits, from `runner offline run` or from a program on another machine."""
    from runner.artifacts.offline.score import score_folder

    result = score_folder(
        folder,
        results=results,
        labels=labels,
        dtype=dtype.value if dtype else None,
        classes=classes,
        output=output,
        label_offset=label_offset,
    )
    if as_json:
        streams.deliver_json(result.as_data())
        return
    streams.show(result.line())
    if result.label_offset:
        streams.show(f"{result.label_offset} was added to every label: {result.classes} logits")

"""The commands ``runner offline run`` and ``runner offline score``."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path  # noqa: TC003  typer evaluates the annotations
from typing import Annotated, Optional

import typer

app = typer.Typer(
    help="Write a model's logits for every image to files, and score such files.",
    no_args_is_help=True,
)

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON to standard output.")]


class Dtype(str, Enum):
    """Type of the logits in the files."""

    float16 = "float16"
    float32 = "float32"


DtypeOption = Annotated[Dtype, typer.Option(help="Type of the logits in the files.")]


@app.command()
def run(
    artifact: Annotated[Path, typer.Argument(help="A folder that `runner export` wrote.")],
    output: Annotated[Path, typer.Option(help="Folder to write to; it must be empty.")],
    recipe: Annotated[
        str, typer.Option(help="The recipe with the dataset, for an artifact outside a run.")
    ] = "",
    dtype: DtypeOption = Dtype.float16,
    batch_size: Annotated[int, typer.Option(min=1, help="Images in one call.")] = 1,
    set_: Annotated[
        Optional[list[str]],  # noqa: UP045  typer evaluates this on Python 3.10
        typer.Option("--set", metavar="KEY=VALUE", help="Change a value, such as dataset.root."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Predict the validation split, write raw logits, labels and the time, and score them."""
    from dataclasses import asdict

    from runner import commands
    from runner.console import Console
    from runner.offline_score import accuracy_line

    result, timing = commands.predict_offline(
        artifact,
        set_ or [],
        recipe_name=recipe or None,
        output=output,
        dtype=dtype.value,
        batch_size=batch_size,
        listener=Console(),
    )
    if as_json:
        record = {"metrics": result.as_metrics(), **asdict(timing)}
        typer.echo(json.dumps(record, indent=2))
    else:
        typer.echo(f"{accuracy_line(result)}\n{timing.line()}")


@app.command()
def score(
    folder: Annotated[Path, typer.Argument(help="Folder of results; acc.log is written there.")],
    results: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder of the logits; FOLDER/result_Files when left out."),
    ] = None,
    labels: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="The labels; FOLDER/imagenet_label.json when left out."),
    ] = None,
    dtype: DtypeOption = Dtype.float16,
    classes: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="Logits in a file; one more than the largest label if left out."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Score files of logits, from `runner offline run` or from a program on another machine."""
    from runner.offline_score import accuracy_line, score_folder

    result = score_folder(
        folder, results=results, labels=labels, dtype=dtype.value, classes=classes
    )
    typer.echo(json.dumps(result.as_metrics(), indent=2) if as_json else accuracy_line(result))

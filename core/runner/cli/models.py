"""The commands that work with a model: evaluate, predict, export, verify, measure."""

from __future__ import annotations

from enum import Enum
from pathlib import Path  # noqa: TC003  typer evaluates the annotations
from typing import Annotated, Optional

import typer

from runner.cli.options import (
    DeviceOption,
    DevicesOption,
    FrameworkOption,
    JsonOption,
    PrecisionOption,
    SetOption,
    SmokeOption,
    TrustOption,
    WeightsOption,
    overrides,
)
from runner.errors import DataError, UsageError
from runner.terminal import display, streams


class Format(str, Enum):
    """How ``runner predict`` prints."""

    table = "table"
    csv = "csv"
    json = "json"


def evaluate(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL",
            help="A run, a checkpoint, an artifact, a weights file, or a folder of such files.",
        ),
    ],
    recipe: Annotated[str, typer.Option(help="The recipe, for weights that carry none.")] = "",
    set_: SetOption = None,
    framework: FrameworkOption = "",
    device: DeviceOption = "",
    trust: TrustOption = False,
    weights: WeightsOption = "",
    as_json: JsonOption = False,
) -> None:
    """Evaluate a model over the whole validation split."""
    from dataclasses import asdict

    from runner import api
    from runner.cli.console import Console
    from runner.cli.summary import evaluation_line

    results = []
    found = api.evaluate_all(
        path,
        overrides(set_, framework=framework, device=device),
        recipe=recipe or None,
        listeners=Console(),
        trusted=trust,
        weights=weights or None,
    )
    for item in found:
        result = {**asdict(item), "path": str(item.path)}
        results.append(result)
        if not as_json:
            streams.deliver_text(evaluation_line(result))
    if as_json:
        streams.deliver_json(results)


def predict(
    model: Annotated[Path, typer.Argument(help="A checkpoint, a run or an artifact.")],
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of images.")],
    top: Annotated[int, typer.Option(min=1, help="Classes to print for each image.")] = 1,
    format_: Annotated[
        Optional[Format],  # noqa: UP045
        typer.Option(
            "--format", help="How to print; by the ending of --output, or a table, when left out."
        ),
    ] = None,
    output: Annotated[Optional[Path], typer.Option(help="Write to a file.")] = None,  # noqa: UP045
    batch_size: Annotated[int, typer.Option(min=1, help="Images in one pass.")] = 32,
    set_: SetOption = None,
    framework: FrameworkOption = "",
    device: DeviceOption = "",
    trust: TrustOption = False,
    weights: WeightsOption = "",
    as_json: JsonOption = False,
) -> None:
    """Predict the classes of image files."""
    from runner import api
    from runner.artifacts import predict as prediction
    from runner.cli.console import Console

    chosen = _format(format_, output, as_json=as_json)
    writers = {
        Format.table: prediction.as_table,
        Format.csv: prediction.as_csv,
        Format.json: prediction.as_json,
    }
    found = api.predict(
        model,
        images,
        overrides(set_, framework=framework, device=device),
        top=top,
        batch_size=batch_size,
        trusted=trust,
        listeners=Console(),
        weights=weights or None,
    )
    text = writers[chosen](found)
    if output:
        from runner.storage.files import write_output

        write_output(output, text)
    else:
        streams.deliver(text if chosen is Format.json else display.block(text))
    failed = [item for item in found if item.error]
    if failed:
        raise DataError(f"{len(failed)} of {len(found)} images could not be read, see the output")


def _format(named: Format | None, output: Path | None, *, as_json: bool) -> Format:
    """Return the format that was asked for by name, else the one that the output's ending says."""
    if as_json and named not in (None, Format.json):
        raise UsageError(f"--json and --format {named.value} are two formats; leave one out")
    if as_json:
        return Format.json
    by_ending = {".csv": Format.csv, ".json": Format.json}
    return named or by_ending.get(output.suffix.lower() if output else "", Format.table)


def export(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint, or a run (its best one).")],
    format_: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--format", help="An exporter; those of the recipe when left out."),
    ] = None,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder for the artifacts; the run's exports when left out."),
    ] = None,
    set_: SetOption = None,
    framework: FrameworkOption = "",
    device: DeviceOption = "",
    weights: WeightsOption = "",
    as_json: JsonOption = False,
) -> None:
    """Export a trained model, verify it and evaluate it."""
    from runner import api
    from runner.artifacts.export import check_all
    from runner.cli.console import Console

    made = api.export(
        checkpoint,
        overrides(set_, framework=framework, device=device),
        formats=format_ or [],
        output=output,
        listeners=Console(),
        weights=weights or None,
        check=False,
    )
    records = [item.record for item in made]
    if as_json:
        streams.deliver_json(records)
    check_all(records)


def verify(
    artifact: Annotated[Path, typer.Argument(help="A folder that `runner export` wrote.")],
    tolerance: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            min=0,
            help="Largest difference of logits that still agrees, relative to the largest one.",
        ),
    ] = None,
    trust: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compare an exported model with the live model's stored answers."""
    from dataclasses import asdict

    from runner import api
    from runner.artifacts.verification import check
    from runner.cli.console import Console

    result = api.verify(
        artifact, tolerance=tolerance, trusted=trust, listeners=Console(), check=not as_json
    )
    if as_json:
        streams.deliver_json({"passed": result.passed, **asdict(result)})
        check(artifact, result)
    else:
        streams.show(
            f"{display.line(artifact)}: agrees with the live model on {result.images} stored "
            f"images; same pixels, largest difference {result.max_difference:.1e} "
            f"(allowed {result.tolerance:g}), same class for {result.same_top1}"
        )


def relabel(
    model: Annotated[Path, typer.Argument(help="A run, a checkpoint or an artifact.")],
    names: Annotated[
        Path, typer.Argument(help="A file with one class name per line, in label order.")
    ],
) -> None:
    """Give the classes of a trained model other names."""
    from runner.artifacts.relabel import relabel as give_names

    for record in give_names(model, names):
        streams.show(f"{display.line(record)}: classes renamed")


def bench(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE|MODEL", help="A recipe, or an artifact, a checkpoint or a run."
        ),
    ],
    steps: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="Steps in each of the 5 windows, 10; of a model calls, 100."),
    ] = None,
    warmup: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="Steps before the first that counts; 5, of a model 200."),
    ] = None,
    batch_size: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="Of a model; 1, or what an artifact is fixed to."),
    ] = None,
    set_: SetOption = None,
    framework: FrameworkOption = "",
    device: DeviceOption = "",
    devices: DevicesOption = "",
    precision: PrecisionOption = "",
    smoke: SmokeOption = False,
    trust: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure images per second: a recipe's loader, training and inference, or a trained model."""
    from runner import api
    from runner.benchmark import model as bench_model
    from runner.benchmark import recipe as bench_recipe
    from runner.cli.console import Console

    changes = overrides(
        set_,
        framework=framework,
        device=device,
        devices=devices,
        precision=precision,
        smoke=smoke,
    )
    found = api.bench(
        recipe,
        changes,
        batch_size=batch_size,
        steps=steps,
        warmup=warmup,
        smoke=smoke,
        listeners=Console(),
        trusted=trust,
    )
    if as_json:
        streams.deliver_json(found.figures)
    else:
        as_table = bench_recipe.as_table if "recipe" in found.figures else bench_model.as_table
        streams.deliver_text(as_table(found.figures))

"""The command line: parses arguments and prints; ``runner.commands`` does the work.

Only typer is imported at start-up; what a command needs is imported inside it, so that
``runner --help`` and ``runner list-plugins`` answer at once.
"""

from __future__ import annotations

import json
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from runner.errors import DataError, MissingDeviceError, RunnerError, UsageError
from runner.offline import cli as offline

app = typer.Typer(
    help="Run image-classification recipes on any framework and any accelerator.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

app.add_typer(offline.app, name="offline")

RecipeArgument = Annotated[str, typer.Argument(help="A recipe file, or the name of a recipe.")]
SetOption = Annotated[
    Optional[list[str]],  # noqa: UP045  typer evaluates this on Python 3.10
    typer.Option("--set", metavar="KEY=VALUE", help="Change a value, such as train.epochs=3."),
]
FrameworkOption = Annotated[str, typer.Option(help="Use another framework entry.")]
DeviceOption = Annotated[str, typer.Option(help="Use another device entry, such as cpu.")]
DevicesOption = Annotated[int, typer.Option(help="Number of devices; 0 keeps the recipe's.")]
PrecisionOption = Annotated[str, typer.Option(help="fp32, bf16 or fp16.")]
SmokeOption = Annotated[
    bool, typer.Option("--smoke", help="A few steps on synthetic images, on one device.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON to standard output.")]
RunsDirOption = Annotated[Path, typer.Option(help="Where run folders are made.")]
RUNS = Path("runs")


class Kind(str, Enum):
    """What ``runner list`` can list."""

    frameworks = "frameworks"
    devices = "devices"
    datasets = "datasets"
    models = "models"
    optimizers = "optimizers"
    exporters = "exporters"
    predictors = "predictors"
    loggers = "loggers"
    importers = "importers"
    recipes = "recipes"


class Format(str, Enum):
    """How ``runner predict`` prints."""

    table = "table"
    csv = "csv"
    json = "json"


@app.command()
def run(
    recipe: RecipeArgument,
    set_: SetOption = None,
    framework: FrameworkOption = "",
    device: DeviceOption = "",
    devices: DevicesOption = 0,
    precision: PrecisionOption = "",
    smoke: SmokeOption = False,
    runs_dir: RunsDirOption = RUNS,
    as_json: JsonOption = False,
) -> None:
    """Do what a recipe says: train, evaluate, export and verify."""
    overrides = _overrides(set_, framework, device, devices, precision)
    _carry_out(recipe, overrides, smoke=smoke, runs_dir=runs_dir, as_json=as_json, export=True)


@app.command()
def train(
    recipe: RecipeArgument,
    set_: SetOption = None,
    framework: FrameworkOption = "",
    device: DeviceOption = "",
    devices: DevicesOption = 0,
    precision: PrecisionOption = "",
    smoke: SmokeOption = False,
    runs_dir: RunsDirOption = RUNS,
    as_json: JsonOption = False,
) -> None:
    """Train and evaluate a recipe, without its exports."""
    overrides = _overrides(set_, framework, device, devices, precision)
    _carry_out(recipe, overrides, smoke=smoke, runs_dir=runs_dir, as_json=as_json, export=False)


@app.command()
def resume(
    run_folder: Annotated[Path, typer.Argument(help="A run, or one of its checkpoints.")],
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Continue an interrupted run at its exact sample."""
    from runner.signals import Signals

    with Signals() as signals:  # before anything below starts threads
        from runner import commands
        from runner.console import Console
        from runner.run import Request

        request = Request(command=sys.argv[1:], listener=Console(), signals=signals)
        result = commands.resume(run_folder, set_ or [], request)
    _print_run(result, as_json=as_json)


@app.command("eval")
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
    device: DeviceOption = "",
    as_json: JsonOption = False,
) -> None:
    """Evaluate a model over the whole validation split."""
    from runner import commands
    from runner.console import Console
    from runner.report import evaluation_line

    results = []
    overrides = _overrides(set_, "", device, 0, "")
    for result in commands.evaluate(
        path, overrides, recipe_name=recipe or None, listener=Console()
    ):
        results.append(result)
        if not as_json:
            print(evaluation_line(result))
    if as_json:
        print(json.dumps(results, indent=2))


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="A checkpoint, a run or an artifact.")],
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of images.")],
    top: Annotated[int, typer.Option(min=1, help="Classes to print for each image.")] = 1,
    format_: Annotated[Format, typer.Option("--format", help="How to print.")] = Format.table,
    output: Annotated[Optional[Path], typer.Option(help="Write to a file.")] = None,  # noqa: UP045
    batch_size: Annotated[int, typer.Option(min=1, help="Images in one pass.")] = 32,
    set_: SetOption = None,
    device: DeviceOption = "",
) -> None:
    """Predict the classes of image files."""
    from runner import commands
    from runner import predict as prediction

    writers = {
        Format.table: prediction.as_table,
        Format.csv: prediction.as_csv,
        Format.json: prediction.as_json,
    }
    found = commands.predict(
        model, images, _overrides(set_, "", device, 0, ""), top=top, batch_size=batch_size
    )
    text = writers[format_](found)
    if output:
        from runner.files import write_output

        write_output(output, text)
    else:
        sys.stdout.write(text)
    failed = [item for item in found if item.error]
    if failed:
        raise DataError(f"{len(failed)} of {len(found)} images could not be read, see the output")


@app.command()
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
    device: DeviceOption = "",
    as_json: JsonOption = False,
) -> None:
    """Export a trained model, verify it and evaluate it."""
    from runner import commands
    from runner.console import Console
    from runner.export import check_all

    records = commands.export_checkpoint(
        checkpoint,
        _overrides(set_, "", device, 0, ""),
        formats=format_ or [],
        output=output,
        listener=Console(),
    )
    if as_json:
        print(json.dumps(records, indent=2))
    check_all(records)


@app.command()
def verify(
    artifact: Annotated[Path, typer.Argument(help="A folder that `runner export` wrote.")],
    as_json: JsonOption = False,
) -> None:
    """Compare an exported model with the live model's stored answers."""
    from dataclasses import asdict

    from runner import commands
    from runner.verification import check

    read, result = commands.verify(artifact)
    if as_json:
        print(json.dumps({"passed": result.passed, **asdict(result)}, indent=2))
    check(read, result)
    if not as_json:
        print(
            f"{artifact}: agrees with the live model on {result.images} stored images; "
            f"same pixels, largest difference {result.max_difference:.1e} "
            f"(allowed {result.tolerance:g}), same class for {result.same_top1}"
        )


@app.command()
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
    devices: DevicesOption = 0,
    precision: PrecisionOption = "",
    smoke: SmokeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure images per second: a recipe's loader, training and inference, or a trained model."""
    from runner import bench as benchmark
    from runner import bench_model, commands
    from runner.console import Console
    from runner.events import EventLog

    overrides = _overrides(set_, framework, device, devices, precision)
    if bench_model.is_model(recipe):
        if smoke:
            raise UsageError("--smoke shortens a recipe: it has no effect on a trained model")
        result = bench_model.bench(
            Path(recipe),
            overrides,
            batch_size=batch_size,
            steps=steps or bench_model.STEPS,
            warmup=warmup or bench_model.WARMUP,
            listener=Console(),
        )
        print(json.dumps(result, indent=2) if as_json else bench_model.as_table(result))
        return
    if batch_size:
        raise UsageError(
            "--batch-size is for a trained model; of a recipe, set train.batch_size and "
            "eval.batch_size"
        )
    loaded = commands.load(recipe, overrides, shortened=smoke)
    result = benchmark.bench(
        loaded.plan,
        EventLog(Console()),
        steps=steps or benchmark.STEPS,
        warmup=warmup or benchmark.WARMUP,
    )
    print(json.dumps(result, indent=2) if as_json else benchmark.as_table(result))


@app.command()
def explain(
    recipe: RecipeArgument,
    set_: SetOption = None,
    framework: FrameworkOption = "",
    device: DeviceOption = "",
    devices: DevicesOption = 0,
    precision: PrecisionOption = "",
    smoke: SmokeOption = False,
    runs_dir: RunsDirOption = RUNS,
    as_json: JsonOption = False,
) -> None:
    """Show the whole plan of a recipe; no framework is imported."""
    from runner import commands
    from runner import explain as explanation

    overrides = _overrides(set_, framework, device, devices, precision)
    loaded = commands.load(recipe, overrides, shortened=smoke, allow_unset=True)
    command = ["run", *sys.argv[2:]]
    if as_json:
        command.remove("--json")
        data = explanation.as_data(loaded.plan, loaded.document, runs_dir=runs_dir, command=command)
        print(json.dumps(data, indent=2))
    else:
        print(explanation.as_text(loaded.plan, loaded.document, runs_dir=runs_dir, command=command))


@app.command("list-plugins")
def list_plugins(as_json: JsonOption = False) -> None:
    """List the plugins, their state, and what they register."""
    from runner import listing, plugins

    registry = plugins.load().registry
    if as_json:
        print(json.dumps(listing.plugins_data(registry), indent=2))
    else:
        print(listing.plugins_table(registry))


@app.command("list")
def list_(kind: Kind, as_json: JsonOption = False) -> None:
    """List the models, datasets, devices, ... that recipes can name, or the recipes."""
    from runner import listing, plugins

    registry = plugins.load().registry
    if kind is Kind.recipes:
        from runner.recipe import list_recipes

        found = list_recipes(registry)
        if as_json:
            data = [
                {"name": item.name, "path": str(item.path), "summary": item.summary}
                for item in found
            ]
            print(json.dumps(data, indent=2))
        else:
            for item in found:
                print(f"{item.name:<28} {item.summary}")
        return
    name = kind.value.removesuffix("s")
    if as_json:
        print(json.dumps(listing.entries_data(registry, name), indent=2))
    else:
        print(listing.entries_table(registry, name))


@app.command()
def doctor(runs_dir: RunsDirOption = RUNS, as_json: JsonOption = False) -> None:
    """Examine this machine: packages, plugins, devices, disk."""
    from dataclasses import asdict

    from runner import doctor as examination
    from runner import plugins

    findings = []
    for finding in examination.examine(plugins.load().registry, runs_dir):
        findings.append(finding)
        if not as_json:
            print(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.topic:<8} {finding.text}")
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


@app.command("import-args")
def import_args(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="COMMAND", help="The other program's command line, after -- or in quotes."
        ),
    ],
    importer: Annotated[str, typer.Option(help="Read it as this importer does.")] = "",
    output: Annotated[Optional[Path], typer.Option(help="Write the recipe to a file.")] = None,  # noqa: UP045
    as_json: JsonOption = False,
) -> None:
    """Translate a command line of a program that a recipe replaces."""
    from dataclasses import asdict

    from runner import import_args as importing

    imported = importing.carry_out(words, importer=importer, output=output)
    if as_json:
        print(json.dumps(asdict(imported), indent=2))
    else:
        print(importing.as_text(imported))


@app.command()
def schema() -> None:
    """Print the JSON schema of recipes, for editors."""
    from runner import plugins
    from runner.recipe import json_schema

    print(json.dumps(json_schema(plugins.load().registry), indent=2))


def _overrides(
    set_: list[str] | None, framework: str, device: str, devices: int, precision: str
) -> list[str]:
    """Turn the short options into overrides; ``--set`` comes last and wins."""
    short = {"framework": framework, "device": device, "precision": precision}
    overrides = [f"{key}={value}" for key, value in short.items() if value]
    if devices:
        overrides.append(f"device.count={devices}")
    return [*overrides, *(set_ or [])]


def _carry_out(
    recipe: str, overrides: list[str], *, smoke: bool, runs_dir: Path, as_json: bool, export: bool
) -> None:
    from runner.signals import Signals

    with Signals() as signals:  # before anything below starts threads
        from runner import commands
        from runner.console import Console
        from runner.run import Request

        loaded = commands.load(recipe, overrides, shortened=smoke)
        request = Request(command=sys.argv[1:], listener=Console(), export=export, signals=signals)
        result = commands.start(loaded, runs_dir, request)
    _print_run(result, as_json=as_json)


def _print_run(result: dict[str, Any] | None, *, as_json: bool) -> None:
    from runner.report import summary

    if result is not None:  # that of rank 0, when several processes work together
        print(json.dumps(result, indent=2) if as_json else summary(result))


def main() -> None:
    """Run the command line; expected errors end it with one message and their exit code."""
    try:
        app()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        raise SystemExit(130) from None
    except RunnerError as error:
        text = str(error)
        if isinstance(error, MissingDeviceError) and error.host_device:
            from runner.advice import on_host

            text += f"; to try it here: {on_host(sys.argv[1:], error.host_device)}"
        prefix = "error: " if error.rank is None else f"rank {error.rank}: error: "
        # a wrong recipe has one line for each problem
        sys.stderr.writelines(f"{prefix}{line}\n" for line in text.splitlines())
        raise SystemExit(error.exit_code) from None

"""The command line: parses arguments and prints; ``runner.commands`` does the work.

Only typer is imported at start-up; what a command needs is imported inside it, so that
``runner --help`` and ``runner list-plugins`` answer at once.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from runner import __version__
from runner.cli import launch, look, models, work
from runner.cli.look import Kind
from runner.errors import MissingDeviceError, RunnerError
from runner.launch import status
from runner.offline import cli as offline

__all__ = ["Kind", "app", "main"]

app = typer.Typer(
    help="Run image-classification recipes on any framework and any accelerator.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

app.command("run", help="Do what a recipe says: train, evaluate, export and verify.")(work.run)
app.command("train", help="Train and evaluate a recipe, without its exports.")(work.train)
app.command()(work.resume)
app.command("eval")(models.evaluate)
app.command()(models.predict)
app.command()(models.export)
app.command()(models.verify)
app.command()(models.bench)
app.command()(look.explain)
app.command()(launch.launch)
app.command("list-plugins")(look.list_plugins)
app.command("list")(look.list_)
app.command()(look.doctor)
app.command("import-args")(look.import_args)
app.command()(look.schema)
app.add_typer(offline.app, name="offline")


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"vision-runner {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; expected errors end it with one message and their exit code."""
    status.tell_begun()
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
        prefix = "error: "
        if error.rank is not None:
            # who has started this process says which error it was that ends the run
            word = "leaves" if status.is_watched() else "error"
            prefix = f"rank {error.rank}: {word}: "
        # a wrong recipe has one line for each problem
        sys.stderr.writelines(f"{prefix}{line}\n" for line in text.splitlines())
        raise SystemExit(error.exit_code) from None

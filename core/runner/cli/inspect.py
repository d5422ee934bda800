"""The commands that only look, and translate."""

from __future__ import annotations

import sys
from pathlib import Path  # noqa: TC003  typer evaluates the annotations
from typing import Annotated, Optional

import typer

from runner.cli.options import (
    RUNS,
    DeviceOption,
    DevicesOption,
    FrameworkOption,
    JsonOption,
    NnodesOption,
    NodeRankOption,
    PrecisionOption,
    RdzvOption,
    RecipeArgument,
    RunsDirOption,
    SetOption,
    SmokeOption,
    machines,
    overrides,
)
from runner.plugins import kinds
from runner.terminal import display, streams


def _listable() -> tuple[str, ...]:
    return (*(kind.plural for kind in kinds.KINDS), "recipes")


def _listed(name: str) -> str:
    if name not in _listable():
        choices = ", ".join(repr(choice) for choice in _listable())
        raise typer.BadParameter(f"{name!r} is not one of {choices}.")
    return name


KindArgument = Annotated[
    str, typer.Argument(help=f"One of {', '.join(_listable())}.", callback=_listed)
]


def explain(
    recipe: RecipeArgument,
    set_: SetOption = None,
    framework: FrameworkOption = "",
    device: DeviceOption = "",
    devices: DevicesOption = "",
    precision: PrecisionOption = "",
    smoke: SmokeOption = False,
    nnodes: NnodesOption = "",
    node_rank: NodeRankOption = None,
    rdzv: RdzvOption = "",
    runs_dir: RunsDirOption = RUNS,
    as_json: JsonOption = False,
) -> None:
    """Show the whole plan of a recipe; no framework is imported."""
    from runner import api

    rank = 0 if nnodes and node_rank is None else node_rank  # all of them are shown
    meeting = machines(nnodes, rank, rdzv, smoke=smoke)
    changes = overrides(
        set_,
        framework=framework,
        device=device,
        devices=devices,
        precision=precision,
        nodes=meeting.count,
        smoke=smoke,
    )
    plan = api.load_recipe(
        recipe,
        changes,
        folder=runs_dir,
        smoke=smoke,
        machines=meeting,
        command=[word for word in ["run", *sys.argv[2:]] if word != "--json"],
    )
    if as_json:
        streams.deliver_json(plan.data)
    else:
        streams.deliver_text(plan.text)


def list_plugins(as_json: JsonOption = False) -> None:
    """List the plugins, their state, and what they register."""
    from runner.cli import tables
    from runner.plugins import loading

    registry = loading.load()
    if as_json:
        streams.deliver_json(tables.plugins_data(registry))
    else:
        streams.deliver_text(tables.plugins_table(registry))


def list_(kind: KindArgument, as_json: JsonOption = False) -> None:
    """List the models, datasets, devices, ... that recipes can name, or the recipes."""
    from runner.cli import tables
    from runner.plugins import loading

    registry = loading.load()
    if kind == "recipes":
        from runner.recipe import list_recipes

        found = list_recipes(registry)
        if as_json:
            data = [
                {"name": item.name, "path": str(item.path), "summary": item.summary}
                for item in found
            ]
            streams.deliver_json(data)
        else:
            for item in found:
                streams.deliver_text(
                    f"{display.line(item.name):<28} {display.joined(item.summary)}"
                )
        return
    row = next(row for row in kinds.KINDS if row.plural == kind)
    if as_json:
        streams.deliver_json(tables.entries_data(registry, row))
    else:
        streams.deliver_text(tables.entries_table(registry, row))


def doctor(runs_dir: RunsDirOption = RUNS, as_json: JsonOption = False) -> None:
    """Examine this machine: packages, plugins, devices, disk."""
    from dataclasses import asdict

    from runner.cli import doctor as examination
    from runner.plugins import loading

    findings = []
    for finding in examination.examine(loading.load(), runs_dir):
        findings.append(finding)
        if not as_json:
            word = "ok  " if finding.ok else "FAIL"
            streams.deliver_text(display.line(f"{word}  {finding.topic:<8} {finding.text}"))
    if as_json:
        streams.deliver_json([asdict(finding) for finding in findings])
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


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

    from runner.migration import import_args as importing

    imported = importing.carry_out(words, importer=importer, output=output)
    if as_json:
        streams.deliver_json(asdict(imported))
    else:
        streams.deliver_text(importing.as_text(imported))


def schema() -> None:
    """Print the JSON schema of recipes, for editors."""
    from runner.plugins import loading
    from runner.recipe import json_schema

    streams.deliver_json(json_schema(loading.load()))

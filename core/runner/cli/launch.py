"""The command that writes down how several machines start a recipe."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  typer evaluates the annotations
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from runner.cli.options import (
    RUNS,
    DeviceOption,
    DevicesOption,
    FrameworkOption,
    NnodesOption,
    PrecisionOption,
    RdzvOption,
    RecipeArgument,
    RunsDirOption,
    SetOption,
    overrides,
)
from runner.errors import UsageError
from runner.terminal import streams

if TYPE_CHECKING:
    from runner.distributed.machines import Machines


def launch(
    recipe: RecipeArgument,
    set_: SetOption = None,
    framework: FrameworkOption = "",
    device: DeviceOption = "",
    devices: DevicesOption = "",
    precision: PrecisionOption = "",
    nnodes: NnodesOption = "1",
    rdzv: RdzvOption = "",
    runs_dir: RunsDirOption = RUNS,
    slurm: Annotated[
        bool, typer.Option("--slurm", help="Write a batch script for sbatch.")
    ] = False,
    sbatch: Annotated[
        Optional[list[str]],  # noqa: UP045  typer evaluates this on Python 3.10
        typer.Option(metavar="OPTION", help="An option of the job, such as --partition=gpu."),
    ] = None,
    output: Annotated[Optional[Path], typer.Option(help="Write to a file.")] = None,  # noqa: UP045
) -> None:
    """Print the commands that start a recipe on several machines, or a batch script for SLURM."""
    from runner.distributed.launching.shell import Start, commands_of_machines, machine_line
    from runner.planning.loading import load
    from runner.planning.plan import check_devices

    machines = _machines(nnodes, rdzv, slurm=slurm)
    if sbatch and not slurm:
        raise UsageError("--sbatch is for a batch script: add --slurm")
    changes = overrides(
        set_,
        framework=framework,
        device=device,
        devices=devices,
        precision=precision,
        nodes=machines.count,
    )
    plan = load(recipe, changes, allow_unset=True).plan
    given = [
        ("--framework", framework),
        ("--device", device),
        ("--devices", devices),
        ("--precision", precision),
        *(("--set", text) for text in set_ or []),
    ]
    arguments = ["run", recipe, *(word for item in given if item[1] for word in item)]
    check_devices(plan)
    commands_of_machines(plan, Start(command=arguments, runs_dir=runs_dir, machines=machines))
    if slurm:
        from runner.distributed.slurm.batch import Job, script

        text = script(
            Job(
                name=plan.name,
                arguments=arguments,
                nodes=machines.count,
                least=machines.least,
                devices=plan.recipe.device.count,
                cards=devices if "," in devices else "",
                runs_dir=runs_dir,
                options=sbatch or [],
            )
        )
    else:
        meeting = ["--nnodes", nnodes, "--rdzv", rdzv] if machines.several else []
        folder = ["--runs-dir", str(runs_dir)] if runs_dir != RUNS else []
        text = "".join(
            f"{machine_line([*arguments, *folder, *meeting], rank)}\n"
            for rank in (range(machines.count) if machines.several else [None])
        )
    if output:
        from runner.storage.files import write_output

        write_output(output, text)
    else:
        streams.deliver(text)


def _machines(nnodes: str, rdzv: str, *, slurm: bool) -> Machines:
    from runner.distributed.machine_options import from_options

    if slurm and rdzv:
        raise UsageError("--rdzv has no effect with --slurm: the nodes are not known yet")
    found = from_options(nnodes, 0, "node-0:20000" if slurm else rdzv, {})
    if rdzv and not found.several:
        raise UsageError("--rdzv has no effect on one machine: add --nnodes N, or leave it out")
    return found

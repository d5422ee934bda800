"""The commands that carry a recipe out."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path  # noqa: TC003  typer evaluates the annotations
from typing import TYPE_CHECKING, Annotated

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
from runner.terminal import streams

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from runner.results import Run


def _command(summary: str, *, export: bool) -> Callable[..., None]:
    """Return the command that does what a recipe says, with or without its exports."""

    def command(
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
        from runner.distributed.signals import Signals

        meeting = machines(nnodes, node_rank, rdzv, smoke=smoke)
        changes = overrides(
            set_,
            framework=framework,
            device=device,
            devices=devices,
            precision=precision,
            nodes=meeting.count,
            smoke=smoke,
        )
        with _saying("no run was begun"), Signals() as signals:  # before any threads are started
            from runner import api
            from runner.cli.console import Console

            found = api.run(
                recipe,
                changes,
                folder=runs_dir,
                listeners=Console(),
                export=export,
                smoke=smoke,
                signals=signals,
                machines=meeting,
                command=sys.argv[1:],
            )
        _print_run(found, as_json=as_json)

    command.__doc__ = summary
    return command


run = _command("Do what a recipe says: train, evaluate, export and verify.", export=True)
train = _command("Train and evaluate a recipe, without its exports.", export=False)


def resume(
    run_folder: Annotated[Path, typer.Argument(help="A run, or one of its checkpoints.")],
    set_: SetOption = None,
    devices: DevicesOption = "",
    nnodes: NnodesOption = "",
    node_rank: NodeRankOption = None,
    rdzv: RdzvOption = "",
    as_json: JsonOption = False,
) -> None:
    """Continue an interrupted run at its exact sample."""
    from runner.distributed.signals import Signals

    meeting = machines(nnodes, node_rank, rdzv)
    changes = overrides(set_, devices=devices, nodes=meeting.count)
    kept = f"nothing of the run was changed; continue with: runner resume {run_folder}"
    with _saying(kept), Signals() as signals:  # before anything below starts threads
        from runner import api
        from runner.cli.console import Console

        found = api.resume(
            run_folder,
            changes,
            listeners=Console(),
            signals=signals,
            machines=meeting,
            command=sys.argv[1:],
        )
    _print_run(found, as_json=as_json)


def launched(
    request: Annotated[Path, typer.Argument(help="The file that runner has written.")],
) -> None:
    """Work as one of the processes that runner starts for the devices of a run."""
    from runner.distributed.launching.task import Task
    from runner.distributed.signals import Signals

    task = Task.read(request)
    sys.argv[1:] = task.command  # what hints begin with
    kept = "no run was begun"
    if task.resumes:
        kept = f"nothing of the run was changed; continue with: runner resume {task.resumes}"
    with _saying(kept), Signals() as signals:  # before anything below starts threads
        from runner import api
        from runner.cli.console import Console

        api.take_part(task, listeners=Console(), signals=signals)


@contextmanager
def _saying(words: str) -> Iterator[None]:
    """Say what was done so far where Ctrl-C ends it before the run itself can say more."""
    try:
        yield
    except KeyboardInterrupt as error:
        error.args = error.args or (words,)
        raise


def _print_run(found: Run, *, as_json: bool) -> None:
    from runner.cli.summary import summary

    if found.leads:
        if as_json:
            streams.deliver_json(found.result)
        else:
            streams.show(summary(found.result))

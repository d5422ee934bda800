"""The commands that carry a recipe out."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path  # noqa: TC003  typer evaluates the annotations
from typing import TYPE_CHECKING, Annotated, Any

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
            from runner.cli.console import Console
            from runner.planning.loading import load
            from runner.training import dispatch
            from runner.training.run import Request

            loaded = load(recipe, changes, shortened=smoke)
            request = Request(
                command=sys.argv[1:],
                listener=Console(),
                export=export,
                signals=signals,
                machines=meeting,
            )
            result = dispatch.start(loaded, runs_dir, request)
        _print_run(result, as_json=as_json)

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
        from runner.cli.console import Console
        from runner.training import dispatch
        from runner.training.run import Request

        request = Request(
            command=sys.argv[1:], listener=Console(), signals=signals, machines=meeting
        )
        result = dispatch.resume(run_folder, changes, request)
    _print_run(result, as_json=as_json)


@contextmanager
def _saying(words: str) -> Iterator[None]:
    """Say what was done so far where Ctrl-C ends it before the run itself can say more."""
    try:
        yield
    except KeyboardInterrupt as error:
        error.args = error.args or (words,)
        raise


def _print_run(result: dict[str, Any] | None, *, as_json: bool) -> None:
    from runner.cli.summary import summary

    if result is not None:  # that of rank 0, when several processes work together
        if as_json:
            streams.deliver_json(result)
        else:
            streams.show(summary(result))

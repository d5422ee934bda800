"""Arguments that several commands have, and what they become."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from runner.errors import UsageError

if TYPE_CHECKING:
    from runner.distributed.machines import Machines

RecipeArgument = Annotated[str, typer.Argument(help="A recipe file, or the name of a recipe.")]
SetOption = Annotated[
    Optional[list[str]],  # noqa: UP045  typer evaluates this on Python 3.10
    typer.Option("--set", metavar="KEY=VALUE", help="Change a value, such as train.epochs=3."),
]
FrameworkOption = Annotated[str, typer.Option(help="Use another framework entry.")]
DeviceOption = Annotated[str, typer.Option(help="Use another device entry, such as cpu.")]
DevicesOption = Annotated[
    str,
    typer.Option(
        metavar="N|CARDS",
        help="Number of devices on all machines together (0: as in the recipe), or the cards of "
        "this machine by their numbers, such as 0,2,5 (one alone: 5,).",
    ),
]
PrecisionOption = Annotated[str, typer.Option(help="fp32, bf16 or fp16.")]
WeightsOption = Annotated[
    str,
    typer.Option(
        "--weights",
        metavar="ema|raw|KEY",
        help="Of several sets of tensors: the average, what was averaged, or a key or prefix of "
        "the file.",
    ),
]
SmokeOption = Annotated[
    bool, typer.Option("--smoke", help="A few steps on a few images, on one device.")
]
NnodesOption = Annotated[
    str,
    typer.Option(metavar="N|LEAST:N", help="Number of machines; 2:4 goes on with as few as 2."),
]
NodeRankOption = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(help="Number of this machine, from 0."),
]
RdzvOption = Annotated[
    str, typer.Option(metavar="HOST:PORT", help="Where machines meet: machine 0 and a free port.")
]
TrustOption = Annotated[
    bool,
    typer.Option(
        "--trust",
        help="Let an artifact run code of its own, with your rights: for one that you made, or "
        "whose maker you trust.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON to standard output.")]
RunsDirOption = Annotated[Path, typer.Option(help="Where run folders are made.")]
RUNS = Path("runs")


def overrides(
    set_: list[str] | None,
    *,
    framework: str = "",
    device: str = "",
    devices: str = "",
    precision: str = "",
    nodes: int = 1,
    smoke: bool = False,
) -> list[str]:
    """Turn the short options into overrides; ``--set`` comes last and wins.

    Args:
        set_: The ``--set`` options.
        framework: A framework entry.
        device: A device entry.
        devices: A number of devices, or a list of cards.
        precision: Format of the computation.
        nodes: Number of machines, each with the same cards.
        smoke: Whether the run is a smoke test, which one device carries out.

    Raises:
        UsageError: ``devices`` is neither a number nor a list, or more than one for a smoke test.
    """
    short = {"framework": framework, "device": device, "precision": precision}
    changed = [f"{key}={value}" for key, value in short.items() if value]
    return [*changed, *_devices(devices, nodes, smoke=smoke), *(set_ or [])]


def _devices(text: str, nodes: int, *, smoke: bool) -> list[str]:
    if text in {"", "0"}:
        return []
    if re.fullmatch(r"\d+", text):
        if smoke and int(text) > 1:
            raise UsageError(f"--smoke runs on one device: leave out --devices {text}")
        # the number stands for itself: a recipe's cards are those of another machine
        return [f"device.count={int(text)}", "device.cards=[]"]
    if not re.fullmatch(r"\d+(,\d+)*,?", text):
        raise UsageError(
            f"--devices {text}: expected a number of devices such as 8, or cards such as 0,2,5 "
            "(one alone: 5,)"
        )
    cards = [int(card) for card in text.rstrip(",").split(",")]
    if smoke and len(cards) > 1:
        raise UsageError(
            f"--smoke runs on one device: leave out --devices {text}, or name one card, such as "
            f"--devices {cards[0]},"
        )
    return [f"device.count={len(cards) * nodes}", f"device.cards={cards}"]


def machines(nnodes: str, node_rank: int | None, rdzv: str, *, smoke: bool = False) -> Machines:
    """Return the machines that the options name, or those that SLURM names.

    Raises:
        UsageError: The options do not fit together.
    """
    from runner.distributed.machine_options import from_options

    found = from_options(nnodes, node_rank, rdzv, os.environ)
    if smoke and found.several:
        raise UsageError("--smoke runs on one device: leave out --nnodes, --node-rank and --rdzv")
    return found

"""What the command lines of the vendor's programs and scripts have in common.

What an option leaves out has the program's own default, except where that changes no result:
loader workers and lines of the log are then the recipe's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, final

from runner.errors import UsageError
from runner.migration.command_line import environment_of, parse
from runner.terminal import display

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from runner.entries import Translation
    from runner.migration.command_line import CommandLine, Given, Option

DEVICES = {"npu": "npu", "gpu": "cuda"}
KEPT = (
    *("ASCEND_RT_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"),
    *("TASK_QUEUE_ENABLE", "HCCL_IF_IP", "HCCL_CONNECT_TIMEOUT", "HCCL_WHITELIST_DISABLE"),
    *("ASCEND_GLOBAL_LOG_LEVEL", "ASCEND_SLOG_PRINT_TO_STDOUT", "ASCEND_GLOBAL_EVENT_ENABLE"),
)
"""Environment variables that the vendor's software reads, whoever starts it."""
FP32: Mapping[str, Any] = {
    "precision.compute": "fp32",
    "precision.level": None,
    "precision.loss_scale": None,
}
KEEPS_FP32: Mapping[str, Any] = {
    **FP32,
    "device.precision_mode": "must_keep_origin_dtype",
    "device.internal_format": False,
}
"""What ``must_keep_origin_dtype`` stands for in the scripts."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """A shell script of ``test/``."""

    recipe: str
    options: tuple[Option, ...]
    overrides: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    command: str = "train"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Cards:
    """Where a program trains."""

    count: int
    nodes: int
    notes: tuple[str, ...] = ()


def with_environment(line: CommandLine, found: Translation) -> Translation:
    """Add the variables in front of a command line to its translation."""
    environment, notes = environment_of(line, kept=KEPT)
    return replace(
        found,
        environment={**found.environment, **environment},
        notes=(*found.notes, *notes),
    )


def cards_of(given: Given) -> Cards:
    """Return how many cards a program's options ask for."""
    if not given["multiprocessing_distributed"]:
        return Cards(count=1, nodes=1)
    nodes = max(given["world_size"], 1)
    count = len(given["device_list"].split(",")) * nodes
    return Cards(count=count, nodes=nodes, notes=launch_notes(nodes))


def launch_notes(nodes: int, rank: int | None = None, address: str = "") -> tuple[str, ...]:
    """Say how several machines are started."""
    if nodes == 1:
        return ()
    options = [
        *("--nnodes", str(nodes), "--node-rank", "RANK" if rank is None else str(rank)),
        *("--rdzv", f"{address or 'ADDRESS'}:29500"),
    ]
    return (
        f"{nodes} machines: on each, add `{display.command(options)}` to the command, with the "
        "number of the machine; the address is that of machine 0",
    )


def device(given: Given, cards: Cards) -> dict[str, Any]:
    """Return the overrides of ``device``."""
    data: dict[str, Any] = {"device.name": DEVICES[given["device"]], "device.count": cards.count}
    if cards.count == 1 and given["gpu"]:
        data["device.index"] = given["gpu"]
    return data


def written(given: Given, cards: Cards) -> dict[str, Any]:
    """Return what is taken over only where it is on the command line."""
    data: dict[str, Any] = {}
    if "workers" in given.written:
        data["loader.workers"] = math.ceil(given["workers"] * cards.nodes / cards.count)
    if "print_freq" in given.written:
        data["train.log_every_steps"] = given["print_freq"]
    if "seed" in given.written:
        data["seed"] = given["seed"]
    return data


def accumulated(batch: int, cards: int, target: int) -> dict[str, Any]:
    """Return the batch of a program that adds gradients up to ``target`` images on each card."""
    per_card = batch // cards
    times = max(1, target // per_card) if per_card else 1
    data: dict[str, Any] = {"train.batch_size": batch * times}
    if times > 1:
        data["train.micro_batch_size"] = per_card
    return data


def script_arguments(line: CommandLine, script: Script) -> Given:
    """Read the ``--key=value`` of a script.

    Raises:
        UsageError: One is unknown, or the dataset is missing.
    """
    given = parse(line.name, script.options, line.arguments, abbreviations=False)
    if not given["data_path"]:
        raise UsageError(f"{line.name}: --data_path is missing, such as --data_path=/data/imagenet")
    return given


def script_overrides(given: Given, script: Script) -> dict[str, Any]:
    """Return what the options that many scripts have stand for."""
    values = given.values
    data: dict[str, Any] = {**script.overrides, "dataset.root": given["data_path"]}
    if values.get("device_id"):
        data["device.index"] = values["device_id"]
    if values.get("batch_size"):
        data["train.batch_size"] = values["batch_size"]
    if values.get("precision_mode") == "must_keep_origin_dtype":
        data |= KEEPS_FP32
    return data


def is_of(line: CommandLine | None, scripts: Mapping[str, Script], other: Sequence[str]) -> bool:
    """Say whether a command line starts one of the scripts, and not in another program's folder."""
    if line is None or line.name not in scripts:
        return False
    return not any(word in line.script.lower() for word in other)

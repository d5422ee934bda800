"""Command lines of ResNet50_for_PyTorch of Ascend ModelZoo-PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runner.entries import Translation
from runner.errors import UsageError
from runner.migration.command_line import parse, split
from runner_ascend.importer_common import (
    KEEPS_FP32,
    Cards,
    Script,
    accumulated,
    cards_of,
    device,
    is_of,
    launch_notes,
    script_arguments,
    script_overrides,
    with_environment,
    written,
)
from runner_ascend.importer_options import (
    BATCH_SIZE,
    CHECKPOINT,
    CLUSTER,
    DATA_PATH,
    NODES,
    ONE_CARD_SCRIPT,
    PRECISION_MODE,
    RESNET50,
    RESNET50_ONE_CARD,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from runner.migration.command_line import CommandLine, Given

SEVERAL_CARDS, ONE_CARD = "main_apex_d76_npu.py", "pytorch_resnet50_apex.py"
_ONE = (*ONE_CARD_SCRIPT, BATCH_SIZE, PRECISION_MODE)
_EIGHT = (DATA_PATH, BATCH_SIZE, PRECISION_MODE)
_CLUSTER = (*_EIGHT, *CLUSTER)
_BINARY = {"device.jit_compile": False}
_GRAPH = ("graph mode is not taken over; operators run one by one",)
_NO_SMOOTHING = {"loss.label_smoothing": 0.0, "loss.smooth_over": None}
_NO_QUEUE = {"TASK_QUEUE_ENABLE": "0"}


def _cards(count: int, batch: int | None = None, rate: float | None = None) -> dict[str, Any]:
    data: dict[str, Any] = {"device.count": count}
    if batch:
        data["train.batch_size"] = batch
    if rate:
        data["optimizer.learning_rate"] = rate
    return data


_FULL, _PERF = "resnet50_npu", "resnet50_npu_perf"
_FULL_1, _PERF_1 = "resnet50_npu_1card", "resnet50_npu_1card_perf"
SCRIPTS: Mapping[str, Script] = {
    "train_full_1p.sh": Script(recipe=_FULL_1, options=_ONE),
    "train_full_4p.sh": Script(recipe=_FULL, options=_EIGHT, overrides=_cards(4, 2048)),
    "train_full_8p.sh": Script(recipe=_FULL, options=_EIGHT),
    "train_full_16p.sh": Script(recipe=_FULL, options=_CLUSTER, overrides=_cards(16)),
    "train_full_32p.sh": Script(recipe=_FULL, options=_CLUSTER, overrides=_cards(32, 16384, 4.9)),
    "train_performance_1p.sh": Script(recipe=_PERF_1, options=_ONE),
    "train_performance_4p.sh": Script(recipe=_PERF, options=_EIGHT, overrides=_cards(4, 2048)),
    "train_performance_8p.sh": Script(recipe=_PERF, options=_EIGHT),
    "train_performance_16p.sh": Script(recipe=_PERF, options=_CLUSTER, overrides=_cards(16)),
    "train_performance_32p.sh": Script(recipe=_PERF, options=_CLUSTER, overrides=_cards(32, 8192)),
    "train_performance_64p.sh": Script(recipe=_PERF, options=_CLUSTER, overrides=_cards(64, 16384)),
    "train_performance_multinodes.sh": Script(
        recipe="resnet50_npu_2nodes", options=(*_EIGHT, *NODES)
    ),
    "train_eval_1p.sh": Script(
        recipe="resnet50_npu_eval", options=(*_ONE, CHECKPOINT), command="run"
    ),
    "train_ID4050_ResNet50_RT2_full_1p.sh": Script(recipe=_FULL_1, options=_ONE, overrides=_BINARY),
    "train_ID4050_ResNet50_RT2_full_8p.sh": Script(recipe=_FULL, options=_EIGHT, overrides=_BINARY),
    "train_ID4050_ResNet50_RT2_performance_1p.sh": Script(
        recipe=_PERF_1, options=_ONE, overrides=_BINARY
    ),
    "train_ID4050_ResNet50_RT2_performance_8p.sh": Script(
        recipe=_PERF, options=_EIGHT, overrides={**_BINARY, "train.max_steps_per_epoch": 100}
    ),
    "train_ID4050_ResNet50_RT2_nobin_performance_1p.sh": Script(recipe=_PERF_1, options=_ONE),
    "train_ID4050_ResNet50_RT2_performance_1p_nd.sh": Script(
        recipe=_PERF_1, options=_ONE, overrides={**_BINARY, "device.internal_format": False}
    ),
    "train_ID3071_performance_1p.sh": Script(
        recipe=_PERF_1, options=_ONE, overrides=_NO_SMOOTHING, notes=_GRAPH
    ),
    **{
        f"train_ID3071_ResNet50_performance_{count}p.sh": Script(
            recipe=_PERF,
            options=_CLUSTER,
            overrides={**_cards(count, batch), **_NO_SMOOTHING},
            notes=_GRAPH,
        )
        for count, batch in ((8, None), (16, None), (32, 8192), (64, 16384))
    },
    "train_no_TQE_performance_1p.sh": Script(recipe=_PERF_1, options=_ONE, environment=_NO_QUEUE),
    "train_no_TQE_performance_8p.sh": Script(recipe=_PERF, options=_EIGHT, environment=_NO_QUEUE),
}
OTHERS = ("mobilenet",)


def recognises(words: Sequence[str]) -> bool:
    """Say whether a command line starts one of the programs or scripts."""
    line = split(words)
    if line is not None and line.name in (SEVERAL_CARDS, ONE_CARD):
        return True
    return is_of(line, SCRIPTS, OTHERS)


def translate(words: Sequence[str]) -> Translation:
    """Translate a command line.

    Raises:
        UsageError: It is unknown or incomplete.
    """
    line = split(words)
    if line is None or line.name not in (SEVERAL_CARDS, ONE_CARD, *SCRIPTS):
        known = ", ".join((SEVERAL_CARDS, ONE_CARD, *SCRIPTS))
        raise UsageError(f"expected one of {known}")
    return with_environment(line, _translate(line))


def _translate(line: CommandLine) -> Translation:
    if line.name == SEVERAL_CARDS:
        given = parse(SEVERAL_CARDS, RESNET50, line.arguments)
        return _program(given, cards_of(given), "resnet50_npu")
    if line.name == ONE_CARD:
        given = parse(ONE_CARD, RESNET50_ONE_CARD, line.arguments)
        return _program(given, Cards(count=1, nodes=1), "resnet50_npu_1card")
    return _script(line, SCRIPTS[line.name])


def _script(line: CommandLine, script: Script) -> Translation:
    given = script_arguments(line, script)
    overrides = script_overrides(given, script)
    notes = script.notes
    if script.command == "run":
        overrides["eval.batch_size"] = overrides.pop("train.batch_size", 512)
        if not given["checkpoint"]:
            raise UsageError(f"{line.name}: --checkpoint is missing, such as checkpoint.pth.tar")
        overrides["model.weights"] = given["checkpoint"]
    if "nnodes" in given.values:
        cards = len((given["device_list"] or "0,1,2,3,4,5,6,7").split(","))
        overrides["device.count"] = cards * given["nnodes"]
        overrides.setdefault("train.batch_size", 4096)
        rank, address = given["node_rank"], given["master_addr"]
        notes = (*notes, *launch_notes(given["nnodes"], rank, address))
    return Translation(
        command=script.command,
        recipe=script.recipe,
        overrides=overrides,
        environment=script.environment,
        notes=(*notes, *given.notes),
    )


def _program(given: Given, cards: Cards, recipe: str) -> Translation:
    if given["evaluate"]:
        return _evaluate(given)
    overrides = {
        **device(given, cards),
        "model.name": given["arch"],
        "dataset.root": given["data"],
        "optimizer.learning_rate": given["learning_rate"],
        "optimizer.momentum": given["momentum"],
        "optimizer.weight_decay": given["weight_decay"],
        "train.epochs": given["epochs"],
        "checkpoint.every_epochs": given["checkpoint_freq"],
        **accumulated(given["batch_size"], cards.count, _accumulates_to(given)),
        **_schedule(given),
        **_loss(given, smooth_over="others" if recipe == "resnet50_npu" else "all"),
        **_device_options(given),
        **written(given, cards),
        **_further(given),
    }
    if given["resume"]:
        overrides["model.weights"] = given["resume"]
    return Translation(
        command="train", recipe=recipe, overrides=overrides, notes=(*cards.notes, *given.notes)
    )


def _accumulates_to(given: Given) -> int:
    if given.values.get("optimizer_batch_size", -1) > 0:
        return int(given["optimizer_batch_size"])
    return 2048 if given["benchmark"] == 1 else 0


def _schedule(given: Given) -> dict[str, Any]:
    names = {"cosine": "cosine", "step": "multistep", "linear": "linear"}
    warms_up = given["warmup"] > 0
    return {
        "schedule.name": names[given["lr_schedule"]],
        "schedule.update": "epoch",
        "schedule.warmup_epochs": given["warmup"],
        "schedule.warmup_update": "epoch" if warms_up else None,
        **({"schedule.milestones": [30, 60, 80]} if given["lr_schedule"] == "step" else {}),
    }


def _loss(given: Given, *, smooth_over: str) -> dict[str, Any]:
    smoothing = given["label_smoothing"]
    return {
        "loss.label_smoothing": smoothing,
        "loss.smooth_over": smooth_over if smoothing else None,
    }


def _device_options(given: Given) -> dict[str, Any]:
    data: dict[str, Any] = {}
    if given["device"] == "npu":
        if given["bin_mode"]:
            data["device.jit_compile"] = False
        if given.values.get("ND", "False").lower() in {"true", "1"}:
            data["device.internal_format"] = False
        if given["precision_mode"] == "must_keep_origin_dtype":
            data |= KEEPS_FP32
    if given.values.get("npu"):
        data["device.index"] = given["npu"]
    return data


def _further(given: Given) -> dict[str, Any]:
    data: dict[str, Any] = {}
    if given["bn_weight_decay"]:
        data["optimizer.no_weight_decay"] = []
    if given["nesterov"]:
        data["optimizer.nesterov"] = True
    if given["num_classes"] != 1000:
        data["dataset.num_classes"] = given["num_classes"]
        data |= {"dataset.train_images": None, "dataset.val_images": None}
    return data


def _evaluate(given: Given) -> Translation:
    overrides = {
        **device(given, Cards(count=1, nodes=1)),
        **_device_options(given),
        "model.name": given["arch"],
        "dataset.root": given["data"],
        "eval.batch_size": given["batch_size"],
    }
    notes: tuple[str, ...] = ()
    if given["resume"]:
        overrides["model.weights"] = given["resume"]
    else:
        notes = ("--evaluate: without --resume name the weights: --set model.weights=FILE",)
    return Translation(
        command="run",
        recipe="resnet50_npu_eval",
        overrides=overrides,
        notes=(*notes, *given.notes),
    )

"""Command lines of MobileNetV2_for_PyTorch of Ascend ModelZoo-PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runner.entries import Translation
from runner.errors import UsageError
from runner.migration.command_line import parse, split
from runner_ascend.importer_common import (
    FP32,
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
    CLUSTER,
    DATA_PATH,
    LEARNING_RATE,
    MOBILENET_V2,
    NODES,
    ONE_CARD_SCRIPT,
    PRECISION_MODE,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from runner.migration.command_line import CommandLine, Given

PROGRAM = "mobilenetv2_8p_main_anycard.py"
_RATE = "--learning_rate: had no effect there: the script's own learning rate is passed on"
_ONE = (*ONE_CARD_SCRIPT, BATCH_SIZE, LEARNING_RATE, PRECISION_MODE)
_EIGHT = (DATA_PATH, BATCH_SIZE, LEARNING_RATE, PRECISION_MODE)
_CLUSTER = (*_EIGHT, *CLUSTER)
_BINARY = {"device.jit_compile": False}
_GRAPH = ("graph mode is not taken over; operators run one by one",)
_GUARD = {"train.epochs": 30}
_FULL, _PERF = "mobilenet_v2_npu", "mobilenet_v2_npu_perf"
_FULL_1, _PERF_1 = "mobilenet_v2_npu_1card", "mobilenet_v2_npu_1card_perf"
SCRIPTS: Mapping[str, Script] = {
    "train_full_1p.sh": Script(recipe=_FULL_1, options=_ONE),
    "train_full_8p.sh": Script(recipe=_FULL, options=_EIGHT),
    "train_performance_1p.sh": Script(recipe=_PERF_1, options=_ONE),
    "train_performance_8p.sh": Script(recipe=_PERF, options=_EIGHT),
    **{
        f"train_performance_{count}p.sh": Script(
            recipe=_PERF,
            options=_CLUSTER,
            overrides={"device.count": count, "train.batch_size": 512 * count},
        )
        for count in (16, 32, 64)
    },
    "train_performance_multinodes.sh": Script(
        recipe="mobilenet_v2_npu_2nodes", options=(*_EIGHT, *NODES)
    ),
    "train_performance_RT2_1p.sh": Script(recipe=_PERF_1, options=_ONE, overrides=_BINARY),
    "train_ID0098_MobileNetV2_RT1_full_1p.sh": Script(
        recipe=_FULL_1, options=_ONE, overrides=_GUARD
    ),
    "train_ID0098_MobileNetV2_RT1_performance_1p.sh": Script(recipe=_PERF_1, options=_ONE),
    "train_ID0098_MobileNetV2_RT2_full_1p.sh": Script(
        recipe=_FULL_1, options=_ONE, overrides={**_BINARY, **_GUARD}
    ),
    "train_ID0098_MobileNetV2_RT2_full_8p.sh": Script(
        recipe=_FULL, options=_EIGHT, overrides=_BINARY
    ),
    "train_ID0098_MobileNetV2_RT2_performance_1p.sh": Script(
        recipe=_PERF_1, options=_ONE, overrides=_BINARY
    ),
    "train_ID0098_MobileNetV2_RT2_performance_8p.sh": Script(
        recipe=_PERF, options=_EIGHT, overrides=_BINARY
    ),
    "train_ID3072_MobileNetV2_performance_1p.sh": Script(
        recipe=_PERF_1, options=_ONE, notes=_GRAPH
    ),
    "train_ID3072_MobileNetV2_performance_8p.sh": Script(
        recipe=_PERF, options=_EIGHT, notes=_GRAPH
    ),
}
OTHERS = ("resnet50",)


def recognises(words: Sequence[str]) -> bool:
    """Say whether a command line starts the program or one of the scripts."""
    line = split(words)
    return (line is not None and line.name == PROGRAM) or is_of(line, SCRIPTS, OTHERS)


def translate(words: Sequence[str]) -> Translation:
    """Translate a command line.

    Raises:
        UsageError: It is unknown or incomplete.
    """
    line = split(words)
    if line is None or line.name not in (PROGRAM, *SCRIPTS):
        raise UsageError(f"expected one of {', '.join((PROGRAM, *SCRIPTS))}")
    if line.name == PROGRAM:
        found = _program(parse(PROGRAM, MOBILENET_V2, line.arguments))
    else:
        found = _script(line, SCRIPTS[line.name])
    return with_environment(line, found)


def _script(line: CommandLine, script: Script) -> Translation:
    given = script_arguments(line, script)
    overrides = script_overrides(given, script)
    notes = script.notes
    if "nnodes" in given.values:
        nodes = given["nnodes"]
        cards = len((given["device_list"] or "0,1,2,3,4,5,6,7").split(","))
        overrides["device.count"] = cards * nodes
        # the images of one machine, which is what the program takes
        overrides["train.batch_size"] = (given["batch_size"] or 4096) * nodes
        if given["learning_rate"]:
            overrides["optimizer.learning_rate"] = given["learning_rate"]
        rank, address = given["node_rank"], given["master_addr"]
        notes = (*notes, *launch_notes(nodes, rank, address))
    elif given["learning_rate"]:
        notes = (*notes, _RATE)
    return Translation(
        command="train", recipe=script.recipe, overrides=overrides, notes=(*notes, *given.notes)
    )


def _program(given: Given) -> Translation:
    cards = cards_of(given)
    if given["evaluate"]:
        return _evaluate(given)
    overrides = {
        **device(given, cards),
        "dataset.root": given["data"],
        "optimizer.learning_rate": given["learning_rate"],
        "optimizer.momentum": given["momentum"],
        "optimizer.weight_decay": given["weight_decay"],
        "train.epochs": given["epochs"],
        "eval.every_epochs": given["eval_freq"],
        **accumulated(
            given["batch_size"] * cards.nodes, cards.count, 6144 if given["benchmark"] == 1 else 0
        ),
        **_precision(given),
        **written(given, cards),
    }
    if given["bin_mode"] and given["device"] == "npu":
        overrides["device.jit_compile"] = False
    if given["class_nums"] != 1000:
        overrides["dataset.num_classes"] = given["class_nums"]
        overrides |= {"dataset.train_images": None, "dataset.val_images": None}
    weights = given["resume"] or given["pretrain"]
    if weights:
        overrides["model.weights"] = weights
    return Translation(
        command="train",
        recipe="mobilenet_v2_npu" if cards.count > 1 else "mobilenet_v2_npu_1card",
        overrides=overrides,
        notes=(*cards.notes, *_precision_notes(given), *given.notes),
    )


def _precision(given: Given) -> dict[str, Any]:
    level = given["opt_level"]
    if not given["amp"] or level == "O0":
        return dict(FP32)
    return {
        "precision.compute": "fp16",
        "precision.level": None if level == "O1" else level,
        "precision.loss_scale": given["loss_scale"],
    }


def _precision_notes(given: Given) -> tuple[str, ...]:
    if given["amp"]:
        return ()
    return tuple(
        f"--{name.replace('_', '-')}: has no effect without --amp"
        for name in ("opt_level", "loss_scale")
        if name in given.written
    )


def _evaluate(given: Given) -> Translation:
    weights = given["resume"] or given["pretrain"]
    if not weights:
        raise UsageError(
            f"{PROGRAM}: --evaluate needs weights, such as --resume checkpoint.pth.tar"
        )
    overrides = {
        "device.name": {"npu": "npu", "gpu": "cuda"}[given["device"]],
        "device.count": 1,
        "dataset.root": given["data"],
        "eval.batch_size": given["batch_size"],
        **_precision(given),
    }
    return Translation(
        command="eval",
        recipe="mobilenet_v2_npu_1card",
        overrides=overrides,
        arguments=(weights,),
        notes=given.notes,
    )

"""Command lines of Cambricon pytorch_modelzoo, vision_classification: programs and scripts."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from runner.entries import Translation
from runner.errors import UsageError
from runner.migration.command_line import environment_of, split, starts
from runner_cambricon.importer_options import MODELS, VISIBLE
from runner_cambricon.importer_programs import (
    DEVICES,
    INFER_PROGRAM,
    NO_FILE,
    PRECISIONS,
    TRAIN_PROGRAM,
    infer,
    train,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from runner.migration.command_line import CommandLine

BENCHMARK = "test_benchmark.sh"
SCRIPT_NAMES = {
    "AlexNet": "alexnet",
    "GoogleNet": "googlenet",
    "MobileNetv2": "mobilenet_v2",
    "ResNet101": "resnet101",
    "ResNet18": "resnet18",
    "ResNet50": "resnet50",
    "ShuffleNetv2x05": "shufflenet_v2_x0_5",
    "ShuffleNetv2x10": "shufflenet_v2_x1_0",
    "ShuffleNetv2x15": "shufflenet_v2_x1_5",
    "VGG16": "vgg16",
    "VGG16_bn": "vgg16_bn",
    "VGG19": "vgg19",
}
"""Models as the one-click scripts name them."""
SCRIPT = re.compile(
    rf"(?:MLU370_)?({'|'.join(SCRIPT_NAMES)})"
    r"_(?:(AMP|FP32)_\d+E_\dMLUs_Train|(Infer|Infer_Perf|Train_Perf))\.sh"
)
BENCHMARK_KEY = re.compile(r"(\w+)-(fp32|O[0-3]|amp)-(mlu|gpu)(-ddp)?(-ci_train|-ci_eval)?")
MOST_IMAGES = {
    "resnet50": (256, 128),
    "resnet18": (664, 512),
    "vgg16": (128, 128),
    "vgg19": (64, 64),
    "vgg16_bn": (128, 128),
    "mobilenet_v2": (256, 128),
    "alexnet": (512, 256),
    "resnet101": (168, 128),
    "shufflenet_v2_x0_5": (1024, 1024),
    "shufflenet_v2_x1_0": (976, 512),
    "shufflenet_v2_x1_5": (512, 256),
    "googlenet": (256, 128),
}
"""Images of a pass in its benchmark, on an MLU370 and on a V100."""


IMAGES = "images are where IMAGENET says here, as IMAGENET_TRAIN_DATASET says there"


def recognises(words: Sequence[str]) -> bool:
    """Say whether a command line starts one of the programs or scripts."""
    programs = (TRAIN_PROGRAM, INFER_PROGRAM, BENCHMARK)
    return starts(words, lambda name: name in programs or bool(SCRIPT.fullmatch(name)))


def translate(words: Sequence[str]) -> Translation:
    """Translate a command line.

    Raises:
        UsageError: It is unknown or incomplete.
    """
    line = split(words)
    if line is None:
        raise UsageError(f"expected {TRAIN_PROGRAM}, {INFER_PROGRAM} or a one-click script")
    found = _translate(line)
    environment, notes = environment_of(line, kept=VISIBLE, used=("IMAGENET_TRAIN_DATASET",))
    images = () if {"dataset.root", "dataset.name"} & found.overrides.keys() else (IMAGES,)
    return replace(
        found,
        environment=environment,
        notes=(*found.notes, *notes),
        assumed=(*found.assumed, *images),
    )


def _translate(line: CommandLine) -> Translation:
    if line.name == TRAIN_PROGRAM:
        return train(line)
    if line.name == INFER_PROGRAM:
        return infer(line)
    if line.name == BENCHMARK:
        if len(line.arguments) != 1:
            raise UsageError(f"{BENCHMARK}: expected one key, such as resnet50-fp32-mlu-ddp")
        return _benchmark(line.arguments[0], line.environment)
    return _script(line)


def _script(line: CommandLine) -> Translation:
    found = SCRIPT.fullmatch(line.name)
    if found is None:
        models = ", ".join(SCRIPT_NAMES)
        raise UsageError(f"{line.name}: no one-click script of that name; its models: {models}")
    if line.arguments:
        raise UsageError(f"{line.name} takes no arguments, got {' '.join(line.arguments)}")
    name, precision, purpose = found.groups()
    model = SCRIPT_NAMES[name]
    if purpose == "Train_Perf":
        return _benchmark(f"{model}-fp32-mlu-ddp", line.environment)
    overrides = _dataset(line.environment)
    if purpose is None:
        overrides |= PRECISIONS[precision.lower()]
        return Translation(command="train", recipe=f"{model}_mlu", overrides=overrides)
    if purpose == "Infer":
        overrides["export"] = [{"name": "magicmind"}]
    return Translation(
        command="run" if purpose == "Infer" else "bench",
        recipe=f"{model}_mlu_infer",
        overrides=overrides,
        arguments=() if purpose == "Infer" else ("--warmup", "200", "--steps", "20"),
        notes=(NO_FILE.format(line.name),),
    )


def _dataset(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the override that follows from the variable of the scripts."""
    root = environment.get("IMAGENET_TRAIN_DATASET")
    return {"dataset.root": root} if root else {}


def _benchmark(key: str, environment: Mapping[str, str]) -> Translation:
    found = BENCHMARK_KEY.fullmatch(key)
    if found is None or found[1] not in MODELS:
        raise UsageError(
            f"{BENCHMARK}: {key} is no key; expected MODEL-(fp32|O0..O3|amp)-(mlu|gpu)[-ddp]"
            f"[-ci_train|-ci_eval] with a model of {', '.join(MODELS)}"
        )
    model, precision, device, ddp, check = found.groups()
    overrides = _dataset(environment)
    notes: tuple[str, ...] = ()
    if check == "-ci_eval":
        overrides["device.name"] = DEVICES[device]
        note = f"{key}: evaluates a stored checkpoint; add --set model.weights=FILE"
        return Translation(
            command="run",
            recipe=f"{model}_mlu_infer",
            overrides=overrides,
            notes=(*notes, note),
        )
    cards = len(environment.get("MLU_VISIBLE_DEVICES", "0,1,2,3").split(",")) if ddp else 1
    overrides |= {
        "device.name": DEVICES[device],
        "device.count": cards,
        "train.epochs": 1,
        "train.batch_size": cards * MOST_IMAGES[model][device == "gpu"],
        "train.max_steps_per_epoch": 2 if check else 60,
        **PRECISIONS[precision],
    }
    if check:
        notes = (*notes, f"{key}: starts from a stored checkpoint; add --set model.weights=FILE")
    return Translation(command="train", recipe=f"{model}_mlu", overrides=overrides, notes=notes)

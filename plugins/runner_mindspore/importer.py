"""Command lines of research/cv/resnext152_64x4d of MindSpore models: programs and scripts.

What an option leaves out has the program's own default, or that of its ``src/config.py``.
"""

from __future__ import annotations

import posixpath
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from runner.entries import Translation
from runner.errors import UsageError
from runner.migration.command_line import (
    TORCH_LAUNCHERS,
    environment_of,
    has_options_of,
    is_started_by,
    parse,
    split,
    starts,
)
from runner_mindspore.importer_options import EVAL, EXPORT, TRAIN

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from runner.migration.command_line import CommandLine, Given

DEVICES = {"Ascend": "ascend", "GPU": "gpu", "CPU": "cpu"}
POSITIONS: Mapping[str, tuple[str, ...]] = {
    "run_distribute_train.sh": ("RANK_TABLE_FILE", "DATA_PATH", "[PATH_CHECKPOINT]"),
    "run_standalone_train.sh": ("DEVICE_ID", "DATA_PATH", "[PATH_CHECKPOINT]"),
    "run_distribute_train_gpu.sh": ("DATA_PATH",),
    "run_standalone_train_gpu.sh": ("DATA_PATH",),
    "run_eval.sh": ("DEVICE_ID", "DATA_PATH", "PATH_CHECKPOINT", "[PLATFORM]"),
    "run_eval_gpu.sh": ("DATA_PATH", "PATH_CHECKPOINT"),
    "run_infer_310.sh": ("MINDIR_PATH", "DATA_PATH", "[DEVICE_ID]"),
}
"""Arguments of the scripts, in their order; those in brackets may be left out."""
KEPT = (
    *("ASCEND_RT_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"),
    *("HCCL_CONNECT_TIMEOUT", "HCCL_IF_IP", "GE_USE_STATIC_MEMORY", "DEPLOY_MODE"),
)
"""Environment variables that the vendor's software reads, whoever starts it."""
OPTIONS = {"train.py": TRAIN, "eval.py": EVAL, "export.py": EXPORT}
PROGRAMS = tuple(OPTIONS)
FOLDER = "resnext152_64x4d"
EVAL_RECIPE = "resnext152_ascend_eval"


def recognises(words: Sequence[str]) -> bool:
    """Say whether a command line starts one of the scripts, or one of the programs.

    Every second project has a ``train.py``: options of this one, or its folder, are the evidence.
    """
    line = split(words)
    if line is None or line.name not in PROGRAMS:
        return starts(words, tuple(POSITIONS))
    if is_started_by(line, TORCH_LAUNCHERS):
        return False
    return FOLDER in line.script or has_options_of(line, OPTIONS[line.name])


def translate(words: Sequence[str]) -> Translation:
    """Translate a command line.

    Raises:
        UsageError: It is unknown or incomplete.
    """
    line = split(words)
    if line is None or line.name not in (*PROGRAMS, *POSITIONS):
        raise UsageError(f"expected one of {', '.join((*PROGRAMS, *POSITIONS))}")
    environment, notes = environment_of(line, kept=KEPT, used=("RANK_SIZE", "DEVICE_NUM"))
    found = _program(line) if line.name in PROGRAMS else _script(line)
    return replace(found, environment=environment, notes=(*found.notes, *notes))


def _program(line: CommandLine) -> Translation:
    programs: Mapping[str, Callable[[CommandLine], Translation]] = {
        "train.py": _train,
        "eval.py": _eval,
        "export.py": _export,
    }
    return programs[line.name](line)


def _script(line: CommandLine) -> Translation:
    values = _positions(line)
    if line.name == "run_infer_310.sh":
        return _infer_310(values)
    if line.name.startswith("run_eval"):
        return _eval_script(line, values)
    return _train_script(line, values)


def _positions(line: CommandLine) -> Mapping[str, str]:
    names = POSITIONS[line.name]
    needed = [name for name in names if not name.startswith("[")]
    if not len(needed) <= len(line.arguments) <= len(names):
        raise UsageError(
            f"{line.name} takes {' '.join(names)}, got {' '.join(line.arguments) or 'nothing'}"
        )
    return {name.strip("[]"): value for name, value in zip(names, line.arguments, strict=False)}


def _split_folder(path: str, key: str) -> dict[str, Any]:
    """Return the folder above that of a split, and the split's own below it."""
    root, name = posixpath.split(path.rstrip("/"))
    return {"dataset.root": root or ("/" if path.startswith("/") else "."), f"dataset.{key}": name}


def _train_script(line: CommandLine, values: Mapping[str, str]) -> Translation:
    recipe = {
        "run_distribute_train.sh": "resnext152_ascend",
        "run_standalone_train.sh": "resnext152_ascend_1card",
        "run_distribute_train_gpu.sh": "resnext152_gpu",
        "run_standalone_train_gpu.sh": "resnext152_gpu_1card",
    }[line.name]
    overrides = _split_folder(values["DATA_PATH"], "train")
    if "PATH_CHECKPOINT" in values:
        overrides["model.weights"] = values["PATH_CHECKPOINT"]
    if "RANK_TABLE_FILE" in values:
        overrides |= {
            "framework.launcher": "rank_table",
            "framework.rank_table": values["RANK_TABLE_FILE"],
        }
    if "DEVICE_ID" in values:
        overrides["device.index"] = _number(values["DEVICE_ID"], line.name)
    note = f"{line.name}: evaluates nothing; here the folder val beside that of training is needed"
    return Translation(command="train", recipe=recipe, overrides=overrides, notes=(note,))


def _number(text: str, script: str) -> int:
    if not text.isdecimal():
        raise UsageError(f"{script}: DEVICE_ID is a number, got {text!r}")
    return int(text)


def _train(line: CommandLine) -> Translation:
    given = parse("train.py", TRAIN, line.arguments, ignores_unknown=True)
    if not given["data_dir"]:
        raise UsageError("train.py: --data_dir is missing, such as --data_dir=/data/imagenet/train")
    count, notes = _processes(given, line)
    gpu = given["platform"] == "GPU"
    overrides = {
        **_split_folder(given["data_dir"], "train"),
        "device.name": DEVICES[given["platform"]],
        "device.count": count,
        "optimizer.learning_rate": given["lr"],
        "train.batch_size": given["per_batch_size"] * count,
        "checkpoint.keep_best": given["save_best_ckpt"],
    }
    if given["pretrained"]:
        overrides["model.weights"] = given["pretrained"]
    eval_overrides, eval_notes = _evaluation(given)
    return Translation(
        command="train",
        recipe=f"resnext152_{'gpu' if gpu else 'ascend'}{'' if count > 1 else '_1card'}",
        overrides=overrides | eval_overrides,
        notes=(*notes, *eval_notes, *given.notes, *_unknown(given)),
        assumed=given.assumed("platform", "per_batch_size", "lr"),
    )


def _processes(given: Given, line: CommandLine) -> tuple[int, tuple[str, ...]]:
    """Return how many processes there are, as the launcher or the environment says."""
    if not given["is_distributed"]:
        return 1, ()
    words = list(line.launcher)
    for option in ("-n", "-np"):
        if option in words[:-1]:
            return _number(words[words.index(option) + 1], "mpirun"), ()
    size = line.environment.get("RANK_SIZE") or line.environment.get("DEVICE_NUM")
    if size:
        return _number(size, "RANK_SIZE"), ()
    note = (
        "--is_distributed: the number of cards comes from the launcher; 8 are assumed: put "
        "RANK_SIZE=4 in front to say otherwise"
    )
    return 8, (note,)


def _evaluation(given: Given) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return what follows from the options of evaluating while training."""
    if not given["run_eval"]:
        return {}, ("--run_eval: nothing is evaluated there; here it is after each epoch",)
    if not given["eval_data_dir"]:
        return {}, (
            "--eval_data_dir: is needed there unless --run_eval False; here the folder val beside "
            "that of training is evaluated after each epoch",
        )
    root = _split_folder(given["data_dir"], "train")["dataset.root"]
    overrides = {
        "dataset.val": posixpath.relpath(given["eval_data_dir"], root),
        "eval.batch_size": given["eval_per_batch_size"],
        "eval.every_epochs": given["eval_interval"],
        "eval.start_epoch": max(given["eval_start_epoch"] - 1, 0),
    }
    return overrides, ()


def _unknown(given: Given) -> tuple[str, ...]:
    words = " ".join(given.unknown)
    return (f"{words}: had no effect there: unknown options are passed over",) if words else ()


def _eval(line: CommandLine) -> Translation:
    given = parse("eval.py", EVAL, line.arguments, ignores_unknown=True)
    if not given["data_dir"] or not given["pretrained"]:
        raise UsageError(
            "eval.py: --data_dir and --pretrained are needed, such as "
            "--data_dir=/data/imagenet/val --pretrained=0-148_1251.ckpt"
        )
    return _evaluate(
        _split_folder(given["data_dir"], "val")
        | {"eval.batch_size": given["per_batch_size"]}
        | _platform(given["platform"]),
        given["pretrained"],
        (*_distributed_eval(given), *given.notes, *_unknown(given)),
    )


def _distributed_eval(given: Given) -> tuple[str, ...]:
    if not given["is_distributed"]:
        return ()
    return ("--is_distributed: one card evaluates; add --devices 8 for several",)


def _platform(platform: str) -> dict[str, Any]:
    """Return the device, and the precision that evaluation has on it."""
    if platform == "CPU":
        return {
            "device.name": "cpu",
            "precision.compute": "fp32",
            "precision.level": None,
            "precision.batch_norm": None,
        }
    return {"device.name": DEVICES[platform]}


def _evaluate(overrides: Mapping[str, Any], weights: str, notes: tuple[str, ...]) -> Translation:
    """Evaluate one file, or every checkpoint of a folder."""
    if weights.endswith(".ckpt"):
        return Translation(
            command="run",
            recipe=EVAL_RECIPE,
            overrides={**overrides, "model.weights": weights},
            notes=notes,
        )
    return Translation(
        command="eval",
        recipe=EVAL_RECIPE,
        overrides=overrides,
        arguments=(weights,),
        notes=notes,
    )


def _eval_script(line: CommandLine, values: Mapping[str, str]) -> Translation:
    platform = values.get("PLATFORM", "GPU" if line.name == "run_eval_gpu.sh" else "Ascend")
    if platform not in {"Ascend", "GPU"}:
        raise UsageError(f"{line.name}: PLATFORM is Ascend or GPU, got {platform!r}")
    overrides = _split_folder(values["DATA_PATH"], "val") | _platform(platform)
    if "DEVICE_ID" in values:
        overrides["device.index"] = _number(values["DEVICE_ID"], line.name)
    return _evaluate(overrides, values["PATH_CHECKPOINT"], ())


def _export(line: CommandLine) -> Translation:
    given = parse("export.py", EXPORT, line.arguments)
    if not given["ckpt_file"]:
        raise UsageError("export.py: --ckpt_file is missing, such as --ckpt_file=0-148_1251.ckpt")
    overrides = {
        **_platform(given["device_target"]),
        "model.weights": given["ckpt_file"],
        "export": [{"name": given["file_format"].lower(), "tolerance": 0.05}],
    }
    if given["device_id"] and given["device_target"] != "CPU":
        overrides["device.index"] = given["device_id"]
    if (given["width"], given["height"]) != (224, 224):
        height, width = given["height"], given["width"]
        overrides["transforms.eval"] = [{"name": "resize", "exact": [height, width]}]
    note = "export.py: the checkpoint is evaluated as well, on the images that IMAGENET names"
    return Translation(
        command="run",
        recipe=EVAL_RECIPE,
        overrides=overrides,
        notes=(note, *given.notes),
    )


def _infer_310(values: Mapping[str, str]) -> Translation:
    note = (
        "run_infer_310.sh: its program is C++ for an Ascend 310; here `runner offline run` writes "
        "the logits of an artifact that `runner export` wrote, which holds what MINDIR_PATH does, "
        "and `runner offline score` those of another program"
    )
    return Translation(
        command="run",
        recipe=EVAL_RECIPE,
        overrides={
            **_split_folder(values["DATA_PATH"], "val"),
            "eval.batch_size": 1,
            "export": [{"name": "mindir", "tolerance": 0.05}],
        },
        notes=(note, "MINDIR_PATH: add the checkpoint: --set model.weights=FILE.ckpt"),
    )

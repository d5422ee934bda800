"""Command lines of ``classify_train.py`` and ``classify_infer.py``.

What an option leaves out has the program's own default, except where that changes no result:
loader workers and lines of the log are then the recipe's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runner.entries import Translation
from runner.errors import UsageError
from runner.migration.command_line import parse
from runner_cambricon.importer_options import INFER, MODELS, TRAIN

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runner.migration.command_line import CommandLine, Given

TRAIN_PROGRAM, INFER_PROGRAM = "classify_train.py", "classify_infer.py"
DEVICES = {"cpu": "cpu", "gpu": "cuda", "mlu": "mlu"}
PRECISIONS: Mapping[str, Mapping[str, Any]] = {
    "fp32": {"precision.compute": "fp32", "precision.level": None, "precision.loss_scale": None},
    "amp": {"precision.compute": "fp16"},
    "O0": {"precision.compute": "fp32", "precision.level": None, "precision.loss_scale": None},
    "O1": {"precision.compute": "fp16"},
    "O2": {"precision.compute": "fp16", "precision.level": "O2"},
    "O3": {"precision.compute": "fp16", "precision.level": "O3"},
}
TRAIN_IMAGES = 1_281_167
NO_RECIPE = "-a, --network: {0} has no recipe of its own; that of resnet50 is taken for the rest"
NO_FILE = (
    "{0}: torchvision's weights are downloaded there; here they are a file: add "
    "--set model.weights=FILE"
)

COMPILED_BENCHMARK = (
    "--do_benchmark: times what PyTorch runs; a compiled or quantised model is exported first, and "
    "timed with `runner bench --trust` and the artifact's folder"
)


def recipe_of(model: str, suffix: str) -> tuple[str, dict[str, Any], tuple[str, ...]]:
    """Return the recipe of a model, what has to be changed in it, and what to say about it."""
    if model in MODELS:
        return f"{model}_{suffix}", {}, ()
    return f"resnet50_{suffix}", {"model.name": model}, (NO_RECIPE.format(model),)


def train(line: CommandLine) -> Translation:
    """Translate a command line of the training program."""
    given = parse(TRAIN_PROGRAM, TRAIN, line.arguments)
    if given["evaluate"]:
        return _evaluate(given)
    recipe, overrides, notes = recipe_of(given["arch"], "mlu")
    cards, card_notes = _cards(given, line.environment)
    batch = given["batch_size"] * cards
    overrides |= {
        "device.name": DEVICES[given["device"]],
        "device.count": cards,
        "seed": given["seed"],
        "optimizer.learning_rate": given["learning_rate"],
        "optimizer.momentum": given["momentum"],
        "optimizer.weight_decay": given["weight_decay"],
        "train.epochs": given["epochs"],
        "train.batch_size": batch,
        "train.max_steps_per_epoch": _cap(given["iters"], batch),
        **_precision(given),
        **_data(given),
        **_target(given),
    }
    if given["arch"].startswith("shufflenet"):
        overrides["schedule.decay_epochs"] = given["epochs"]
    if cards == 1 and given["device"] != "cpu" and given["device_id"]:
        overrides["device.index"] = given["device_id"]
    if given["resume"]:
        overrides["model.weights"] = given["resume"]
    return Translation(
        command="train",
        recipe=recipe,
        overrides=overrides,
        notes=(*notes, *card_notes, *given.notes, *_train_notes(given)),
        assumed=given.assumed("arch", "device", "epochs", "batch_size", "learning_rate", "data"),
    )


def _cards(given: Given, environment: Mapping[str, str]) -> tuple[int, tuple[str, ...]]:
    if given["hvd"] > 0:
        return given["hvd"], ("--hvd: the cards are counted; Horovod is not used",)
    if not given["multiprocessing_distributed"]:
        return 1, ()
    nodes = max(given["world_size"], 1)
    visible = environment.get("MLU_VISIBLE_DEVICES") or environment.get("CUDA_VISIBLE_DEVICES")
    if visible:
        cards = len(visible.split(","))
        return cards * nodes, _nodes(nodes)
    cards = 8 if given["arch"] == "alexnet" else 4
    note = (
        f"--multiprocessing-distributed: takes every visible card; {cards} are assumed, as in the "
        "one-click script: put MLU_VISIBLE_DEVICES=0,1 in front to say otherwise"
    )
    return cards * nodes, (note, *_nodes(nodes))


def _nodes(nodes: int) -> tuple[str, ...]:
    if nodes == 1:
        return ()
    return (
        f"--world-size: counts machines; on each, add `--nnodes {nodes} --node-rank RANK "
        "--rdzv ADDRESS:29500` to the command (it did not work there with more than one)",
    )


def _cap(iterations: int, batch: int) -> int | None:
    return iterations if 0 < iterations < TRAIN_IMAGES // batch else None


def _precision(given: Given) -> Mapping[str, Any]:
    if given["pyamp"]:
        return PRECISIONS["amp"]
    return PRECISIONS[given["opt_level"]] if given["cnmix"] else PRECISIONS["fp32"]


def _data(given: Given) -> dict[str, Any]:
    """Return what follows from the options of reading images."""
    data: dict[str, Any] = {"dataset.root": given["data"]}
    if given["dummy_test"] or given["data_backend"] == "synthetic":
        data = {
            "dataset.name": "synthetic",
            "dataset.train_count": TRAIN_IMAGES,
            "dataset.val_count": 50_000,
            "dataset.class_count": 1000,
        }
    for key, option in (
        ("loader.workers", "workers"),
        ("train.log_every_steps", "print_freq"),
        ("loader.prefetch_batches", "prefetch"),
    ):
        if option in given.written:
            data[key] = given[option]
    if given["interpolation"] == "bicubic":
        data["transforms.train"] = [
            {"name": "random_resized_crop", "size": 224, "interpolation": "bicubic"},
            {"name": "horizontal_flip"},
        ]
        data["transforms.eval"] = [
            {"name": "resize", "shorter_side": 256, "interpolation": "bicubic"},
            {"name": "center_crop", "size": 224},
        ]
    return data


def _target(given: Given) -> dict[str, Any]:
    target: dict[str, Any] = {}
    if given["quality_threshold"] is not None:
        target["train.target_top1"] = given["quality_threshold"] / 100
    if given["start_eval_at"] is not None:
        target["eval.start_epoch"] = given["start_eval_at"]
    if given["evaluate_every"] is not None:
        target["eval.every_epochs"] = given["evaluate_every"]
    return target


def _train_notes(given: Given) -> tuple[str, ...]:
    notes = []
    if "opt_level" in given.written and not given["cnmix"]:
        notes.append("--opt_level: has no effect without --cnmix")
    if given["cnmix"] and given["pyamp"]:
        notes.append("--cnmix: --pyamp is taken; use one of them")
    if "iters" in given.written and given["iters"] > 0:
        notes.append("--iters: caps validation too there; here the whole split is evaluated")
    if given["quality_threshold"] is None:
        notes += [
            f"--{name}: had no effect there without --quality_threshold; here it has"
            for name in ("start_eval_at", "evaluate_every")
            if name in given.written
        ]
    return tuple(notes)


def _evaluate(given: Given) -> Translation:
    """Translate --evaluate: one evaluation, with the pre-processing of training."""
    recipe, overrides, notes = recipe_of(given["arch"], "mlu_infer")
    data = _data(given)
    data.pop("transforms.train", None)
    data.pop("train.log_every_steps", None)
    overrides |= {
        "device.name": DEVICES[given["device"]],
        "eval.batch_size": given["batch_size"],
        "transforms.eval": [
            {"name": "resize", "shorter_side": 256},
            {"name": "center_crop", "size": 224},
        ],
        "transforms.mean": [0.485, 0.456, 0.406],
        "transforms.std": [0.229, 0.224, 0.225],
        "precision.compute": _precision(given)["precision.compute"],
        **data,
    }
    if given["resume"]:
        overrides["model.weights"] = given["resume"]
    else:
        notes = (*notes, "--evaluate: without --resume name the weights: --set model.weights=FILE")
    return Translation(
        command="run", recipe=recipe, overrides=overrides, notes=(*notes, *given.notes)
    )


def infer(line: CommandLine) -> Translation:
    """Translate a command line of the inference program.

    Raises:
        UsageError: It is incomplete.
    """
    given = parse(INFER_PROGRAM, INFER, line.arguments)
    if not given["network"]:
        raise UsageError(f"{INFER_PROGRAM}: --network is missing, such as --network resnet50")
    recipe, overrides, notes = recipe_of(given["network"], "mlu_infer")
    overrides |= {
        "device.name": DEVICES[given["device"]],
        "eval.batch_size": given["batch_size"],
    }
    if given["data"]:
        overrides["dataset.root"] = given["data"]
    if "workers" in given.written:
        overrides["loader.workers"] = given["workers"]
    if given["ckpt"]:
        overrides["model.weights"] = given["ckpt"]
    else:
        notes = (*notes, NO_FILE.format("--ckpt left out"))
    half = given["input_data_type"] == "float16"
    export, export_notes = _export(given, half=half)
    if export:
        overrides["export"] = [export]
    if half and (export is None or "precision" not in export):
        overrides |= PRECISIONS["O3"]  # the whole network, and its input
    return Translation(
        command="bench" if given["do_benchmark"] else "run",
        recipe=recipe,
        overrides=overrides,
        arguments=_bench_arguments(given) if given["do_benchmark"] else (),
        notes=(*notes, *export_notes, *given.notes, *_infer_notes(given)),
    )


def _bench_arguments(given: Given) -> tuple[str, ...]:
    measured = given["iters"] - given["warmup_iters"]
    if measured < 1:
        raise UsageError(
            f"{INFER_PROGRAM}: --do_benchmark measures --iters minus --warmup_iters iterations, "
            f"which is {given['iters']} - {given['warmup_iters']}; raise --iters"
        )
    steps = max(1, round(measured / 5))  # of five windows
    return ("--warmup", str(given["warmup_iters"]), "--steps", str(steps))


def _export(given: Given, *, half: bool) -> tuple[dict[str, Any] | None, tuple[str, ...]]:
    """Return what is exported for --fusion_backend and --qint, and what to say about it."""
    bits = None if given["qint"] == "no_quant" else given["qint"]
    batches = given["quant_batch_num"]
    if given["do_benchmark"]:
        compiled = bits or given["fusion_backend"] != "no"
        return None, (COMPILED_BENCHMARK,) if compiled else ()
    if given["device"] == "mlu" and (given["fusion_backend"] == "torch2mm" or bits):
        export: dict[str, Any] = {"name": "magicmind", "batch_size": given["batch_size"]}
        if half:
            export["precision"] = "fp16"
        if bits:
            export |= {"quantize": bits, "calibration_batches": batches}
        return export, ()
    if bits:
        export = {"name": f"onnx_{bits}", "calibration_batches": batches}
        return export, (f"--qint: without an MLU it is ONNX Runtime that computes {bits}",)
    if given["fusion_backend"] != "no":
        text = f"--fusion_backend: {given['fusion_backend']} is not taken over on {given['device']}"
        return None, (f"{text}; the network runs as PyTorch does",)
    return None, ()


def _infer_notes(given: Given) -> tuple[str, ...]:
    notes = []
    if given["iters"] > 0 and not given["do_benchmark"]:
        notes.append("--iters: is not taken over; the whole split is always evaluated")
    if "warmup_iters" in given.written and not given["do_benchmark"]:
        notes.append("--warmup_iters: has no effect without --do_benchmark")
    if "quant_batch_num" in given.written and given["qint"] == "no_quant":
        notes.append("--quant_batch_num: has no effect without --qint")
    return tuple(notes)

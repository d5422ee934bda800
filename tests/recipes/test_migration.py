"""docs/migration.md: its tables are complete, and every command and key in them is right."""

from __future__ import annotations

import re
import shlex
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer

from runner.cli import application
from runner.cli.options import overrides
from runner.planning.loading import load
from runner.plugins import kinds
from runner.recipe.validate import sections

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runner.planning.plan import Plan
    from runner.plugins.registry import Registry

PAGE = Path(__file__).parents[2] / "docs" / "migration.md"
CODE = re.compile(r"`([^`]+)`")

# What the originals have, transcribed from their files and documents.
CAMBRICON_MODELS = {
    "ResNet50": ("100E", True),
    "ResNet18": ("100E", False),
    "VGG16": ("100E", True),
    "MobileNetv2": ("150E", True),
    "AlexNet": ("100E", False),
    "GoogleNet": ("150E", True),
    "ResNet101": ("100E", False),
    "VGG19": ("100E", False),
    "VGG16_bn": ("100E", False),
    "ShuffleNetv2x05": ("300E", False),
    "ShuffleNetv2x10": ("300E", False),
}
TRAIN_SCRIPTS = [
    f"MLU370_{model}_{precision}_{epochs}_4MLUs_Train.sh"
    for model, (epochs, amp) in CAMBRICON_MODELS.items()
    for precision in (("AMP", "FP32") if amp else ("FP32",))
]
INFER_SCRIPTS = [f"MLU370_{model}_Infer.sh" for model in CAMBRICON_MODELS]
ASCEND_SCRIPTS = [
    "train_full_1p.sh",
    "train_performance_1p.sh",
    "train_full_8p.sh",
    "train_performance_8p.sh",
    "train_performance_multinodes.sh",
]
SCRIPTS = {
    "Cambricon vision_classification: scripts": [
        *TRAIN_SCRIPTS,
        *INFER_SCRIPTS,
        "MLU370_ShuffleNetv2x15_FP32_300E_4MLUs_Train.sh",
        "MLU370_ShuffleNetv2x15_Infer.sh",
        *("torch2mm", "cnnl", "FP16", "FP32", "int8", "int16"),
        *("<model>_Infer_Perf.sh", "<model>_Train_Perf.sh", "<model>_Train_Precheckin.sh"),
        *("ci_train", "ci_eval", "ddp-ci_train", "ddp-ci_eval"),
    ],
    "Ascend ResNet50: scripts": [
        *ASCEND_SCRIPTS,
        "train_eval_1p.sh",
        *("imagenet_torch_preprocess.py", "pth2onnx.py", "atc", "ais_bench"),
        "vision_metric_ImageNet.py",
        *(f"train_{what}_{n}p.sh" for what in ("full", "performance") for n in (4, 16, 32)),
        "train_performance_64p.sh",
        "--precision_mode=must_keep_origin_dtype",
    ],
    "Ascend MobileNetV2: scripts": [
        *ASCEND_SCRIPTS,
        *(f"train_performance_{n}p.sh" for n in (16, 32, 64)),
    ],
    "MindSpore ResNeXt152: scripts": [
        *("run_distribute_train.sh", "run_standalone_train.sh"),
        *("run_distribute_train_gpu.sh", "run_standalone_train_gpu.sh"),
        *("run_eval.sh", "run_eval_gpu.sh", "run_infer_310.sh", "build.sh"),
        *("train.py", "eval.py", "export.py", "create_imagenet2012_label.py", "postprocess.py"),
    ],
}
OPTIONS = {
    "Options of classify_train.py": """
        -a --arch -p --print-freq -m --modeldir --data -j --workers --epochs --start-epoch
        -b --batch-size --lr --learning-rate --momentum --wd --weight-decay --resume
        --resume_multi_device -e --evaluate --world-size --rank --dist-url --dist-backend
        --multiprocessing-distributed --seed --save_ckp --ckpdir --logdir --iters --device
        --device_id --pretrained --hvd --cnmix --opt_level --pyamp --dummy_test --start_eval_at
        --evaluate_every --eval_every --quality_threshold --data-backend --interpolation --prefetch
        --save_best IMAGENET_TRAIN_DATASET IMAGENET_TRAIN_CHECKPOINT TORCH_HOME AVG_LOG
        BENCHMARK_LOG DATASET_NAME MLU_VISIBLE_DEVICES MLU_ADAPTIVE_STRATEGY_COUNT
        CATCH_MODEL_TOTAL_ITERS""",
    "Options of classify_infer.py": """
        --batch_size --input_data_type --network -j --workers --iters --warmup_iters --device --data
        -p --print-freq --seed --qint --quant_batch_num --fusion_backend --ckpt --only_genoff
        --offline_model_path --do_benchmark""",
    "Options of Ascend ResNet50": """
        --data -a --arch -j --workers --num_classes --save_ckpt_path --epochs --start-epoch -b
        --batch-size --lr --learning-rate --momentum --wd --weight-decay -c --model-config
        --lr-schedule --warmup --label-smoothing --mixup --bn-weight-decay --static-loss-scale
        --dynamic-loss-scale --fp16 --amp --nesterov --workspace --raport-file -p --print-freq
        --resume -e --evaluate --pretrained -t --fine-tuning --world-size --rank --dist-url
        --dist-backend --seed --gpu --multiprocessing-distributed -bm --benchmark --device
        --device-list --addr --checkpoint-nameprefix --checkpoint-freq --graph_mode --bin_mode
        --precision_mode --npu --optimizer-batch-size --ND --data_path --device_id --batch_size
        --checkpoint --nnodes --node_rank --local_addr --master_addr --master_port --fix_node_ip
        --one_node_ip --linux_num --server_index --conf_path --devicesnum""",
    "Options of Ascend MobileNetV2": """
        --data -j --workers --epochs --start-epoch -b --batch-size --lr --learning-rate --momentum
        --wd --weight-decay --workspace -p --print-freq -ef --eval-freq --resume -e --evaluate
        --pretrain --world-size --rank --dist-url --dist-backend --multiprocessing-distributed
        --seed --gpu --device --device-list --addr --port -bm --benchmark --checkpoint-nameprefix
        --checkpoint-freq --amp --opt-level --loss-scale --class-nums --bin_mode --graph_mode
        --profiling --start_step --stop_step --steps_per_epoch --train_performance""",
    "Options of MindSpore ResNeXt152": """
        --platform --data_dir --per_batch_size --pretrained --is_distributed --data_sink_mode --lr
        --train_url --eval_interval --eval_start_epoch --save_best_ckpt --eval_data_dir
        --eval_per_batch_size --run_eval --eval_log_path --eval_is_distributed
        --use_python_multiprocessing image_size num_classes lr lr_scheduler lr_epochs lr_gamma
        eta_min T_max max_epoch warmup_epochs weight_decay momentum is_dynamic_loss_scale loss_scale
        label_smooth label_smooth_factor ckpt_interval ckpt_save_max ckpt_path is_save_on_master
        rank group_size data_sink_mode use_python_multiprocessing --graph_ckpt --log_path
        --device_id --batch_size --ckpt_file --width --height --file_name --file_format
        --device_target --img_path --result_path --label_path --mindir_path --dataset_path""",
}


def rows(heading: str) -> Iterator[tuple[str, str]]:
    """Yield the cells of each row of the tables under a heading."""
    text = PAGE.read_text(encoding="utf-8")
    _, found, rest = text.partition(f"\n## {heading}\n")
    assert found, f"no heading {heading!r}"
    lines = rest.partition("\n## ")[0].splitlines()
    for line, following in pairwise([*lines, ""]):
        if line.startswith("| ") and not following.startswith("|---"):
            left, _, right = line.strip("| ").partition(" | ")
            yield left, right


def names(cell: str) -> list[str]:
    return [word for text in CODE.findall(cell) for word in text.split()]


ALL_ROWS = [(heading, *row) for heading in (*SCRIPTS, *OPTIONS) for row in rows(heading)]
COMMANDS = sorted(
    {text for _, _, here in ALL_ROWS for text in CODE.findall(here) if text.startswith("runner ")}
)


@pytest.mark.parametrize("heading", SCRIPTS)
def test_every_original_script_has_a_row(heading):
    found = {name for left, _ in rows(heading) for name in names(left)}
    assert [name for name in SCRIPTS[heading] if name not in found] == []


@pytest.mark.parametrize("heading", OPTIONS)
def test_every_original_option_has_a_row(heading):
    found = {name for left, _ in rows(heading) for name in names(left)}
    assert [name for name in OPTIONS[heading].split() if name not in found] == []


def test_the_documented_scripts_are_counted():
    assert (len(TRAIN_SCRIPTS), len(INFER_SCRIPTS)) == (15, 11)


def test_every_row_says_what_is_here():
    assert [left for _, left, here in ALL_ROWS if not here.strip()] == []


def parameters(line: str) -> dict[str, Any]:
    """Parse a command line of runner as its command does."""
    command: Any = typer.main.get_command(application())
    name, *words = shlex.split(line)[1:]
    while hasattr(command.commands[name], "commands"):
        command, (name, *words) = command.commands[name], words
    context = command.commands[name].make_context(name, list(words))
    return {"command": name, **context.params}


def planned(line: str) -> Plan | None:
    """Plan the recipe of a command line; ``None`` if it names none."""
    given = parameters(line)
    recipe = given.get("recipe") or given.get("source")
    if not recipe or "/" in recipe or recipe.isupper():
        return None
    changes = overrides(
        given["set_"],
        framework=given.get("framework", ""),
        device=given.get("device", ""),
        devices=given.get("devices", ""),
        precision=given.get("precision", ""),
    )
    return load(recipe, changes, allow_unset=True).plan


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_is_a_plan(line):
    plan = planned(line)
    if plan and plan.recipe.train:
        assert plan.steps_per_epoch(1_281_167) > 1
        assert line.startswith(("runner train ", "runner eval ")), "evaluates and trains nothing"


def test_every_script_ends_in_a_recipe():
    without = [
        left
        for heading in SCRIPTS
        for left, here in rows(heading)
        if not any(text.startswith("runner ") for text in CODE.findall(here))
    ]
    assert without == ["`atc` with `aipp_resnet50.aippconfig`", "`ais_bench`"]


def keys_of_recipes(registry: Registry) -> set[str]:
    """Return every key as ``section.key``, those of entries too."""
    found = set()
    for section in sections().values():
        found.add(section.name)
        if section.cls:
            found |= {f"{section.name}.{item.name}" for item in fields(section.cls)}
        kind = kinds.of_section(section.name)
        for entry in registry.entries(kind.entry) if kind else ():
            found |= {f"{section.name}.{option.name}" for option in fields(entry.entry.config)}
    return found


def test_every_key_exists(registry):
    known = keys_of_recipes(registry)
    assert {"device.jit_compile", "export.batch_size", "train.epochs", "seed"} <= known
    given = {
        text.partition("=")[0]
        for _, _, here in ALL_ROWS
        for text in CODE.findall(here)
        if re.fullmatch(r"[a-z_]+\.[a-z0-9_]+(=\S+)?", text)
        and not text.endswith((".json", ".sh", ".txt"))
    }
    assert len(given) > 50
    assert sorted(given - known - {"throughput.metric_collector"}) == []


def test_every_recipe_of_the_four_systems_has_a_row():
    text = PAGE.read_text(encoding="utf-8")
    folder = PAGE.parents[1] / "recipes"
    own = {path.stem for path in folder.glob("[!_]*_*.yaml") if not path.stem.startswith("cifar")}
    named = set(re.findall(r"\w+", text))
    assert sorted(own - named - {"quickstart_mindspore"}) == []

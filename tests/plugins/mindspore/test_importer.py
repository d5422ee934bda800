"""Command lines of MindSpore models' ResNeXt-152, and what they are here."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from runner import recipe
from runner.errors import UsageError
from runner.migration.import_args import Imported, carry_out
from runner.planning.loading import load

pytestmark = pytest.mark.usefixtures("plugins_loaded_once")


def imported(line: str) -> Imported:
    return carry_out([line], importer="", output=None)


def resolved(found: Imported) -> Any:
    """Resolve the command that is printed."""
    words = shlex.split(found.command)
    sets = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
    return recipe.resolved(load(found.recipe, sets, allow_unset=True).plan.recipe)


def value(settings: Any, key: str) -> Any:
    for part in key.split("."):
        settings = settings[part]
    return settings


@pytest.mark.parametrize(
    ("line", "command", "name", "overrides"),
    [
        (
            "run_distribute_train.sh hccl_8p.json /x/train",
            "train",
            "resnext152_ascend",
            {"framework.launcher": "rank_table", "framework.rank_table": "hccl_8p.json"},
        ),
        (
            "run_standalone_train.sh 0 /x/train",
            "train",
            "resnext152_ascend_1card",
            {"device.index": 0},
        ),
        (
            "run_standalone_train.sh 3 /x/train/ 0-2_1251.ckpt",
            "train",
            "resnext152_ascend_1card",
            {"device.index": 3, "model.weights": "0-2_1251.ckpt"},
        ),
        ("run_distribute_train_gpu.sh /x/train", "train", "resnext152_gpu", {}),
        ("run_standalone_train_gpu.sh /x/train", "train", "resnext152_gpu_1card", {}),
        (
            "run_eval.sh 0 /x/val a.ckpt",
            "run",
            "resnext152_ascend_eval",
            {"model.weights": "a.ckpt", "device.index": 0},
        ),
        (
            "run_eval.sh 2 /x/val a.ckpt GPU",
            "run",
            "resnext152_ascend_eval",
            {"model.weights": "a.ckpt", "device.name": "gpu", "device.index": 2},
        ),
        (
            "run_eval_gpu.sh /x/val a.ckpt",
            "run",
            "resnext152_ascend_eval",
            {"model.weights": "a.ckpt", "device.name": "gpu"},
        ),
        (
            "run_infer_310.sh a.mindir /x/val 1",
            "run",
            "resnext152_ascend_eval",
            {"eval.batch_size": 1, "export": [{"name": "mindir", "tolerance": 0.05}]},
        ),
    ],
)
def test_scripts(line, command, name, overrides):
    found = imported(f"bash scripts/{line}")
    assert (found.importer, found.recipe) == ("mindspore_resnext152", name)
    assert found.overrides == {"dataset.root": "/x", **overrides}
    assert found.command.startswith(f"runner {command} {name}")


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (
            "python train.py --is_distribute 0 --platform Ascend --data_dir /x/train "
            "--run_eval False --device_id 0",
            "resnext152_ascend_1card",
        ),
        (
            "RANK_SIZE=8 python train.py --is_distribute 1 --data_dir /x/train --run_eval False",
            "resnext152_ascend",
        ),
        (
            "mpirun --allow-run-as-root -n 8 python train.py --is_distributed 1 --platform GPU "
            "--data_dir /x/train --per_batch_size 16 --lr 0.05 --data_sink_mode 1 --run_eval False",
            "resnext152_gpu",
        ),
        (
            "python train.py --is_distributed 0 --platform GPU --data_dir /x/train "
            "--per_batch_size 32 --lr 0.0125 --run_eval False",
            "resnext152_gpu_1card",
        ),
    ],
)
def test_what_the_scripts_start_is_a_recipe(line, name):
    found = imported(line)
    assert (found.recipe, found.overrides) == (name, {"dataset.root": "/x"})


TRAIN = "python train.py --data_dir /x/train --is_distributed 0"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", {"optimizer.learning_rate": 0.4, "train.batch_size": 128, "device.count": 1}),
        ("--platform GPU", {"device.name": "gpu", "train.batch_size": 128}),
        ("--per_batch_size 64", {"train.batch_size": 64}),
        ("--pretrained a.ckpt", {"model.weights": "a.ckpt"}),
        ("--is_distributed 1", {"device.count": 8, "train.batch_size": 1024}),
        ("--lr 0.1", {"optimizer.learning_rate": 0.1}),
        (
            "--eval_data_dir /x/validation --eval_start_epoch 100 --eval_interval 2",
            {"dataset.val": "validation", "eval.start_epoch": 99, "eval.every_epochs": 2},
        ),
        (
            "--eval_data_dir /y/val --eval_per_batch_size 16",
            {"dataset.val": "../y/val", "eval.batch_size": 16, "eval.start_epoch": 119},
        ),
        ("--save_best_ckpt False", {"checkpoint.keep_best": False}),
    ],
)
def test_options_of_training_have_their_effect(options, expected):
    settings = resolved(imported(f"{TRAIN} {options}"))
    assert {key: value(settings, key) for key in expected} == expected


@pytest.mark.parametrize(
    ("options", "note"),
    [
        ("", "--eval_data_dir: is needed there unless --run_eval False"),
        ("--run_eval False", "--run_eval: nothing is evaluated there"),
        ("--is_distributed 1", "--is_distributed: the number of cards comes from the launcher"),
        ("--pretrained a.ckpt", "--pretrained: starts from the weights in the file"),
        ("--data_sink_mode 0", "--data_sink_mode: is not taken over"),
        ("--train_url a", "--train_url: had no effect there but on ModelArts"),
        ("--eval_log_path a", "--eval_log_path: had no effect there"),
        ("--eval_is_distributed 1", "--eval_is_distributed: had no effect there"),
        ("--use_python_multiprocessing 1", "--use_python_multiprocessing: had no effect there"),
        ("--device_id 3", "--device_id 3: had no effect there: unknown options are passed over"),
    ],
)
def test_options_of_training_that_mean_something_else_are_noted(options, note):
    assert [text for text in imported(f"{TRAIN} {options}").notes if text.startswith(note)]


EVAL = "python eval.py --data_dir /x/val --pretrained a.ckpt"


@pytest.mark.parametrize(
    ("options", "expected", "note"),
    [
        ("", {"eval.batch_size": 32, "device.name": "ascend", "device.count": 1}, ""),
        ("--platform GPU", {"device.name": "gpu"}, ""),
        ("--per_batch_size 8", {"eval.batch_size": 8}, ""),
        ("--graph_ckpt 0", {}, "--graph_ckpt: is not taken over"),
        ("--log_path a", {}, "--log_path: is the run folder here"),
        ("--is_distributed 1", {"device.count": 1}, "--is_distributed: one card evaluates"),
        ("--train_url a", {}, "--train_url: had no effect there"),
        ("--nonsense 1", {}, "--nonsense 1: had no effect there"),
    ],
)
def test_options_of_evaluation(options, expected, note):
    found = imported(f"{EVAL} {options}")
    settings = resolved(found)
    assert {key: value(settings, key) for key in expected} == expected
    assert bool(found.notes) == bool(note)
    assert all(text.startswith(note) for text in found.notes)


def test_a_folder_of_checkpoints_is_evaluated_file_by_file():
    found = imported("python eval.py --data_dir /x/val --pretrained ckpt_0")
    assert found.command == (
        "runner eval ckpt_0 --recipe resnext152_ascend_eval --set dataset.root=/x"
    )


EXPORT = "python export.py --ckpt_file a.ckpt"


@pytest.mark.parametrize(
    ("options", "expected", "note"),
    [
        ("", {"device.name": "ascend", "model.weights": "a.ckpt"}, "export.py: the checkpoint is"),
        ("--device_id 2", {"device.index": 2}, ""),
        ("--batch_size 4", {}, "--batch_size: what is exported takes any batch size"),
        ("--file_name a", {}, "--file_name: the file is in the run's exports folder"),
        ("--device_target GPU", {"device.name": "gpu", "precision.compute": "fp16"}, ""),
        ("--device_target CPU", {"device.name": "cpu", "precision.compute": "fp32"}, ""),
    ],
)
def test_options_of_exporting(options, expected, note):
    found = imported(f"{EXPORT} {options}")
    settings = resolved(found)
    assert {key: value(settings, key) for key in expected} == expected
    assert [text for text in found.notes if text.startswith(note)]


@pytest.mark.parametrize(
    ("options", "name"),
    [("", "mindir"), ("--file_format ONNX", "onnx"), ("--file_format AIR", "air")],
)
def test_formats_of_exporting(options, name):
    assert [item["name"] for item in resolved(imported(f"{EXPORT} {options}"))["export"]] == [name]


def test_another_size_of_export():
    settings = resolved(imported(f"{EXPORT} --width 192 --height 160"))
    assert settings["transforms"]["eval"][-1]["exact"] == [160, 192]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("python train.py --platform Ascend", "--data_dir is missing"),
        ("python train.py --platform CPU --data_dir /x/train", "invalid choice: 'CPU'"),
        ("python train.py --data_dir /x --run_eval perhaps", "argument --run_eval: invalid truth"),
        ("python eval.py --data_dir /x/val", "--data_dir and --pretrained are needed"),
        ("python export.py --file_format ONNX", "--ckpt_file is missing"),
        (
            "python export.py --ckpt_file a --speed 3",
            "unknown: --speed 3; understood: --batch_size",
        ),
        (
            "bash run_eval.sh 0 /x/val",
            "takes DEVICE_ID DATA_PATH PATH_CHECKPOINT .PLATFORM., got 0",
        ),
        ("bash run_standalone_train.sh a /x/train", "DEVICE_ID is a number, got 'a'"),
        ("bash run_eval.sh 0 /x/val a.ckpt TPU", "PLATFORM is Ascend or GPU, got 'TPU'"),
    ],
)
def test_what_is_not_understood_is_an_error(line, message):
    with pytest.raises(UsageError, match=message):
        imported(line)


@pytest.mark.parametrize(
    "line",
    [
        "torchrun --nproc_per_node=8 train.py --model resnet50 --data-path /x",
        "torchrun --nproc_per_node=8 train.py --data_dir /x/train",
        "python -m torch.distributed.run train.py --data_dir /x/train",
        "python train.py",
        "python train.py --lr 0.1 --epochs 90",
        "python eval.py --batch-size 8 model.pt",
    ],
)
def test_a_common_name_alone_is_no_evidence(line):
    with pytest.raises(UsageError, match=r"no script that is understood.*--importer"):
        imported(line)


def test_the_folder_or_an_option_of_its_own_is_evidence():
    for line in (
        "python research/cv/resnext152_64x4d/train.py --data_dir=/x/train",
        "python train.py --data_dir=/x/train --lr 0.1",
    ):
        assert imported(line).importer == "mindspore_resnext152"


def test_defaults_of_the_program_are_said_to_be_assumed():
    [assumed] = imported("python train.py --data_dir=/x/train --lr 0.1").assumed
    assert assumed == "the program's own --platform Ascend, --per_batch_size 128"

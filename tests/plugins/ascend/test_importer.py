"""Command lines of the vendor's ResNet-50 and MobileNetV2, and what they are here."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from runner import recipe
from runner.errors import UsageError
from runner.migration.import_args import Imported, carry_out
from runner.planning.loading import load

EIGHT = (
    "nohup python3.7 ./DistributedResnet50/main_apex_d76_npu.py --data /x --addr=10.0.0.1 "
    "--seed=49 --workers=128 --learning-rate=1.6 --warmup=8 --label-smoothing=0.1 --mom=0.9 "
    "--weight-decay=1.0e-04 --static-loss-scale=128 --print-freq=1 "
    "--dist-url='tcp://127.0.0.1:50000' --dist-backend='hccl' --multiprocessing-distributed "
    "--world-size=1 --rank=0 --benchmark=0 --device='npu' --epochs=90 --batch-size=4096"
)
ONE = (
    "python3.7 ./pytorch_resnet50_apex.py --data /x --npu 0 -j 64 -b 512 --lr 0.2 --warmup 5 "
    "--label-smoothing=0.1 --epochs 90 --optimizer-batch-size 512"
)
MOBILENET = (
    "python3.7 ../train/mobilenetv2_8p_main_anycard.py --addr=10.0.0.1 --seed 49 --workers 128 "
    "--lr 0.4 --print-freq 1 --eval-freq 1 --dist-url 'tcp://127.0.0.1:50002' --dist-backend "
    "'hccl' --multiprocessing-distributed --world-size 1 --batch-size 4096 --epochs 600 --rank 0 "
    "--device-list '0,1,2,3,4,5,6,7' --amp --benchmark 0 --data /x"
)


pytestmark = pytest.mark.usefixtures("plugins_loaded_once")


def imported(line: str, importer: str = "") -> Imported:
    return carry_out([line], importer=importer, output=None)


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
    ("line", "importer", "name", "overrides"),
    [
        (EIGHT, "ascend_resnet50", "resnet50_npu", {"train.log_every_steps": 1}),
        (ONE, "ascend_resnet50", "resnet50_npu_1card", {}),
        (MOBILENET, "ascend_mobilenet_v2", "mobilenet_v2_npu", {"train.log_every_steps": 1}),
    ],
)
def test_what_the_scripts_start_is_a_recipe(line, importer, name, overrides):
    found = imported(line)
    assert (found.importer, found.recipe) == (importer, name)
    assert found.overrides == {"dataset.root": "/x", **overrides}


@pytest.mark.parametrize(
    ("line", "name", "overrides"),
    [
        ("train_full_1p.sh", "resnet50_npu_1card", {}),
        ("train_full_1p.sh --device_id=3", "resnet50_npu_1card", {"device.index": 3}),
        ("train_performance_1p.sh", "resnet50_npu_1card_perf", {}),
        ("train_full_8p.sh", "resnet50_npu", {}),
        ("train_full_8p.sh --batch_size=2048", "resnet50_npu", {"train.batch_size": 2048}),
        ("train_performance_8p.sh", "resnet50_npu_perf", {}),
        (
            "train_full_8p.sh --precision_mode=must_keep_origin_dtype",
            "resnet50_npu",
            {
                "precision.compute": "fp32",
                "precision.level": None,
                "precision.loss_scale": None,
                "device.precision_mode": "must_keep_origin_dtype",
                "device.internal_format": False,
            },
        ),
        ("train_full_4p.sh", "resnet50_npu", {"device.count": 4, "train.batch_size": 2048}),
        ("train_full_16p.sh --linux_num=2", "resnet50_npu", {"device.count": 16}),
        (
            "train_full_32p.sh",
            "resnet50_npu",
            {"device.count": 32, "train.batch_size": 16384, "optimizer.learning_rate": 4.9},
        ),
        (
            "train_performance_64p.sh",
            "resnet50_npu_perf",
            {"device.count": 64, "train.batch_size": 16384},
        ),
        (
            "train_performance_multinodes.sh --nnodes=2 --node_rank=1 --master_addr=10.0.0.1 "
            "--local_addr=10.0.0.2 --batch_size=8192",
            "resnet50_npu_2nodes",
            {},
        ),
        (
            "train_eval_1p.sh --checkpoint=best.pth.tar",
            "resnet50_npu_eval",
            {"model.weights": "best.pth.tar"},
        ),
        (
            "train_ID4050_ResNet50_RT2_performance_8p.sh",
            "resnet50_npu_perf",
            {"device.jit_compile": False, "train.max_steps_per_epoch": 100},
        ),
        (
            "train_ID3071_ResNet50_performance_16p.sh",
            "resnet50_npu_perf",
            {"device.count": 16, "loss.label_smoothing": 0.0, "loss.smooth_over": None},
        ),
    ],
)
def test_scripts_of_resnet50(line, name, overrides):
    script, *options = line.split(" ", 1)
    found = imported(f"bash ResNet50_for_PyTorch/test/{script} --data_path=/x {' '.join(options)}")
    assert (found.importer, found.recipe) == ("ascend_resnet50", name)
    assert found.overrides == {"dataset.root": "/x", **overrides}
    command = "run" if "eval" in script else "train"
    assert found.command.startswith(f"runner {command} {name}")


@pytest.mark.parametrize(
    ("line", "name", "overrides"),
    [
        ("train_full_1p.sh", "mobilenet_v2_npu_1card", {}),
        ("train_performance_1p.sh", "mobilenet_v2_npu_1card_perf", {}),
        ("train_full_8p.sh", "mobilenet_v2_npu", {}),
        ("train_performance_8p.sh", "mobilenet_v2_npu_perf", {}),
        (
            "train_performance_32p.sh",
            "mobilenet_v2_npu_perf",
            {"device.count": 32, "train.batch_size": 16384},
        ),
        (
            "train_performance_multinodes.sh --nnodes=2 --learning_rate=0.8",
            "mobilenet_v2_npu_2nodes",
            {"optimizer.learning_rate": 0.8},
        ),
        (
            "train_ID0098_MobileNetV2_RT2_full_1p.sh",
            "mobilenet_v2_npu_1card",
            {"device.jit_compile": False, "train.epochs": 30},
        ),
    ],
)
def test_scripts_of_mobilenet_v2(line, name, overrides):
    script, *options = line.split(" ", 1)
    found = imported(
        f"bash MobileNetV2_for_PyTorch/test/{script} --data_path=/x {' '.join(options)}"
    )
    assert (found.importer, found.recipe) == ("ascend_mobilenet_v2", name)
    assert found.overrides == {"dataset.root": "/x", **overrides}


def test_scripts_that_both_have_are_told_apart_by_their_folder():
    with pytest.raises(UsageError, match="--importer ascend_mobilenet_v2: runner train"):
        imported("bash test/train_full_8p.sh --data_path=/x")
    chosen = imported("bash train_full_8p.sh --data_path=/x", "ascend_mobilenet_v2")
    assert chosen.recipe == "mobilenet_v2_npu"
    assert imported("bash train_eval_1p.sh --data_path=/x --checkpoint=a").recipe


def test_several_machines_are_started_with_the_same_command():
    found = imported(
        "bash ResNet50_for_PyTorch/test/train_performance_multinodes.sh --data_path=/x --nnodes=4 "
        "--node_rank=2 --master_addr=10.0.0.1 --master_port=1234 --batch_size=16384"
    )
    assert resolved(found)["device"]["count"] == 32
    assert found.notes == (
        "4 machines: on each, add `--nnodes 4 --node-rank 2 --rdzv 10.0.0.1:29500` to the command, "
        "with the number of the machine; the address is that of machine 0",
        "--master_port: had no effect there: the port is fixed",
    )


def test_a_variable_of_the_script_stands_in_front_of_the_command():
    found = imported("bash test/train_no_TQE_performance_8p.sh --data_path=/x")
    assert found.command.startswith("TASK_QUEUE_ENABLE=0 runner train resnet50_npu_perf")


RESNET50 = "python main_apex_d76_npu.py --data /x --multiprocessing-distributed"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", {"optimizer.learning_rate": 2.048, "optimizer.momentum": 0.875}),
        ("", {"optimizer.weight_decay": 2**-15, "train.batch_size": 512, "train.epochs": 90}),
        ("", {"schedule.warmup_epochs": 8, "loss.label_smoothing": 0.0, "device.count": 8}),
        ("-a resnet18", {"model.name": "resnet18"}),
        ("-j 100", {"loader.workers": 13}),
        ("--num_classes 10", {"dataset.num_classes": 10}),
        ("--epochs 3", {"train.epochs": 3}),
        ("-b 4096", {"train.batch_size": 4096}),
        ("--lr 1.6", {"optimizer.learning_rate": 1.6}),
        ("--momentum 0.9", {"optimizer.momentum": 0.9}),
        ("--wd 1e-4", {"optimizer.weight_decay": 1e-4}),
        (
            "--lr-schedule step",
            {"schedule.name": "multistep", "schedule.milestones": [30, 60, 80]},
        ),
        (
            "--lr-schedule linear --warmup 0",
            {"schedule.name": "linear", "schedule.warmup_epochs": 0},
        ),
        ("--label-smoothing 0.2", {"loss.label_smoothing": 0.2, "loss.smooth_over": "others"}),
        ("--bn-weight-decay", {"optimizer.no_weight_decay": []}),
        ("--nesterov", {"optimizer.nesterov": True}),
        ("-p 5", {"train.log_every_steps": 5}),
        ("--resume a.pth", {"model.weights": "a.pth"}),
        ("--world-size 2 -b 8192", {"device.count": 16, "train.batch_size": 8192}),
        ("--seed 7", {"seed": 7}),
        ("-bm 1 -b 4096", {"train.batch_size": 16384, "train.micro_batch_size": 512}),
        ("--device gpu", {"device.name": "cuda", "device.count": 8}),
        ("--device-list 0,1,2,3", {"device.count": 4}),
        ("--checkpoint-freq 5", {"checkpoint.every_epochs": 5}),
        ("--bin_mode", {"device.jit_compile": False}),
        ("--precision_mode must_keep_origin_dtype", {"precision.compute": "fp32"}),
    ],
)
def test_options_of_resnet50_have_their_effect(options, expected):
    settings = resolved(imported(f"{RESNET50} {options}"))
    assert {key: value(settings, key) for key in expected} == expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", {"optimizer.learning_rate": 0.1, "optimizer.momentum": 0.9, "train.epochs": 100}),
        ("", {"schedule.warmup_epochs": 0, "device.count": 1, "checkpoint.every_epochs": 1}),
        ("--npu 3", {"device.index": 3}),
        (
            "-b 128 --optimizer-batch-size 512",
            {"train.batch_size": 512, "train.micro_batch_size": 128},
        ),
        ("--label-smoothing 0.1", {"loss.smooth_over": "all"}),
        ("--ND True", {"device.internal_format": False}),
    ],
)
def test_options_of_the_program_for_one_card(options, expected):
    settings = resolved(imported(f"python pytorch_resnet50_apex.py --data /x {options}"))
    assert {key: value(settings, key) for key in expected} == expected


@pytest.mark.parametrize(
    ("options", "note"),
    [
        ("--save_ckpt_path a", "--save_ckpt_path: is the run folder here"),
        ("--start-epoch 4", "--start-epoch: is not taken over"),
        ("-c fanin", "--model-config: had no effect there without --pretrained"),
        ("--mixup 0.2", "--mixup: mixed no images there"),
        ("--static-loss-scale 128", "--static-loss-scale: had no effect there: the network is in"),
        ("--dynamic-loss-scale", "--dynamic-loss-scale: had no effect there"),
        ("--fp16", "--fp16: had no effect there"),
        ("--amp", "--amp: had no effect there"),
        ("--workspace a", "--workspace: is the run folder here"),
        ("--raport-file a.json", "--raport-file: had no effect there, no file is written"),
        ("--resume a.pth", "--resume: starts from the weights in the file"),
        ("--pretrained", "--pretrained: reads a path of its own there"),
        ("-t", "--fine-tuning: had no effect there"),
        ("--world-size 2 -b 8192", "2 machines: on each, add `--nnodes 2 --node-rank RANK --rdzv"),
        ("--rank 1", "--rank: follows from --nnodes"),
        ("--dist-url tcp://a", "--dist-url: had no effect there; --addr has"),
        ("--dist-backend hccl", "--dist-backend: follows from the device"),
        ("--addr 10.0.0.1", "--addr: follows from --nnodes"),
        ("--checkpoint-nameprefix a", "--checkpoint-nameprefix: checkpoints are named by their"),
        ("--graph_mode", "--graph_mode: is not taken over"),
    ],
)
def test_options_of_resnet50_that_mean_something_else_are_noted(options, note):
    assert [text for text in imported(f"{RESNET50} {options}").notes if text.startswith(note)]


def test_evaluation_of_resnet50():
    found = imported(f"{ONE} --evaluate --resume best.pth.tar")
    assert found.recipe == "resnet50_npu_eval"
    assert found.overrides == {"dataset.root": "/x", "model.weights": "best.pth.tar"}
    assert found.command.startswith("runner run resnet50_npu_eval")


MBV2 = "python mobilenetv2_8p_main_anycard.py --data /x --multiprocessing-distributed"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", {"optimizer.learning_rate": 0.1, "train.epochs": 90, "train.batch_size": 6144}),
        ("", {"eval.every_epochs": 5, "precision.compute": "fp32", "device.count": 8}),
        ("-j 128", {"loader.workers": 16}),
        ("--epochs 600", {"train.epochs": 600}),
        ("-b 4096", {"train.batch_size": 4096}),
        ("--world-size 2 -b 4096", {"train.batch_size": 8192, "device.count": 16}),
        ("--lr 0.4", {"optimizer.learning_rate": 0.4}),
        ("--momentum 0.8", {"optimizer.momentum": 0.8}),
        ("--wd 4e-5", {"optimizer.weight_decay": 4e-5}),
        ("-p 7", {"train.log_every_steps": 7}),
        ("-ef 2", {"eval.every_epochs": 2}),
        ("--resume a.pth", {"model.weights": "a.pth"}),
        ("--pretrain a.pth", {"model.weights": "a.pth"}),
        ("--seed 7", {"seed": 7}),
        ("--device gpu", {"device.name": "cuda"}),
        ("--device-list 0,1", {"device.count": 2}),
        ("-bm 1 -b 4096", {"train.batch_size": 49152, "train.micro_batch_size": 512}),
        ("--amp", {"precision.level": "O2", "precision.loss_scale": 64.0}),
        ("--amp --opt-level O1", {"precision.compute": "fp16", "precision.level": "auto"}),
        ("--amp --opt-level O0", {"precision.compute": "fp32"}),
        ("--amp --loss-scale 128", {"precision.loss_scale": 128.0}),
        ("--class-nums 10", {"dataset.num_classes": 10}),
        ("--bin_mode 1", {"device.jit_compile": False}),
    ],
)
def test_options_of_mobilenet_v2_have_their_effect(options, expected):
    settings = resolved(imported(f"{MBV2} {options}"))
    assert {key: value(settings, key) for key in expected} == expected


@pytest.mark.parametrize(
    ("options", "note"),
    [
        ("--start-epoch 4", "--start-epoch: is not taken over"),
        ("--workspace a", "--workspace: had no effect there"),
        ("--pretrain a.pth", "--pretrain: weights of another number of classes do not fit"),
        ("--rank 1", "--rank: follows from --nnodes"),
        ("--dist-url a", "--dist-url: had no effect there"),
        ("--dist-backend hccl", "--dist-backend: follows from the device"),
        ("--addr a", "--addr: follows from --nnodes"),
        ("--port 1", "--port: follows from --nnodes"),
        ("--checkpoint-nameprefix a", "--checkpoint-nameprefix: checkpoints are named"),
        ("--checkpoint-freq 3", "--checkpoint-freq: had no effect there"),
        ("--opt-level O1", "--opt-level: has no effect without --amp"),
        ("--loss-scale 3", "--loss-scale: has no effect without --amp"),
        ("--graph_mode", "--graph_mode: is not taken over"),
        ("--profiling CANN", "--profiling: is not taken over"),
        ("--start_step 3", "--start_step: has no effect without --profiling"),
        ("--stop_step 3", "--stop_step: has no effect without --profiling"),
        ("--steps_per_epoch 3", "--steps_per_epoch: is not taken over"),
        ("--train_performance 1", "--train_performance: is not taken over"),
    ],
)
def test_options_of_mobilenet_v2_that_mean_something_else_are_noted(options, note):
    assert [text for text in imported(f"{MBV2} {options}").notes if text.startswith(note)]


def test_evaluation_of_mobilenet_v2():
    found = imported(
        "python mobilenetv2_8p_main_anycard.py --data /x -e --resume a.pth --amp -b 512"
    )
    assert found.command == (
        "runner eval a.pth --recipe mobilenet_v2_npu_1card --set dataset.root=/x"
    )


def test_a_learning_rate_that_the_script_does_not_pass_on_is_noted():
    found = imported(
        "bash MobileNetV2_for_PyTorch/test/train_full_8p.sh --data_path=/x --learning_rate=0.045"
    )
    assert "optimizer.learning_rate" not in found.overrides
    assert found.notes == (
        "--learning_rate: had no effect there: the script's own learning rate is passed on",
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("bash test/train_eval_1p.sh --checkpoint=a", "--data_path is missing"),
        ("bash test/train_eval_1p.sh --data_path=/x", "--checkpoint is missing"),
        (
            "bash test/train_full_4p.sh --data_path=/x --speed=3",
            "unknown: --speed=3; understood: --b",
        ),
        ("python main_apex_d76_npu.py --speed 3", "unknown: --speed 3; understood: --addr"),
        ("python mobilenetv2_8p_main_anycard.py -e", "--evaluate needs weights"),
    ],
)
def test_what_is_not_understood_is_an_error(line, message):
    with pytest.raises(UsageError, match=message):
        imported(line)

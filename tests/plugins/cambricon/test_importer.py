"""Command lines of Cambricon's vision_classification, and what they are here."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from runner import recipe
from runner.errors import UsageError
from runner.migration.import_args import Imported, carry_out
from runner.planning.loading import load

ONE_CLICK = (
    "python ../../classify_train.py -a {model} --iters -1 --batch-size {batch} --lr {rate} "
    "--device mlu --momentum 0.9 --wd {decay} --seed 42 --data /x --logdir log "
    "--epochs {epochs} --save_ckp --ckpdir ckps --multiprocessing-distributed -j 8 "
    "--dist-backend cncl --world-size 1 --rank 0 {precision}"
)
FP32, AMP = "--cnmix --opt_level O0", "--pyamp"
TRAINING = [
    ("resnet50", 64, 0.1, "1e-4", 100, AMP),
    ("resnet50", 64, 0.1, "1e-4", 100, FP32),
    ("resnet18", 128, 0.2, "1e-4", 150, FP32),
    ("vgg16", 128, 0.02, "1e-4", 100, AMP),
    ("vgg16", 128, 0.02, "1e-4", 100, FP32),
    ("mobilenet_v2", 64, 0.05, "4e-5", 150, AMP),
    ("mobilenet_v2", 64, 0.05, "4e-5", 150, FP32),
    ("alexnet", 128, 0.04, "1e-4", 150, FP32),
    ("googlenet", 64, 0.1, "4e-5", 150, AMP),
    ("googlenet", 64, 0.1, "4e-5", 150, FP32),
    ("resnet101", 64, 0.1, "4e-5", 100, FP32),
    ("vgg19", 64, 0.01, "1e-4", 100, FP32),
    ("vgg16_bn", 32, 0.01, "1e-4", 150, FP32),
    ("shufflenet_v2_x0_5", 1024, 0.5, "4e-5", 300, FP32),
    ("shufflenet_v2_x1_0", 1024, 0.5, "4e-5", 300, FP32),
    ("shufflenet_v2_x1_5", 512, 0.25, "4e-5", 300, FP32),
]
"""What the one-click scripts start: model, images of a card, rate, decay, epochs, precision."""


pytestmark = pytest.mark.usefixtures("plugins_loaded_once")


def imported(line: str) -> Imported:
    return carry_out([line], importer="", output=None)


def resolved(found: Imported) -> Any:
    """Resolve the command that is printed."""
    words = shlex.split(found.command)
    sets = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
    return recipe.resolved(load(found.recipe, sets, allow_unset=True).plan.recipe)


def contains(found: Any, expected: Any) -> bool:
    """Compare, with the defaults of list items left out of ``expected``."""
    if isinstance(expected, list):
        return all({**f, **e} == f for f, e in zip(found, expected, strict=True))
    return bool(found == expected)


@pytest.mark.parametrize("row", TRAINING, ids=lambda row: f"{row[0]} {row[-1]}")
def test_what_the_one_click_scripts_start_is_a_recipe(row):
    model, batch, rate, decay, epochs, precision = row
    cards = "0,1,2,3,4,5,6,7" if model == "alexnet" else "0,1,2,3"
    line = ONE_CLICK.format(
        model=model, batch=batch, rate=rate, decay=decay, epochs=epochs, precision=precision
    )
    found = imported(f"MLU_VISIBLE_DEVICES={cards} {line}")
    assert found.importer == "cambricon_classification"
    assert found.recipe == f"{model}_mlu"
    base = load(found.recipe, allow_unset=True).plan.recipe
    expected: dict[str, Any] = {"dataset.root": "/x"}
    compute = "fp16" if precision == AMP else "fp32"
    if base.precision.compute != compute:
        expected["precision.compute"] = compute
    assert found.overrides == expected
    assert [note.partition(":")[0] for note in found.notes] == [
        "--rank",
        "--dist-backend",
        "--ckpdir",
        "--logdir",
    ]


@pytest.mark.parametrize(
    ("script", "name", "overrides"),
    [
        ("MLU370_ResNet50_AMP_100E_4MLUs_Train.sh", "resnet50_mlu", {}),
        (
            "MLU370_ResNet50_FP32_100E_4MLUs_Train.sh",
            "resnet50_mlu",
            {"precision.compute": "fp32"},
        ),
        ("MLU370_ResNet18_FP32_100E_4MLUs_Train.sh", "resnet18_mlu", {}),
        ("MLU370_VGG16_AMP_100E_4MLUs_Train.sh", "vgg16_mlu", {}),
        ("MLU370_VGG16_FP32_100E_4MLUs_Train.sh", "vgg16_mlu", {"precision.compute": "fp32"}),
        ("MLU370_MobileNetv2_AMP_150E_4MLUs_Train.sh", "mobilenet_v2_mlu", {}),
        (
            "MLU370_MobileNetv2_FP32_150E_4MLUs_Train.sh",
            "mobilenet_v2_mlu",
            {"precision.compute": "fp32"},
        ),
        ("MLU370_AlexNet_FP32_100E_4MLUs_Train.sh", "alexnet_mlu", {}),
        ("MLU370_GoogleNet_AMP_150E_4MLUs_Train.sh", "googlenet_mlu", {}),
        (
            "MLU370_GoogleNet_FP32_150E_4MLUs_Train.sh",
            "googlenet_mlu",
            {"precision.compute": "fp32"},
        ),
        ("MLU370_ResNet101_FP32_100E_4MLUs_Train.sh", "resnet101_mlu", {}),
        ("MLU370_VGG19_FP32_100E_4MLUs_Train.sh", "vgg19_mlu", {}),
        ("MLU370_VGG16_bn_FP32_100E_4MLUs_Train.sh", "vgg16_bn_mlu", {}),
        ("MLU370_ShuffleNetv2x05_FP32_300E_4MLUs_Train.sh", "shufflenet_v2_x0_5_mlu", {}),
        ("MLU370_ShuffleNetv2x10_FP32_300E_4MLUs_Train.sh", "shufflenet_v2_x1_0_mlu", {}),
        ("AlexNet_FP32_150E_8MLUs_Train.sh", "alexnet_mlu", {}),
        ("ShuffleNetv2x15_FP32_300E_4MLUs_Train.sh", "shufflenet_v2_x1_5_mlu", {}),
    ],
)
def test_one_click_scripts_train(script, name, overrides):
    found = imported(f"bash run_scripts/{script}")
    assert (found.recipe, found.overrides) == (name, overrides)
    assert found.command.startswith(f"runner train {name}")
    assert found.notes == ()
    [images] = found.assumed
    assert "as IMAGENET_TRAIN_DATASET says there" in images
    with_data = imported(f"IMAGENET_TRAIN_DATASET=/x bash {script}")
    assert with_data.overrides == {"dataset.root": "/x", **overrides}
    assert (with_data.notes, with_data.assumed) == ((), ())


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("ResNet50", "resnet50"),
        ("ResNet18", "resnet18"),
        ("VGG16", "vgg16"),
        ("MobileNetv2", "mobilenet_v2"),
        ("AlexNet", "alexnet"),
        ("GoogleNet", "googlenet"),
        ("ResNet101", "resnet101"),
        ("VGG19", "vgg19"),
        ("VGG16_bn", "vgg16_bn"),
        ("ShuffleNetv2x05", "shufflenet_v2_x0_5"),
        ("ShuffleNetv2x10", "shufflenet_v2_x1_0"),
    ],
)
def test_one_click_scripts_evaluate_and_measure(name, model):
    infer = imported(f"bash MLU370_{name}_Infer.sh")
    assert infer.recipe == f"{model}_mlu_infer"
    assert infer.overrides == {"export": [{"name": "magicmind"}]}
    assert any("--set model.weights=FILE" in note for note in infer.notes)
    perf = imported(f"bash MLU370_{name}_Infer_Perf.sh")
    assert perf.command == f"runner bench --warmup 200 --steps 20 {model}_mlu_infer"
    train = imported(f"bash MLU370_{name}_Train_Perf.sh")
    assert train.recipe == f"{model}_mlu"
    found = resolved(train)
    assert found["train"]["max_steps_per_epoch"] == 60
    assert found["device"]["count"] == 4
    assert found["precision"]["compute"] == "fp32"


def test_what_is_left_out_has_the_programs_own_default():
    found = imported("python classify_train.py -a resnet50 --pyamp --data /x")
    assert found.overrides == {
        "device.name": "cpu",
        "device.count": 1,
        "seed": 1,
        "dataset.root": "/x",
        "train.epochs": 1,
        "train.batch_size": 16,
        "train.max_steps_per_epoch": 30_000,
    }
    assert found.notes == ()
    everything = resolved(imported("python classify_train.py --iters -1"))
    assert everything["model"]["name"] == "resnet18"
    assert everything["optimizer"]["learning_rate"] == 0.1
    assert everything["precision"]["compute"] == "fp32"
    assert everything["dataset"]["root"] == "./imagenet"
    assert "max_steps_per_epoch" not in imported("python classify_train.py --iters -1").overrides


@pytest.mark.parametrize(
    ("options", "overrides"),
    [
        ("-p 5", {"train.log_every_steps": 5}),
        ("-j8", {"loader.workers": 8}),
        ("--epochs 7", {"train.epochs": 7}),
        ("-b 32", {"train.batch_size": 32}),
        ("--lr 0.5", {"optimizer.learning_rate": 0.5}),
        ("--learning-rate 0.5", {"optimizer.learning_rate": 0.5}),
        ("--momentum 0.8", {"optimizer.momentum": 0.8}),
        ("--weight-decay 1e-3", {"optimizer.weight_decay": 1e-3}),
        ("--wd 1e-3", {"optimizer.weight_decay": 1e-3}),
        ("--seed 7", {"seed": 7}),
        ("--iters 100", {"train.max_steps_per_epoch": 100}),
        ("--device gpu", {"device.name": "cuda", "device.count": 1}),
        ("--device mlu --device_id 3", {"device.index": 3, "device.count": 1}),
        ("--hvd 2", {"device.count": 2, "train.batch_size": 32}),
        ("--pyamp", {"precision.compute": "fp16"}),
        ("--cnmix", {"precision.compute": "fp16"}),
        ("--cnmix --opt_level O2", {"precision.level": "O2"}),
        ("--cnmix --opt_level O3", {"precision.level": "O3"}),
        ("--resume a.pth", {"model.weights": "a.pth"}),
        ("--dummy_test", {"dataset.name": "synthetic", "dataset.class_count": 1000}),
        ("--data-backend synthetic", {"dataset.name": "synthetic"}),
        ("--prefetch 4", {"loader.prefetch_batches": 4}),
        (
            "--quality_threshold 76 --start_eval_at 10 --evaluate_every 4",
            {"train.target_top1": 0.76, "eval.start_epoch": 10, "eval.every_epochs": 4},
        ),
        ("--eval_every 4", {"eval.every_epochs": 4}),
        (
            "--interpolation bicubic",
            {
                "transforms.eval": [
                    {"name": "resize", "shorter_side": 256, "interpolation": "bicubic"},
                    {"name": "center_crop", "size": 224},
                ]
            },
        ),
    ],
)
def test_options_of_training_have_their_effect(options, overrides):
    found = imported(f"python classify_train.py -a resnet18 --data /x {options}")
    settings = resolved(found)
    for key, value in overrides.items():
        section: Any = settings
        for part in key.split("."):
            section = section[part]
        assert contains(section, value), key


@pytest.mark.parametrize(
    ("options", "note"),
    [
        ("-m models", "--modeldir: is not taken over"),
        ("--start-epoch 5", "--start-epoch: had no effect there: it is overwritten with 0"),
        ("--resume a.pth", "--resume: starts from the weights in the file"),
        ("--resume_multi_device", "--resume_multi_device: is not needed"),
        ("--world-size 2 --multiprocessing-distributed", "--world-size: counts machines"),
        ("--rank 1", "--rank: follows from --nnodes"),
        ("--dist-url env://", "--dist-url: follows from --nnodes"),
        ("--dist-backend cncl", "--dist-backend: follows from the device"),
        ("--multiprocessing-distributed", "--multiprocessing-distributed: takes every visible"),
        ("--ckpdir a", "--ckpdir: is the run folder here"),
        ("--logdir a", "--logdir: is the run folder here"),
        ("--pretrained", "--pretrained: torchvision's weights are a file here"),
        ("--hvd 4", "--hvd: the cards are counted; Horovod is not used"),
        ("--opt_level O2", "--opt_level: has no effect without --cnmix"),
        ("--cnmix --pyamp", "--cnmix: --pyamp is taken"),
        ("--dummy_test", "--dummy_test: repeats one batch there"),
        ("--iters 5", "--iters: caps validation too there"),
        ("--start_eval_at 5", "--start_eval_at: had no effect there without --quality_threshold"),
        ("--evaluate_every 5", "--evaluate_every: had no effect there without --quality_th"),
        ("--data-backend dali-mlu", "--data-backend: but for `synthetic`, images are read by"),
        ("--interpolation triangular", "--interpolation: `triangular` is bilinear here"),
    ],
)
def test_options_that_mean_something_else_are_noted(options, note):
    found = imported(f"python classify_train.py -a resnet50 --data /x {options}")
    assert [text for text in found.notes if text.startswith(note)]


@pytest.mark.parametrize("option", ["--save_ckp", "--save_best"])
def test_options_that_ask_for_what_always_happens(option):
    plain = imported("python classify_train.py --data /x")
    assert imported(f"python classify_train.py --data /x {option}").overrides == plain.overrides


def test_variables_in_front_of_the_command_line():
    found = imported(
        "AVG_LOG=a.json MLU_VISIBLE_DEVICES=2,3 IMAGENET_TRAIN_DATASET=/x python classify_train.py "
        "--data $IMAGENET_TRAIN_DATASET --multiprocessing-distributed --device mlu"
    )
    assert found.command.startswith("MLU_VISIBLE_DEVICES=2,3 runner train resnet18_mlu")
    assert found.overrides["dataset.root"] == "/x"
    assert found.overrides["device.count"] == 2
    assert found.notes == ("AVG_LOG: is not taken over",)


def test_a_model_without_a_recipe_takes_that_of_resnet50():
    found = imported("python classify_train.py -a resnet34 --data /x --iters -1")
    assert (found.recipe, found.overrides["model.name"]) == ("resnet50_mlu", "resnet34")
    assert "resnet34 has no recipe of its own" in found.notes[0]


def test_evaluation_with_the_training_program_keeps_its_preprocessing():
    found = imported("python classify_train.py -a googlenet -e --resume g.pth --data /x -b 64")
    assert found.recipe == "googlenet_mlu_infer"
    assert found.command.startswith("runner run googlenet_mlu_infer")
    settings = resolved(found)
    assert settings["transforms"]["mean"] == [0.485, 0.456, 0.406]
    assert [step["name"] for step in settings["transforms"]["eval"]] == ["resize", "center_crop"]
    assert contains(settings["transforms"]["eval"], [{"shorter_side": 256}, {"size": 224}])
    assert settings["model"]["weights"] == "g.pth"


INFER = "python classify_infer.py --network resnet50 --device mlu --data /x"


@pytest.mark.parametrize(
    ("options", "overrides"),
    [
        ("--batch_size 32", {"eval.batch_size": 32}),
        (
            "--input_data_type float16",
            {"precision.compute": "fp16", "precision.level": "O3"},
        ),
        ("-j 3", {"loader.workers": 3}),
        ("--ckpt a.pth", {"model.weights": "a.pth"}),
        (
            "--batch_size 64 --fusion_backend torch2mm",
            {"export": [{"name": "magicmind", "batch_size": 64}]},
        ),
        (
            "--fusion_backend torch2mm --input_data_type float16 --qint int8 --quant_batch_num 3",
            {
                "export": [
                    {
                        "name": "magicmind",
                        "batch_size": 1,
                        "precision": "fp16",
                        "quantize": "int8",
                        "calibration_batches": 3,
                    }
                ]
            },
        ),
        (
            "--device cpu --qint int16",
            {"device.name": "cpu", "export": [{"name": "onnx_int16", "calibration_batches": 5}]},
        ),
    ],
)
def test_options_of_inference_have_their_effect(options, overrides):
    found = imported(f"{INFER} {options}")
    assert found.recipe == "resnet50_mlu_infer"
    assert {key: found.overrides.get(key) for key in overrides} == overrides


@pytest.mark.parametrize(
    ("options", "note"),
    [
        ("", "--ckpt left out: torchvision's weights are downloaded there"),
        ("-p 5", "--print-freq: an evaluation prints one line here"),
        ("--seed 5", "--seed: has no effect on an evaluation"),
        ("--iters 5", "--iters: is not taken over; the whole split is always evaluated"),
        ("--warmup_iters 5", "--warmup_iters: has no effect without --do_benchmark"),
        ("--quant_batch_num 5", "--quant_batch_num: has no effect without --qint"),
        ("--only_genoff true", "--only_genoff: the model is compiled, and evaluated as well"),
        ("--offline_model_path a", "--offline_model_path: is the export's folder here"),
        ("--device cpu --qint int8", "--qint: without an MLU it is ONNX Runtime"),
        (
            "--device gpu --fusion_backend torch2trt",
            "--fusion_backend: torch2trt is not taken over",
        ),
    ],
)
def test_options_of_inference_that_mean_something_else_are_noted(options, note):
    assert [text for text in imported(f"{INFER} {options}").notes if text.startswith(note)]


def test_a_benchmark_leaves_its_warm_up_out():
    found = imported(f"{INFER} --batch_size 64 --iters 300 --do_benchmark true")
    assert found.command == (
        "runner bench --warmup 200 --steps 20 resnet50_mlu_infer --set dataset.root=/x"
    )
    compiled = imported(f"{INFER} --iters 300 --do_benchmark true --fusion_backend torch2mm")
    assert "export" not in compiled.overrides
    assert any(note.startswith("--do_benchmark: times what PyTorch") for note in compiled.notes)
    with pytest.raises(UsageError, match="300 - 300; raise --iters"):
        imported(f"{INFER} --iters 300 --warmup_iters 300 --do_benchmark true")


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("resnet50-fp32-mlu-ddp", ("resnet50_mlu", 4, 1024, 60, "fp32")),
        ("vgg19-amp-gpu", ("vgg19_mlu", 1, 64, 60, "fp16")),
        ("alexnet-O0-mlu-ddp-ci_train", ("alexnet_mlu", 4, 2048, 2, "fp32")),
    ],
)
def test_keys_of_the_benchmark(key, expected):
    found = imported(f"bash test/test_benchmark.sh {key}")
    settings = resolved(found)
    assert (
        found.recipe,
        settings["device"]["count"],
        settings["train"]["batch_size"],
        settings["train"]["max_steps_per_epoch"],
        settings["precision"]["compute"],
    ) == expected
    assert imported("bash test_benchmark.sh vgg16-fp32-mlu-ci_eval").recipe == "vgg16_mlu_infer"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "python classify_train.py --learnin 1 --speed 3",
            "unknown: --speed 3; understood: --arch",
        ),
        ("python classify_train.py --device npu", "invalid choice: 'npu'"),
        ("python classify_infer.py --device mlu", "--network is missing"),
        ("bash MLU370_ResNet50_Infer.sh fast", "takes no arguments, got fast"),
        ("bash test_benchmark.sh resnet50", "resnet50 is no key; expected MODEL-"),
        ("bash MLU370_DenseNet_Infer.sh", "no script that is understood"),
    ],
)
def test_what_is_not_understood_is_an_error(line, message):
    with pytest.raises(UsageError, match=message):
        imported(line)

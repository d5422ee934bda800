"""The options of Cambricon's ``classify_train.py`` and ``classify_infer.py``."""

from __future__ import annotations

from runner.migration.command_line import Option, truth

_IN_RUN_FOLDER = "is the run folder here; choose where it is made with --runs-dir"
_MACHINES = "follows from --nnodes, --node-rank and --rdzv of several machines"

MODELS = (
    *("alexnet", "googlenet", "mobilenet_v2", "resnet18", "resnet50", "resnet101"),
    *("shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "shufflenet_v2_x1_5"),
    *("vgg16", "vgg16_bn", "vgg19"),
)
"""Those with recipes."""

VISIBLE = ("MLU_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")
"""Environment variables that choose cards there and here."""

TRAIN = (
    Option(names=("-a", "--arch"), default="resnet18"),
    Option(names=("-p", "--print-freq"), default=1, type=int),
    Option(
        names=("-m", "--modeldir"), default="./", note="is not taken over; a plugin brings models"
    ),
    Option(names=("--data",), default="./imagenet"),
    Option(names=("-j", "--workers"), default=4, type=int),
    Option(names=("--epochs",), default=1, type=int),
    Option(
        names=("--start-epoch",),
        default=0,
        type=int,
        note="had no effect there: it is overwritten with 0",
    ),
    Option(names=("-b", "--batch-size"), default=16, type=int),
    Option(names=("--lr", "--learning-rate"), default=0.1, type=float),
    Option(names=("--momentum",), default=0.9, type=float),
    Option(names=("--wd", "--weight-decay"), default=1e-4, type=float),
    Option(
        names=("--resume",),
        default="",
        note="starts from the weights in the file; its optimizer and its epoch are not read",
    ),
    Option(
        names=("--resume_multi_device",),
        default=False,
        type=None,
        note="is not needed; prefixes of names are dropped when weights are read",
    ),
    Option(names=("-e", "--evaluate"), default=False, type=None),
    Option(names=("--world-size",), default=-1, type=int),
    Option(names=("--rank",), default=-1, type=int, note=_MACHINES),
    Option(names=("--dist-url",), default="tcp://127.0.0.1:23456", note=_MACHINES),
    Option(names=("--dist-backend",), default="nccl", note="follows from the device"),
    Option(names=("--multiprocessing-distributed",), default=False, type=None),
    Option(names=("--seed",), default=1, type=int),
    Option(names=("--save_ckp",), default=False, type=None),
    Option(names=("--ckpdir",), default="./ckps", note=_IN_RUN_FOLDER),
    Option(names=("--logdir",), default="./log_mlu", note=_IN_RUN_FOLDER),
    Option(names=("--iters",), default=30_000, type=int),
    Option(names=("--device",), default="cpu", choices=("cpu", "gpu", "mlu")),
    Option(names=("--device_id",), type=int),
    Option(
        names=("--pretrained",),
        default=False,
        type=None,
        note="torchvision's weights are a file here: add --set model.weights=FILE",
    ),
    Option(names=("--hvd",), default=-1, type=int),
    Option(names=("--cnmix",), default=False, type=None),
    Option(names=("--opt_level",), default="O1", choices=("O0", "O1", "O2", "O3")),
    Option(names=("--pyamp",), default=False, type=None),
    Option(
        names=("--dummy_test",),
        default=False,
        type=None,
        note="repeats one batch there; here every image is generated, with a tint for its class",
    ),
    Option(names=("--start_eval_at",), type=int),
    Option(names=("--evaluate_every", "--eval_every"), type=int),
    Option(names=("--quality_threshold",), type=float),
    # what later releases added
    Option(
        names=("--data-backend",),
        default="pytorch",
        choices=("pytorch", "synthetic", "dali-mlu", "dali-cpu"),
        note="but for `synthetic`, images are read by the loader of the recipe",
    ),
    Option(
        names=("--interpolation",),
        default="bilinear",
        choices=("bilinear", "bicubic", "triangular"),
        note="`triangular` is bilinear here",
    ),
    Option(names=("--prefetch",), default=2, type=int),
    Option(names=("--save_best",), default=False, type=None),
)

INFER = (
    Option(names=("--batch_size",), default=1, type=int),
    Option(names=("--input_data_type",), default="float32", choices=("float32", "float16")),
    Option(names=("--network",), default=""),
    Option(names=("-j", "--workers"), default=16, type=int),
    Option(names=("--iters",), default=-1, type=int),
    Option(names=("--warmup_iters",), default=200, type=int),
    Option(names=("--device",), default="cpu", choices=("cpu", "mlu", "gpu")),
    Option(names=("--data",)),
    Option(
        names=("-p", "--print-freq"), default=1, type=int, note="an evaluation prints one line here"
    ),
    Option(names=("--seed",), default=1, type=int, note="has no effect on an evaluation"),
    Option(names=("--qint",), default="no_quant", choices=("no_quant", "int8", "int16")),
    Option(names=("--quant_batch_num",), default=5, type=int),
    Option(names=("--fusion_backend",), default="no", choices=("no", "torch2trt", "torch2mm")),
    Option(names=("--ckpt",)),
    Option(
        names=("--only_genoff",),
        default=False,
        type=truth,
        note="the model is compiled, and evaluated as well",
    ),
    Option(
        names=("--offline_model_path",),
        note="is the export's folder here; a compiled model of the original cannot be read",
    ),
    Option(names=("--do_benchmark",), default=False, type=truth),
)

"""The options of the training programs and scripts of Ascend ModelZoo-PyTorch."""

from __future__ import annotations

from dataclasses import replace

from runner.migration.command_line import Option

_RUN_FOLDER = "is the run folder here; choose where it is made with --runs-dir"
_MACHINES = "follows from --nnodes, --node-rank and --rdzv of several machines"
_ALWAYS_O2 = "had no effect there: the network is in O2 with a fixed loss scale of 1024"
_WEIGHTS_ONLY = "starts from the weights in the file; its optimizer and its epoch are not read"
_NOT_TAKEN = "is not taken over"

_COMMON = (
    Option(names=("-j", "--workers"), default=32, type=int),
    Option(
        names=("--start-epoch",),
        default=0,
        type=int,
        note="is not taken over; `runner resume` continues a run",
    ),
    Option(names=("--epochs",), default=90, type=int),
    Option(names=("-p", "--print-freq"), default=10, type=int),
    Option(names=("--resume",), default="", note=_WEIGHTS_ONLY),
    Option(names=("-e", "--evaluate"), default=False, type=None),
    Option(names=("--world-size",), default=-1, type=int),
    Option(names=("--rank",), default=-1, type=int, note=_MACHINES),
    Option(names=("--dist-backend",), default="nccl", note="follows from the device"),
    Option(names=("--multiprocessing-distributed",), default=False, type=None),
    Option(names=("--seed",), type=int),
    Option(names=("--gpu",), type=int),
    Option(names=("--device",), default="npu", choices=("npu", "gpu")),
    Option(names=("--device-list",), default="0,1,2,3,4,5,6,7"),
    Option(names=("--addr",), default="", note=_MACHINES),
    Option(names=("-bm", "--benchmark"), default=0, type=int),
    Option(
        names=("--checkpoint-nameprefix",),
        default="checkpoint",
        note="checkpoints are named by their step",
    ),
    Option(
        names=("--graph_mode",),
        default=False,
        type=None,
        note="is not taken over; operators run one by one",
    ),
)

RESNET50 = (
    *_COMMON,
    Option(names=("--data",), default="/data/imagenet"),
    Option(names=("-a", "--arch"), default="resnet50"),
    Option(names=("--num_classes",), default=1000, type=int),
    Option(names=("--save_ckpt_path",), default="./", note=_RUN_FOLDER),
    Option(names=("-b", "--batch-size"), default=512, type=int),
    Option(names=("--lr", "--learning-rate"), default=2.048, type=float),
    Option(names=("--momentum",), default=0.875, type=float),
    Option(names=("--wd", "--weight-decay"), default=2**-15, type=float),
    Option(
        names=("-c", "--model-config"),
        default="classic",
        choices=("classic", "fanin", "grp-fanin", "grp-fanout"),
        note="had no effect there without --pretrained, which reads a path of its own",
    ),
    Option(names=("--lr-schedule",), default="cosine", choices=("cosine", "step", "linear")),
    Option(names=("--warmup",), default=8, type=int),
    Option(names=("--label-smoothing",), default=0.0, type=float),
    Option(
        names=("--mixup",),
        default=0.0,
        type=float,
        note="mixed no images there; it only takes another loss",
    ),
    Option(names=("--bn-weight-decay",), default=False, type=None),
    Option(names=("--static-loss-scale",), default=128.0, type=float, note=_ALWAYS_O2),
    Option(names=("--dynamic-loss-scale",), default=False, type=None, note=_ALWAYS_O2),
    Option(names=("--fp16",), default=False, type=None, note=_ALWAYS_O2),
    Option(names=("--amp",), default=False, type=None, note=_ALWAYS_O2),
    Option(names=("--nesterov",), default=False, type=None),
    Option(names=("--workspace",), default="./", note=_RUN_FOLDER),
    Option(
        names=("--raport-file",),
        default="experiment_raport.json",
        note="had no effect there, no file is written; here: --set 'loggers=[dllogger]'",
    ),
    Option(
        names=("--pretrained",),
        default=False,
        type=None,
        note="reads a path of its own there; here: --set model.weights=FILE",
    ),
    Option(
        names=("-t", "--fine-tuning"),
        default=False,
        type=None,
        note="had no effect there: every parameter is trained, as here",
    ),
    Option(names=("--dist-url",), default="", note="had no effect there; --addr has"),
    Option(names=("--checkpoint-freq",), default=10, type=int),
    Option(names=("--bin_mode",), default=False, type=None),
    Option(
        names=("--precision_mode",),
        default="allow_mix_precision",
        choices=("allow_mix_precision", "must_keep_origin_dtype"),
    ),
)
"""Of ``main_apex_d76_npu.py``, for several cards."""

_ONE_CARD_DEFAULTS = {
    "epochs": 100,
    "learning_rate": 0.1,
    "momentum": 0.9,
    "weight_decay": 1e-4,
    "warmup": 0,
    "static_loss_scale": 1.0,
    "checkpoint_freq": 1,
}

RESNET50_ONE_CARD = (
    *(replace(o, default=_ONE_CARD_DEFAULTS.get(o.key, o.default)) for o in RESNET50),
    Option(names=("--npu",), type=int),
    Option(names=("--optimizer-batch-size",), default=-1, type=int),
    Option(names=("--ND",), default="False"),
)
"""Of ``pytorch_resnet50_apex.py``, for one card."""

MOBILENET_V2 = (
    *_COMMON,
    Option(names=("--data",), default="/opt/npu/dataset/imagenet"),
    Option(names=("-b", "--batch-size"), default=6144, type=int),
    Option(names=("--lr", "--learning-rate"), default=0.1, type=float),
    Option(names=("--momentum",), default=0.9, type=float),
    Option(names=("--wd", "--weight-decay"), default=1e-4, type=float),
    Option(names=("--workspace",), default="./", note="had no effect there"),
    Option(names=("-ef", "--eval-freq"), default=5, type=int),
    Option(
        names=("--pretrain",),
        default="",
        note="weights of another number of classes do not fit; there the classifier is left out",
    ),
    Option(names=("--dist-url",), default="", note="had no effect there; --addr and --port have"),
    Option(names=("--port",), default="59629", note=_MACHINES),
    Option(names=("--checkpoint-freq",), default=0, type=int, note="had no effect there"),
    Option(names=("--amp",), default=False, type=None),
    Option(names=("--opt-level",), default="O2", choices=("O0", "O1", "O2", "O3")),
    Option(names=("--loss-scale",), default=64.0, type=float),
    Option(names=("--class-nums",), default=1000, type=int),
    Option(names=("--bin_mode",), default=0, type=int),
    Option(names=("--profiling",), default="None", choices=("CANN", "GE", "None"), note=_NOT_TAKEN),
    Option(names=("--start_step",), default=0, type=int, note="has no effect without --profiling"),
    Option(names=("--stop_step",), default=20, type=int, note="has no effect without --profiling"),
    Option(
        names=("--steps_per_epoch",),
        default=1000,
        type=int,
        note="is not taken over; train.max_steps_per_epoch ends an epoch early",
    ),
    Option(
        names=("--train_performance",),
        default=0,
        type=int,
        note="is not taken over; the recipes of performance end an epoch early",
    ),
)
"""Of ``mobilenetv2_8p_main_anycard.py``."""

DATA_PATH = Option(names=("--data_path",))
ONE_CARD_SCRIPT = (DATA_PATH, Option(names=("--device_id",), type=int))
BATCH_SIZE = Option(names=("--batch_size",), type=int)
PRECISION_MODE = Option(
    names=("--precision_mode",),
    choices=("allow_mix_precision", "must_keep_origin_dtype", "amp"),
)
LEARNING_RATE = Option(names=("--learning_rate",), type=float)
CHECKPOINT = Option(names=("--checkpoint",))
NODES = (
    Option(names=("--nnodes",), default=1, type=int),
    Option(names=("--node_rank",), default=0, type=int),
    Option(names=("--local_addr",), default="127.0.0.1", note=_MACHINES),
    Option(names=("--master_addr",), default="127.0.0.1"),
    Option(
        names=("--master_port",),
        default=23333,
        type=int,
        note="had no effect there: the port is fixed",
    ),
    Option(names=("--device_list",)),
)
CLUSTER = tuple(
    Option(names=(f"--{name}",), note=_MACHINES)
    for name in (
        *("fix_node_ip", "one_node_ip", "linux_num", "server_index", "conf_path", "devicesnum"),
    )
)
"""Of the scripts for 16, 32 and 64 cards."""

"""The options of the programs of research/cv/resnext152_64x4d of MindSpore models."""

from __future__ import annotations

from runner.migration.command_line import Option, truth

_CLOUD = "had no effect there but on ModelArts"
_UNUSED = "had no effect there"

TRAIN = (
    Option(names=("--platform",), default="Ascend", choices=("Ascend", "GPU")),
    Option(names=("--data_dir",), default=""),
    Option(names=("--per_batch_size",), default=128, type=int),
    Option(
        names=("--pretrained",),
        default="",
        note="starts from the weights in the file; its moments are left out, there as here",
    ),
    Option(names=("--is_distributed",), default=1, type=int),
    Option(
        names=("--data_sink_mode",),
        default=True,
        type=truth,
        note="is not taken over; batches are handed over one by one",
    ),
    Option(names=("--lr",), default=0.4, type=float),
    Option(names=("--train_url",), default="", note=_CLOUD),
    Option(names=("--eval_interval",), default=1, type=int),
    Option(names=("--eval_start_epoch",), default=120, type=int),
    Option(names=("--save_best_ckpt",), default=True, type=truth),
    Option(names=("--eval_data_dir",), default=""),
    Option(names=("--eval_per_batch_size",), default=32, type=int),
    Option(names=("--run_eval",), default=True, type=truth),
    Option(names=("--eval_log_path",), default="eval_outputs/", note=_UNUSED),
    Option(names=("--eval_is_distributed",), default=0, type=int, note=_UNUSED),
    Option(
        names=("--use_python_multiprocessing",),
        default=False,
        type=truth,
        note="had no effect there: it is parsed, and not passed on",
    ),
)
EVAL = (
    Option(names=("--platform",), default="Ascend", choices=("Ascend", "GPU")),
    Option(names=("--data_dir",), default=""),
    Option(names=("--per_batch_size",), default=32, type=int),
    Option(
        names=("--graph_ckpt",),
        default=1,
        type=int,
        note="is not taken over; checkpoints are evaluated in the order of their steps",
    ),
    Option(names=("--pretrained",), default=""),
    Option(names=("--log_path",), default="outputs/", note="is the run folder here"),
    Option(names=("--is_distributed",), default=0, type=int),
    Option(names=("--train_url",), default="", note=_CLOUD),
)
EXPORT = (
    Option(names=("--device_id",), default=0, type=int),
    Option(
        names=("--batch_size",), default=1, type=int, note="what is exported takes any batch size"
    ),
    Option(names=("--ckpt_file",), default=""),
    Option(names=("--width",), default=224, type=int),
    Option(names=("--height",), default=224, type=int),
    Option(
        names=("--file_name",),
        default="resnext152",
        note="the file is in the run's exports folder, under a name of its own",
    ),
    Option(names=("--file_format",), default="MINDIR", choices=("AIR", "ONNX", "MINDIR")),
    Option(names=("--device_target",), default="Ascend", choices=("Ascend", "GPU", "CPU")),
)

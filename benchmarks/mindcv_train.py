"""MindCV's training as its train.py does it, for throughput_mindspore.py; needs mindcv only.

    python mindcv_train.py --data FOLDER --model resnet18 --batch 32 --steps 12 --warmup 3

train.py is in MindCV's repository, not in its package. With `--script TRAIN.PY` (config.py beside
it) it is run as it is; without, the functions of the package that it calls are called here, in the
same order. Either way `Model.train` gets one more callback, which times the steps.

Images are augmented as throughput.yaml has it (random crop and flip, no colour jitter), by two
workers. `StateMonitor`, which train.py always uses, opens MindSpore's summary writer, whose process
asks for work in a loop without a pause and so takes a whole core; on two cores that is most of what
MindCV loses.
"""

from __future__ import annotations

import argparse
import json
import runpy
import sys
import time
from pathlib import Path
from typing import Any

import mindspore as ms
from mindspore.train import Callback, Model

WORKERS = 2
EPOCHS = 100
"""More than are needed; the timer ends training."""


class Timer(Callback):
    """Takes the time of steps that follow another in their epoch, waiting for data included."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.seconds: list[float] = []
        self.last: float | None = None

    def on_train_epoch_begin(self, run_context: Any) -> None:
        self.last = None

    def on_train_step_end(self, run_context: Any) -> None:
        run_context.original_args().net_outputs.asnumpy()
        now = time.perf_counter()
        if self.last is not None:
            self.seconds.append(now - self.last)
        self.last = now
        if len(self.seconds) >= self.steps:
            run_context.request_stop()


def run_script(arguments: argparse.Namespace) -> None:
    """Run MindCV's own train.py."""
    configuration = Path("configuration.yaml")
    configuration.write_text("color_jitter: null\n", encoding="utf-8")  # has no other spelling
    sys.path.insert(0, str(arguments.script.parent))
    sys.argv = [str(arguments.script), f"--config={configuration}"]
    sys.argv += [f"--data_dir={arguments.data}", "--dataset=imagenet", "--train_split=train"]
    sys.argv += [f"--model={arguments.model}", f"--num_classes={arguments.classes}"]
    sys.argv += [f"--batch_size={arguments.batch}", f"--num_parallel_workers={WORKERS}"]
    sys.argv += ["--opt=momentum", "--momentum=0.9", "--weight_decay=0"]
    sys.argv += ["--scheduler=constant", "--lr=0.001", "--warmup_epochs=0"]
    sys.argv += ["--mode=0", "--amp_level=O0", f"--epoch_size={EPOCHS}"]
    sys.argv += ["--dataset_sink_mode=False"]
    runpy.run_path(str(arguments.script), run_name="__main__")


def run_functions(arguments: argparse.Namespace) -> None:
    """Call what train.py calls."""
    from mindcv.data import create_dataset, create_loader, create_transforms
    from mindcv.loss import create_loss
    from mindcv.models import create_model
    from mindcv.optim import create_optimizer
    from mindcv.scheduler import create_scheduler
    from mindcv.utils import StateMonitor, create_trainer, get_metrics, set_seed

    ms.set_context(mode=ms.GRAPH_MODE)
    set_seed(42)
    images = create_dataset("imagenet", str(arguments.data), "train", num_parallel_workers=WORKERS)
    loader = create_loader(
        images,
        arguments.batch,
        drop_remainder=True,
        is_training=True,
        num_classes=arguments.classes,
        transform=create_transforms("imagenet", is_training=True),
        num_parallel_workers=WORKERS,
    )
    net = create_model(arguments.model, num_classes=arguments.classes)
    rates = create_scheduler(
        loader.get_dataset_size(), "constant", lr=1e-3, warmup_epochs=0, num_epochs=EPOCHS
    )
    optimizer = create_optimizer(net, opt="momentum", lr=rates, weight_decay=0.0, momentum=0.9)
    metrics = get_metrics(arguments.classes)
    trainer = create_trainer(
        net,
        create_loss("CE"),
        optimizer,
        metrics,
        amp_level="O0",
        amp_cast_list=None,
        loss_scale_type="fixed",
    )
    monitor = StateMonitor(
        trainer, arguments.model, dataset_sink_mode=False, metric_name=list(metrics)
    )
    trainer.train(EPOCHS, loader, callbacks=[monitor], dataset_sink_mode=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--script", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--warmup", type=int, default=3)
    arguments = parser.parse_args()
    timer = Timer(arguments.warmup + arguments.steps)
    train = Model.train

    def timed(model: Model, epoch: int, data: Any, callbacks: Any = None, **options: Any) -> None:
        train(model, epoch, data, callbacks=[*(callbacks or ()), timer], **options)

    Model.train = timed
    if arguments.script:
        run_script(arguments)
    else:
        run_functions(arguments)
    seconds = timer.seconds[arguments.warmup :]
    rate = len(seconds) * arguments.batch / sum(seconds)
    print(json.dumps({"images_per_s": rate, "mindspore": ms.__version__, "seconds": seconds}))


if __name__ == "__main__":
    main()

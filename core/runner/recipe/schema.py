"""The sections and keys of a recipe.

A section with a ``name`` (framework, device, dataset, model, optimizer, export) chooses an entry
that a plugin registered. Keys of such a section that are not listed here belong to that entry:
they are checked against its own options class and arrive in ``options``.
"""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt, MinLen

from runner.data.decode_options import Decoding, GreyBits
from runner.data.transforms.options import Transform  # noqa: TC001  pydantic reads annotations
from runner.options import NoOptions, options

PositiveInt = Annotated[int, Gt(0)]
Fraction = Annotated[float, Ge(0), Le(1)]


@options
class FrameworkSection:
    """Which framework trains and evaluates the model."""

    name: str
    """A framework entry, such as `torch`."""
    options: object = NoOptions()


@options
class DeviceSection:
    """Which accelerator to use, and how many."""

    name: str
    """A device entry of the framework, such as `cpu` or `cuda`."""
    count: PositiveInt = 1
    """Devices that work on one step together, on all machines."""
    cards: list[Annotated[int, Ge(0)]] = field(default_factory=list)
    """Which cards of each machine, by the numbers that the vendor's tools show; all that are
    visible when left out."""
    options: object = NoOptions()


@options
class PrecisionSection:
    """Number formats of the computation; weights and optimizer stay in fp32."""

    compute: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Format of convolutions and matrix products; `fp32` is O0 of Apex and MindSpore."""
    level: Literal["auto", "O2", "O3"] = "auto"
    """What runs in a lower format: `auto` chooses operator by operator, `O2` and `O3` cast the
    whole network and its input."""
    batch_norm: Literal["level", "fp32", "compute"] = "level"
    """Format of batch normalisation; as `level` has it, that is `compute` with O3 and fp32
    otherwise. MindSpore and Apex call it `keep_batchnorm_fp32`."""
    loss_scale: Literal["auto", "none", "dynamic"] | Annotated[float, Gt(0)] = "auto"
    """Factor on the loss that keeps small fp16 gradients from vanishing. `auto` is `dynamic` for
    fp16 and `none` otherwise."""
    skip_overflow: bool = True
    """Leave the weights alone in a step whose gradients overflow, and count it. `false`, with a
    fixed loss scale only, saves looking at the gradients; the run then ends at the first NaN."""

    @property
    def effective_loss_scale(self) -> Literal["none", "dynamic"] | float:
        """The loss scale with `auto` decided."""
        if self.loss_scale == "auto":
            return "dynamic" if self.compute == "fp16" else "none"
        return self.loss_scale

    @property
    def effective_batch_norm(self) -> Literal["fp32", "compute"]:
        """The format of batch normalisation with `level` decided."""
        if self.batch_norm == "level":
            return "compute" if self.level == "O3" else "fp32"
        return self.batch_norm


@options
class DatasetSection:
    """Where the images and their labels come from."""

    name: str
    """A dataset entry, such as `class_folders`."""
    num_classes: PositiveInt | None = None
    """Classes the data must have; found in the data when left out."""
    train_images: PositiveInt | None = None
    """Images the training split must have; lets `explain` work where the data is not."""
    val_images: PositiveInt | None = None
    """Images the validation split must have."""
    exif_orientation: Literal["ignore", "apply"] = "ignore"
    """Whether images that cameras have stored turned are put upright, as their EXIF orientation
    says; those that are left as they are stored are counted and reported."""
    grey_bits: GreyBits = 16
    """Bits of the values of grey images that are stored with 16 or 32, of which the upper 8 are
    taken: 16 for 0 to 65535, 12 for 0 to 4095, 8 for 0 to 255. Images whose values do not fit are
    counted and reported."""
    options: object = NoOptions()

    @property
    def decoding(self) -> Decoding:
        """How encoded images become pixels; checkpoints and artifacts keep it."""
        return Decoding(exif_orientation=self.exif_orientation, grey_bits=self.grey_bits)


@options
class TransformsSection:
    """From a decoded image to the network's input."""

    train: list[Transform] = field(default_factory=list)
    """Steps for training images, in order; the last size must be fixed."""
    eval: list[Transform] = field(default_factory=list)
    """Steps for evaluation and prediction images."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Mean of each channel on pixels scaled to [0, 1], subtracted on the device."""
    std: tuple[Annotated[float, Gt(0)], Annotated[float, Gt(0)], Annotated[float, Gt(0)]] = (
        0.229,
        0.224,
        0.225,
    )
    """Standard deviation of each channel, divided by on the device."""


@options
class LoaderSection:
    """How images are read; in core's loader, threads, batches and bytes change no result."""

    workers: Annotated[int, Gt(0), Le(1024)] = 2
    """Threads that read, decode and augment."""
    prefetch_batches: Annotated[int, Gt(0), Le(1024)] = 2
    """Batches that are prepared ahead."""
    cache_gib: Annotated[float, Ge(0), Le(100_000)] = 0.0
    """Memory for decoded images of each split, in GiB; images that fit are decoded once."""
    damaged_images: Literal["stop", "skip"] = "stop"
    """What to do with an image that cannot be decoded. Skipped ones are counted and listed; in
    training, others of their batch take their place, in evaluation they are left out."""
    max_damaged: Annotated[int, Ge(0)] = 0
    """Skipped images above which the run stops all the same, in any of its processes."""


@options
class ModelSection:
    """The classifier."""

    name: str
    """A model entry of the framework, such as `resnet50`."""
    weights: str | None = None
    """File or checkpoint to start from, in place of fresh weights. The names of the classes come
    with a checkpoint, and must be those of the data; another order is followed by name."""
    weights_key: str | None = None
    """Which of several sets of tensors in `weights` to take: `ema`, `raw`, or the key or the prefix
    that it has in the file, such as `state_dict_ema` or `student`. Of weights and their average,
    the average is taken if this is left out."""
    fresh_classifier: bool = False
    """Leave the last layer, and that of each auxiliary head, fresh, to train it for other classes
    than those of `weights`."""
    options: object = NoOptions()


@options
class LossSection:
    """Softmax cross-entropy."""

    label_smoothing: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Probability mass taken from the true class."""
    smooth_over: Literal["all", "others"] = "all"
    """Spread the mass over all K classes (PyTorch), or over the K-1 other classes."""
    aux_weight: Annotated[float, Ge(0)] = 0.3
    """Weight of each auxiliary head's loss, for models that have such heads."""


@options
class OptimizerSection:
    """The update rule."""

    name: str
    """An optimizer entry of the framework, such as `sgd`."""
    learning_rate: Annotated[float, Gt(0)]
    """Peak learning rate, for the global batch of this recipe."""
    weight_decay: Annotated[float, Ge(0)] = 0.0
    """Decay of the weights, as the optimizer defines it."""
    no_weight_decay: list[str] = field(default_factory=list)
    """Parameters without decay: `bias`, `norm`, or name patterns such as `*.bn*.weight`."""
    options: object = NoOptions()


@options
class ScheduleSection:
    """The learning rate over the run, relative to its peak."""

    name: Literal["constant", "step", "multistep", "cosine", "linear"] = "constant"
    """Shape of the decay."""
    update: Literal["step", "epoch"] = "step"
    """Recompute the decay at every step, or keep it over an epoch."""
    warmup_epochs: Annotated[int, Ge(0)] = 0
    """Epochs before the decay is in force."""
    warmup: Literal["linear", "from_zero", "constant"] = "linear"
    """`linear` ends at the peak, (u+1)/W; `from_zero` starts at exactly zero, u/W; `constant`
    holds `warmup_factor` times the peak."""
    warmup_update: Literal["step", "epoch"] = "step"
    """Whether u and W count steps or epochs."""
    warmup_factor: Fraction = 0.1
    """For a constant warm-up."""
    gamma: Annotated[float, Gt(0), Le(1)] = 0.1
    """Factor of each decay of `step` and `multistep`."""
    every_epochs: Annotated[float, Gt(0)] = 30
    """Distance between decays of `step`, in epochs; fractions are rounded down to steps."""
    milestones: list[PositiveInt] = field(default_factory=list)
    """Epochs at which `multistep` decays."""
    decay_from: Literal["warmup_end", "start"] = "warmup_end"
    """Where the progress of `cosine` and `linear` counts from."""
    decay_epochs: PositiveInt | None = None
    """Epochs over which `cosine` and `linear` decay; the rest of the run when left out."""
    min_learning_rate: Annotated[float, Ge(0)] = 0.0
    """Where `cosine` ends."""


@options
class TrainSection:
    """How long, and in what batches."""

    epochs: Annotated[int, Gt(0), Le(100_000)]
    """Passes over the training images."""
    batch_size: PositiveInt
    """Images of one optimizer step, over all devices together."""
    micro_batch_size: PositiveInt | None = None
    """Images in one pass on one device; smaller than the device's share of the batch means that
    gradients are accumulated over several passes."""
    last_batch: Literal["drop", "keep", "fill"] = "drop"
    """What happens to images that do not fill a batch at the end of an epoch: `keep` makes a
    smaller batch of them, which the devices must share evenly; `fill` adds the epoch's first images
    until they can, at most one for each other device (torch's `DistributedSampler`)."""
    max_steps_per_epoch: PositiveInt | None = None
    """Steps after which an epoch ends early."""
    clip_grad_norm: Annotated[float, Gt(0)] | None = None
    """Largest global L2 norm of the gradients."""
    ema_decay: Annotated[float, Gt(0), Lt(1)] | None = None
    """Decay of an exponential moving average of the weights, which is then what is evaluated."""
    target_top1: Fraction | None = None
    """Stop when evaluation reaches this accuracy."""
    log_every_steps: PositiveInt = 20
    """Steps between two log lines; the loss is read from the device only then, and several
    devices then agree whether to stop."""
    sync_batch_norm: bool = False
    """Take the statistics of batch normalisation over the images of a pass on all devices, in
    place of those of each device."""


@options
class DistributedSection:
    """Several devices, with one process each; nothing here but `min_devices` changes a result."""

    timeout_s: Annotated[float, Gt(0)] = 1800.0
    """Seconds without progress after which a process counts as hung, which ends the attempt; more
    than compiling, a checkpoint or an exchange takes."""
    rendezvous_s: Annotated[float, Gt(0)] = 600.0
    """Seconds in which the processes of all machines must have met."""
    machine_timeout_s: Annotated[float, Gt(0)] = 60.0
    """Seconds without a sign of life after which a machine is lost; more than a shared file system
    takes to show on one machine what another has written."""
    restarts: Annotated[int, Ge(0)] = 0
    """Times that the processes are started again, from the last checkpoint, after one of them was
    lost: it was killed, crashed or hung, or its machine is gone."""
    min_devices: PositiveInt | None = None
    """Smallest number of devices to go on with, without those of lost processes; left out, a
    restart is on as many devices as before. On fewer devices a pass may have another number of
    images, and so other statistics of batch normalisation."""
    bind_cores: bool = False
    """Keep each process to its own share of the machine's cores, where `runner` starts them."""


@options
class EvalSection:
    """Evaluation, always over the whole validation split."""

    batch_size: PositiveInt = 64
    """Images in one pass on one device."""
    every_epochs: PositiveInt = 1
    """Epochs between evaluations; the last epoch is always evaluated."""
    start_epoch: Annotated[int, Ge(0)] = 0
    """Finished epochs before the first evaluation."""


@options
class CheckpointSection:
    """What is kept on disk."""

    every_epochs: PositiveInt = 1
    """Epochs between checkpoints; the last epoch is always saved, and with `keep_best` each that
    is the best so far."""
    every_steps: PositiveInt | None = None
    """Steps between further checkpoints inside an epoch."""
    keep: PositiveInt = 2
    """Most recent checkpoints that are kept."""
    keep_best: bool = True
    """Keep the checkpoint with the best top-1 accuracy as well."""


@options
class ExportSection:
    """A file to write from the finished model."""

    name: str
    """An exporter entry of the framework, such as `onnx`."""
    framework: str | None = None
    """The only framework that writes it, in a recipe that several can run; left out with
    another."""
    verify_images: PositiveInt = 16
    """Validation images stored beside the artifact, with the logits it must reproduce."""
    tolerance: Annotated[float, Gt(0)] | None = None
    """Largest difference to the live model's logits, relative to their largest magnitude; left
    out, the exporter's own, which is 1e-4 unless it changes the precision, or 0.05 and 0.1 where
    the live model computes in fp16 and bf16 itself."""
    min_agreement: Fraction | None = None
    """Smallest share of images for which the artifact must choose the same class as the model it
    was made from; left out, the exporter's own, which int8, int16 and fp16 have."""
    evaluate: bool = True
    """Evaluate the artifact over the whole validation split; one that was converted from another,
    such as a quantised one, beside that other."""
    max_top1_drop: Fraction | None = None
    """Largest top-1 accuracy that a conversion may lose; more is an error."""
    options: object = NoOptions()


@options
class LoggerSection:
    """A further log in another form, written into the run folder."""

    name: str
    """A logger entry, such as `dllogger`."""
    options: object = NoOptions()


@options
class ThroughputSection:
    """A further throughput, as another system defines it: images of a step / mean step time."""

    name: Annotated[str, MinLen(1)]
    """The metric is `throughput.<name>`."""
    skip_steps: Annotated[int, Ge(0)] = 0
    """Steps that are left out at the start, as warm-up."""
    per: Literal["epoch", "run"] = "epoch"
    """Whether they are left out of every epoch, whose rates are then averaged, or once."""


@options
class ReferenceSection:
    """A published figure that reports print beside the measured one."""

    metric: str
    """Such as `val.top1` or `train.images_per_s`."""
    value: float
    """The published figure, in the metric's unit: accuracies are shares of 1."""
    source: Annotated[str, MinLen(1)]
    """Where the figure was published."""
    hardware: str | None = None
    """What it was measured on."""
    note: str | None = None
    """What else is worth knowing."""


@options
class Recipe:
    """One experiment: everything that decides its result."""

    summary: str
    """One line for lists."""
    framework: FrameworkSection
    device: DeviceSection
    precision: PrecisionSection = PrecisionSection()
    seed: Annotated[int, Ge(0), Le(2**63 - 1)] = 1
    """Seed of fresh weights, sample order and augmentation."""
    dataset: DatasetSection
    transforms: TransformsSection
    loader: LoaderSection = LoaderSection()
    model: ModelSection
    loss: LossSection = LossSection()
    optimizer: OptimizerSection | None = None
    schedule: ScheduleSection = ScheduleSection()
    train: TrainSection | None = None
    distributed: DistributedSection = DistributedSection()
    eval: EvalSection = EvalSection()
    checkpoint: CheckpointSection = CheckpointSection()
    export: list[ExportSection] = field(default_factory=list)
    loggers: list[LoggerSection] = field(default_factory=list)
    throughput: list[ThroughputSection] = field(default_factory=list)
    reference: list[ReferenceSection] = field(default_factory=list)

"""What plugins hand to core: one frozen record per thing a recipe can name."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Literal, final

from runner.data.decode_options import AS_STORED, unreported
from runner.errors import PluginError
from runner.options import NoOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import Any

    import numpy as np
    from numpy.typing import NDArray

    from runner.contracts import (
        ArtifactInfo,
        Availability,
        DamagedImage,
        Dataset,
        Device,
        Engine,
        Group,
        Loader,
        Predictor,
        RunInfo,
        RunLogger,
        StoredWeights,
    )
    from runner.data.decode_options import Decoding, Notice
    from runner.data.transforms.options import Transform
    from runner.distributed.machines import Machines
    from runner.recipe.schema import LoaderSection, LossSection, PrecisionSection

# The options that core passes to these callables are an instance of the entry's own `config`
# class, which only the plugin knows: hence `Any` in their types.


@final
@dataclass(frozen=True, slots=True)
class Lazy:
    """A function, by name, whose module is imported when it is called for the first time."""

    target: str
    """``package.module:name``."""
    place: str = ""
    """The entry, plugin and field that it stands in; core fills it in."""

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Call the function.

        Raises:
            PluginError: There is no such function.
        """
        return self.resolve()(*arguments, **named)

    def resolve(self) -> Callable[..., Any]:
        """Import the module and return the function.

        Raises:
            PluginError: There is no such module, or nothing of this name in it.
        """
        name, _, attribute = self.target.partition(":")
        try:
            module = import_module(name)
        except ModuleNotFoundError as error:
            if not f"{name}.".startswith(f"{error.name}."):
                raise  # it is there, and imports one that is not
            raise self._error(f"there is no module {error.name}") from error
        found: Callable[..., Any] | None = getattr(module, attribute, None)
        if found is not None:
            return found
        from difflib import get_close_matches

        close = get_close_matches(attribute, vars(module), n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise self._error(f"{module.__file__} has no {attribute!r}{hint}")

    def _error(self, reason: str) -> PluginError:
        where = f"{self.place} is " if self.place else ""
        return PluginError(
            f"{where}lazy({self.target!r}), and {reason}; expected an installed module and the "
            "name of a function in it"
        )


def lazy(target: str) -> Lazy:
    """Name a function, as in ``build=lazy("my_package.net:build")``; its module is imported late.

    Raises:
        ValueError: It is not of the form ``package.module:name``.
    """
    if not re.fullmatch(r"\w+(\.\w+)*:\w+", target):
        raise ValueError(f"lazy({target!r}): expected 'package.module:name'")
    return Lazy(target)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What all entries have.

    A plugin's module may say some of it once for all of its entries: in ``RUNNER_REQUIRES``, to
    which an entry adds its ``requires``, ``RUNNER_INSTALL`` and ``RUNNER_FRAMEWORK``.
    """

    name: str
    """The name that recipes use."""
    summary: str
    """One line for lists."""
    config: type = NoOptions
    """The class, made with ``runner.options``, of this entry's own keys in a recipe."""
    requires: tuple[str, ...] = ()
    """Modules that must be installed, such as ``("torch", "torchvision")``; never imported."""
    install: str = ""
    """The command that installs them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchRequest:
    """What is to be started on the devices of this machine."""

    count: int
    """Processes on all machines together, one per device."""
    local_count: int
    """Processes on this machine."""
    arguments: Sequence[str]
    """Arguments of ``runner`` in each process."""
    device: str
    """Name of the device entry."""
    device_options: object
    framework_options: object
    machines: Machines
    rendezvous_s: float
    """Seconds in which the processes of all machines must have met."""
    log_folder: Path
    """Where the launcher keeps what each process prints, in a file of its own for each process."""
    cards: Sequence[int] = ()
    """Cards of this machine that the user has chosen; empty if any will do. Core sets the variable
    that makes the processes see these alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What a launcher tells a process of its place among the others."""

    rank: int | None = None
    """Number of this process, from 0; ``None`` if it only helps the others to meet, and where it is
    not told before they have met."""
    world_size: int = 0
    """Processes on all machines together; 0 where a whole machine is meant."""
    local_rank: int | None = None
    """Number of this process among those of its machine; ``None`` as for ``rank``."""
    local_world_size: int | None = None
    """Processes on this machine; ``None`` where it is not told."""
    node_rank: int = 0
    """Number of this machine, from 0."""
    nodes: int | None = None
    """Number of machines; ``None`` where it is not told."""
    host: str = ""
    """Name or address of the machine where all meet."""
    port: int | None = None
    """Port there."""
    interface: str = ""
    """Network interface towards the other machines; "" if it is not known."""
    whole_machine: bool = False
    """The launcher started one process on each machine, such as a pod, which is to start those for
    its devices: what its variables call a rank is the number of a machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """The job that a process belongs to, of a launcher that starts its processes again."""

    job: str
    """What identifies the job, the same in every attempt and on every machine."""
    number: int | None = None
    """Attempts before this one, where the launcher counts them. Not every machine need know of
    each, and when a machine joins or leaves, processes may be started again uncounted."""
    known_by: Literal["id", "launcher", "count"] = "id"
    """What tells a further attempt from a new run of the same ``job``. ``id``: nothing more is
    needed, since each job has its own. ``launcher``: the same process of a launcher has started
    both, or it counts attempts. ``count``: only a ``number`` above 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command line, and the environment variables that it adds or does without."""

    arguments: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    unset: Sequence[str] = ()
    """Variables that it must not see, such as those in which a launcher would read options."""
    host: str = ""
    """Address of the machine that it is for; this one if empty."""
    interrupted: bool = True
    """Interrupt the launcher when ``runner`` is killed. Not one that would kill its processes then:
    they notice it themselves, and save."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSpec:
    """What a framework needs to build an engine; the plan derives it from the recipe."""

    model: ModelEntry
    model_options: object
    num_classes: int
    image_size: tuple[int, int]
    """Height and width of evaluation images, in pixels."""
    mean: tuple[float, float, float]
    """Mean of each channel, on pixels scaled to [0, 1]."""
    std: tuple[float, float, float]
    precision: PrecisionSection
    framework_options: object
    seed: int
    loss: LossSection
    optimizer: OptimizerEntry | None
    """``None`` when the engine only evaluates."""
    optimizer_options: object | None
    weight_decay: float
    no_weight_decay: tuple[str, ...]
    """Kinds of parameters (``bias``, ``norm``) and name patterns that are not decayed."""
    micro_batch_size: int
    """Images in one forward pass on one device; a step's batch is split into these."""
    clip_grad_norm: float | None
    ema_decay: float | None
    sync_batch_norm: bool = False
    """Take the statistics of batch normalisation over the images of a pass on all devices."""
    group: Group | None = None
    """The processes that train together; gradients are averaged over them. ``None`` when this
    process is alone. ``micro_batch_size`` is this process's share of a pass."""
    smallest_pass: tuple[int, int, int] | None = None
    """Images, height and width of the smallest pass of training; ``None`` where it is not known.
    An engine refuses when it is opened, rather than later, a size that the model does not take, and
    one image of which batch normalisation has a single value per channel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameworkEntry(Entry):
    """A framework, named under ``framework:``."""

    open: Callable[[EngineSpec, Device], Engine]
    """Build model, loss and optimizer on a device that belongs to this framework."""
    build_module: Callable[[EngineSpec, Mapping[str, NDArray[Any]]], Any] | None = None
    """Build the framework's own model in fp32 and in evaluation mode, with weights of canonical
    names, for programs that use it without an engine (``runner.load_model``)."""
    read_weights: Callable[[Path], StoredWeights | Mapping[str, NDArray[Any]]] | None = None
    """Read a foreign weights file: the sets of tensors in it, or one of canonical names. Nothing in
    a file may be executed. ``None`` if there is no such format."""
    weight_suffixes: tuple[str, ...] = ()
    """File endings that ``read_weights`` understands, such as ``.pth``."""
    recognises_weights: Callable[[Path], bool] | None = None
    """Say whether a file is of the format by its content, whatever it is called; imports
    nothing heavy."""
    translate_weights: Callable[[StoredWeights], StoredWeights | None] | None = None
    """Give tensors in the framework's own words canonical names, as they may be in a file that any
    framework reads, such as safetensors; ``None`` if they are in other words. Imports nothing
    heavy."""
    launch: Callable[[LaunchRequest], Sequence[Command]] | None = None
    """Return what starts ``runner`` on the devices of this machine: one command of the framework's
    own launcher, or one for each process when the user starts them. It ends with ``runner`` and the
    arguments of the request. Imports nothing. Core starts it again when a process was lost, so the
    launcher itself restarts nothing."""
    join: Callable[[Device, float], Group] | None = None
    """Meet the other processes, once the device is open; ``None`` if the framework trains on one
    device only. Everything that is written or printed comes after it. An exchange that another
    process does not take part in for as many seconds as the second argument fails."""
    rank_environment: Callable[[Place], Mapping[str, str]] | None = None
    """Return the environment that makes a process a rank, where a batch system has started one
    process for each device; ``None`` if the framework needs its own launcher."""
    takes_signals: bool = False
    """The framework's libraries install signal handlers of their own, so that Python's are not
    called; the run then blocks the signals before the framework is imported, and waits for them
    in a thread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LauncherEntry(Entry):
    """What starts processes on one machine or several, and tells each its place in variables.

    Both functions take the environment, and return ``None`` where it is not this launcher's. They
    import nothing, and raise a ``RunnerError`` where it is, and is wrong.
    """

    framework: str = "any"
    """``any``, or the one framework whose processes it starts."""
    place: Callable[[Mapping[str, str]], Place | None]
    """Return the place of this process, or of this machine where it starts one process on each."""
    attempt: Callable[[Mapping[str, str]], Attempt | None] | None = None
    """Return the job, if processes are started again; core continues the run that an earlier
    attempt began."""
    shared_variables: bool = False
    """Others set its variables too, so it is asked after launchers that know their own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceEntry(Entry):
    """A device of one framework, named under ``device:``."""

    framework: str = ""
    """The framework that it belongs to."""
    probe: Callable[[], Availability]
    """Say whether the device is there. May import the framework, must not raise."""
    open: Callable[[Any], Device]
    """Open the device for this process, given its options.

    Raises ``DeviceError`` when it is not there or cannot do what the options ask.
    """
    visible_devices: str | None = None
    """Environment variable that chooses physical cards, such as ``CUDA_VISIBLE_DEVICES``."""
    card_environment: Mapping[str, str] = field(default_factory=dict)
    """Further variables that make its numbers those that the vendor's tools show."""
    interface_variables: tuple[str, ...] = ()
    """Environment variables that tell the device's library of collective operations the network
    interface towards other machines, such as ``NCCL_SOCKET_IFNAME``. Core sets them where there
    are several machines, unless the user has."""
    address_variables: tuple[str, ...] = ()
    """The same for the address of this machine towards others."""
    is_host: bool = False
    """The machine's own processor, which is always there: named to users whose device is not."""
    refused_formats: Mapping[str, str] = field(default_factory=dict)
    """Values of ``precision.compute`` that it does not compute in, and why; a plan refuses them."""
    slow_formats: Mapping[str, str] = field(default_factory=dict)
    """Values of ``precision.compute`` in which it computes many times slower than in fp32, and why;
    users are told before they wait for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderRequest:
    """What a loader reads, and how; the arguments of ``ImageLoader``."""

    dataset: Dataset
    options: Any
    """The dataset's options."""
    transforms: Sequence[Transform]
    section: LoaderSection
    seed: int
    report_damaged: Callable[[DamagedImage], None]
    """To be called once for every image that is skipped."""
    decoding: Decoding = AS_STORED
    """How encoded images become pixels; core refuses others than the default where a dataset has
    a loader of its own."""
    report_noticed: Callable[[Notice], None] = unreported
    """To be called with what decoding notices; ``runner.data.decode_options.Noticed`` does it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetEntry(Entry):
    """A source of images, named under ``dataset:``."""

    framework: str = "any"
    """``any``, or the one framework that can read it."""
    open: Callable[[Any, str], Dataset]
    """Open the split ``train`` or ``val``, given the options."""
    open_loader: Callable[[LoaderRequest], Loader] | None = None
    """Read the split with the framework's own pipeline; core's ``ImageLoader`` when ``None``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelEntry(Entry):
    """An image classifier, named under ``model:``."""

    framework: str = ""
    """The framework that it belongs to."""
    build: Callable[[Any, int], Any]
    """Build the framework's model with fresh weights, given the options and the classes."""
    parameters: int | None = None
    """Trainable parameters with 1,000 classes, for estimates and as a check."""
    training_heads: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Heads that only training uses: the option that adds some, and how the names of their tensors
    begin. Evaluation and export do without them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerEntry(Entry):
    """An update rule, named under ``optimizer:``."""

    framework: str = ""
    """The framework that it belongs to."""
    build: Callable[[Any, Any, float], Any]
    """Build the framework's optimizer, given parameter groups, options and a learning rate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversionRequest:
    """What a converter works on: an artifact that an exporter has just written."""

    source: Path
    """Folder of the artifact; what is to be kept of it is copied."""
    info: ArtifactInfo
    """What the exporter tells about it."""
    spec: EngineSpec
    transforms: Sequence[Transform]
    """Steps from a decoded image to the network's input."""
    options: Any
    calibration: Callable[[int], Iterator[NDArray[np.float32]]]
    """Yield images of the validation split, at most as many as asked for, normalised, in batches
    ``[B, C, H, W]`` of ``eval.batch_size``. However few, they are spread over the classes, and the
    same ones come every time."""
    folder: Path
    """Where to write."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportPlan:
    """What is known of an export before training."""

    device: str
    """Name of the device entry."""
    options: Any
    """An instance of the exporter's ``config`` class."""
    transforms: Sequence[Transform]
    """Steps from a decoded image to the network's input."""
    val_images: int | None = None
    """Images of the validation split; ``None`` as long as the data is not open."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportEntry(Entry):
    """A way to make a file of a model, named under ``export:``; an exporter or a converter."""

    framework: str = ""
    """The framework that it belongs to."""
    tolerance: float = 1e-4
    """Largest difference to the logits of a live model that computes in fp32, relative to their
    largest magnitude, where the recipe does not say."""
    min_agreement: float = 0.0
    """Smallest share of images for which the file must choose the class that the live model
    chooses, where the recipe does not say; 0 where the tolerance alone decides. Over the whole
    validation split, a conversion is compared with its source."""
    refuses: Callable[[ExportPlan], str] | None = None
    """Return why it cannot work as asked, or an empty text. Called before training, so that a run
    does not end with what was known at its start, and again once the data is open; imports no
    framework."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExporterEntry(ExportEntry):
    """A way to write a model to a file."""

    export: Callable[[Engine, EngineSpec, Any, Path], ArtifactInfo]
    """Write the engine's evaluation model into a folder, given the spec and the options."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConverterEntry(ExportEntry):
    """A way to make another file from what an exporter writes."""

    framework: str = "any"
    """``any``, or the one framework whose exports it converts."""
    source: str
    """Name of the framework's exporter whose artifact it starts from, such as ``onnx``."""
    source_options: Callable[[Any], Mapping[str, Any]] | None = None
    """Return what that exporter is asked for, by its keys, given this entry's options; its
    defaults when ``None``."""
    convert: Callable[[ConversionRequest], ArtifactInfo]
    """Write the other artifact."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictorEntry(Entry):
    """A runtime that executes exported models."""

    formats: tuple[str, ...]
    """Artifact formats that it runs."""
    load: Callable[[Path, ArtifactInfo], Predictor]
    """Open the file of an artifact that is in a folder."""
    executes: Callable[[Path, ArtifactInfo], str] | None = None
    """Return what in the artifact ``load`` or ``predict`` would execute, such as ``a shared
    library``, or an empty text; it is asked first and reads the file as data. The user must then
    say that the artifact is trusted. ``None`` where files of these formats are always data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggerEntry(Entry):
    """Somebody who learns what happens in a run, such as another form of its log.

    A recipe names it under ``loggers:``, unless it is always on.
    """

    open: Callable[[RunInfo, Any], RunLogger]
    """Start to write, given the run and the options; appends where the run continues."""
    always: bool = False
    """Whether every run opens it, with the defaults of its options. It never ends a run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Translation:
    """What a command line of another program becomes here."""

    command: str
    """The command of ``runner`` that does it: ``run``, ``train``, ``eval``, ``bench``, ..."""
    recipe: str
    """Name of the recipe to start from."""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """Values (JSON) that differ from it, by dotted key, such as ``train.epochs``."""
    arguments: Sequence[str] = ()
    """Further arguments of the command."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Environment variables that the recipe reads, such as ``IMAGENET``."""
    notes: Sequence[str] = ()
    """One line for each option that had no effect there, means something else here, or has no
    counterpart."""
    assumed: Sequence[str] = ()
    """What the command line does not say and is taken for granted, such as the program's own
    defaults that decide what is trained, on what, for how long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImporterEntry(Entry):
    """Understands command lines of a program that a recipe replaces."""

    recognises: Callable[[Sequence[str]], bool]
    """Say whether a command line, split as a shell does, is one of its program's."""
    translate: Callable[[Sequence[str]], Translation]
    """Translate it. Raises ``UsageError`` for an unknown or incomplete one."""

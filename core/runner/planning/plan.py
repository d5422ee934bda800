"""From a recipe to a plan: everything that can be decided before a framework is imported."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

from runner.data.decode_options import AS_STORED
from runner.data.size_limits import check_batches, check_threads
from runner.data.transforms.options import fixed_size, largest_size, output_size
from runner.entries import (
    ConverterEntry,
    DatasetEntry,
    DeviceEntry,
    EngineSpec,
    ExportEntry,
    ExportPlan,
    FrameworkEntry,
    LauncherEntry,
    LoggerEntry,
    ModelEntry,
    OptimizerEntry,
)
from runner.errors import (
    DataError,
    DeviceError,
    MissingDeviceError,
    PluginError,
    RecipeError,
    RunnerError,
    UsageError,
)
from runner.framework.device import format_refused
from runner.planning.schedules import learning_rate
from runner.planning.sources import find_source
from runner.plugins.guards import with_checked_images
from runner.plugins.returns import building, calling, checked_dataset, origin
from runner.recipe.schema import DistributedSection
from runner.terminal.display import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from runner.contracts import Dataset, Group
    from runner.data.decode_options import Decoding
    from runner.entries import Entry
    from runner.errors import Problem
    from runner.planning.sources import Source
    from runner.plugins.registry import Registered, Registry
    from runner.recipe.schema import Recipe, TrainSection, TransformsSection


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A recipe with every name resolved and every batch split."""

    name: str
    """Name of the recipe; the run folder carries it."""
    recipe: Recipe
    framework: Registered[FrameworkEntry]
    launchers: tuple[LauncherEntry, ...]
    """Those that may start its processes."""
    device: Registered[DeviceEntry]
    dataset: Registered[DatasetEntry]
    model: Registered[ModelEntry]
    optimizer: Registered[OptimizerEntry] | None
    exporters: tuple[Registered[ExportEntry], ...]
    loggers: tuple[Registered[LoggerEntry], ...]
    """Those of the recipe."""
    always_loggers: tuple[Registered[LoggerEntry], ...]
    """Those that are always on, can be used here, and are not named in the recipe."""
    sources: tuple[Source | None, ...]
    """What each of them converts; ``None`` for those that export the model itself."""
    image_size: tuple[int, int]
    """Height and width of evaluation images."""
    train_batch: BatchSplit | None
    smoke: Mapping[str, int]
    """Images of each split in a smoke test: a few steps, of which nothing but their end is
    expected. Empty in a real run."""
    synthetic_because: str
    """Why a smoke test has synthetic images; "" if it has the recipe's own, and in a real run."""
    host_device: str | None
    """Another device entry of the framework that is there on every machine."""
    unset: tuple[Problem, ...]
    """Environment variables that the recipe names and that have no value."""
    remarks: tuple[str, ...] = ()
    """What is worth knowing of how the recipe was written; ``notes`` has it with the rest."""

    def entries(self, *, training: bool, exporting: bool) -> tuple[Registered[Entry], ...]:
        """Return what the plan uses, with the optimizer and the exporters where they are used."""
        used: list[Registered[Entry]] = [
            self.framework,
            self.device,
            self.dataset,
            self.model,
            *self.loggers,
            *self.always_loggers,
        ]
        if training and self.optimizer:
            used.append(self.optimizer)
        if exporting:
            used += self.exporters
            for source in self.sources:
                if source and source.exporter not in used:
                    used.append(source.exporter)
        return tuple(used)

    @property
    def framework_entry(self) -> FrameworkEntry:
        """The framework."""
        return self.framework.entry

    @property
    def device_entry(self) -> DeviceEntry:
        """The device."""
        return self.device.entry

    @property
    def dataset_entry(self) -> DatasetEntry:
        """The dataset."""
        return self.dataset.entry

    @property
    def model_entry(self) -> ModelEntry:
        """The model."""
        return self.model.entry

    @property
    def optimizer_entry(self) -> OptimizerEntry | None:
        """The optimizer, if the recipe trains."""
        return self.optimizer.entry if self.optimizer else None

    @property
    def exporter_entries(self) -> tuple[ExportEntry, ...]:
        """One exporter or converter for each item under ``export:``."""
        return tuple(item.entry for item in self.exporters)

    @property
    def train(self) -> TrainSection:
        """The training section.

        Raises:
            UsageError: The recipe has none.
        """
        if self.recipe.train is None:
            raise UsageError(f"recipe {self.name!r} has no `train` section: it can only evaluate")
        return self.recipe.train

    def steps_per_epoch(self, train_images: int) -> int:
        """Return the optimizer steps of an epoch.

        Raises:
            DataError: There are fewer images than one batch.
        """
        section = self.train
        full, rest = divmod(train_images, section.batch_size)
        steps = full + (1 if rest and section.last_batch != "drop" else 0)
        if steps == 0:
            raise DataError(
                f"an epoch has no step: {counted(train_images, 'training image')} cannot fill one "
                f"batch of {section.batch_size}; lower train.batch_size, or set train.last_batch: "
                "keep"
            )
        return min(steps, section.max_steps_per_epoch or steps)

    def check_shares(self, train_images: int) -> None:
        """Refuse a last batch that several devices cannot share evenly.

        Gradients are averaged over the devices, so images of a smaller share would count for more.

        Raises:
            UsageError: The last batch of an epoch is such a batch.
        """
        count = self.recipe.device.count
        if self.steps_per_epoch(train_images) <= train_images // self.train.batch_size:
            return
        rest = train_images % self.train.batch_size
        if self.train.last_batch == "keep" and rest % count:
            raise UsageError(
                f"the last batch of an epoch has {counted(rest, 'image')}, which {count} devices "
                "cannot share evenly; set train.last_batch: drop, or fill, which repeats some"
            )

    def check_memory(self, split: str, images: int) -> None:
        """Refuse images and batches of a split that the memory of this machine cannot hold.

        Args:
            split: ``train`` or ``val``.
            images: How many it has.

        Raises:
            DataError: They take more than there is.
        """
        recipe, count = self.recipe, self.recipe.device.count
        train = split == "train"
        transforms = recipe.transforms.train if train else recipe.transforms.eval
        batch = self.train.batch_size // count if train else recipe.eval.batch_size
        share = -(-images // count)  # of one process
        ahead = 1 if self.dataset_entry.open_loader else recipe.loader.prefetch_batches + 1
        check_batches(min(batch, share), min(ahead, -(-share // batch)), fixed_size(transforms))
        check_threads(min(recipe.loader.workers, share), largest_size(transforms))

    def smallest_pass(self, train_images: int) -> int:
        """Return the images of the smallest pass of an epoch, whose statistics belong together.

        Raises:
            DataError: There are fewer images than one batch.
        """
        batch, section = self.train_batch, self.train
        assert batch is not None, "the plan trains"
        steps, full = self.steps_per_epoch(train_images), train_images // section.batch_size
        rest = train_images - full * section.batch_size
        share = -(-rest // batch.devices) if steps > full else 0
        last = share % batch.micro or min(share, batch.micro)
        together = batch.devices if section.sync_batch_norm else 1
        return (min(last, batch.micro) if last else batch.micro) * together

    def with_devices(self, count: int) -> Plan:
        """Return the same for another number of devices.

        Raises:
            UsageError: They cannot share the batch.
        """
        recipe = replace(self.recipe, device=replace(self.recipe.device, count=count))
        return replace(self, recipe=recipe, train_batch=_split_batch(recipe))

    def learning_rate(self, step: int, steps_per_epoch: int) -> float:
        """Return the learning rate of optimizer step ``step``."""
        assert self.recipe.optimizer is not None, "the loader demands an optimizer with train"
        return learning_rate(
            self.recipe.schedule,
            self.recipe.optimizer.learning_rate,
            step,
            epochs=self.train.epochs,
            steps_per_epoch=steps_per_epoch,
        )

    def engine_spec(
        self,
        num_classes: int,
        *,
        training: bool,
        group: Group | None = None,
        train_images: int | None = None,
    ) -> EngineSpec:
        """Return what the framework needs to build the engine."""
        recipe = self.recipe
        section = recipe.train if training else None
        optimizer = recipe.optimizer if training else None
        return EngineSpec(
            model=replace(self.model_entry, build=building(self.model)),
            model_options=recipe.model.options,
            num_classes=num_classes,
            image_size=self.image_size,
            mean=recipe.transforms.mean,
            std=recipe.transforms.std,
            precision=recipe.precision,
            framework_options=recipe.framework.options,
            seed=recipe.seed,
            loss=recipe.loss,
            optimizer=self._optimizer_of_plugin() if training else None,
            optimizer_options=optimizer.options if optimizer else None,
            weight_decay=optimizer.weight_decay if optimizer else 0.0,
            no_weight_decay=tuple(optimizer.no_weight_decay) if optimizer else (),
            micro_batch_size=(
                self.train_batch.micro if self.train_batch else recipe.eval.batch_size
            ),
            clip_grad_norm=section.clip_grad_norm if section else None,
            ema_decay=section.ema_decay if section else None,
            sync_batch_norm=section.sync_batch_norm if section else False,
            group=group,
            smallest_pass=(
                (self.smallest_pass(train_images), *fixed_size(recipe.transforms.train))
                if training and train_images
                else None
            ),
        )

    def _optimizer_of_plugin(self) -> OptimizerEntry | None:
        entry, item = self.optimizer_entry, self.optimizer
        return replace(entry, build=building(item)) if entry and item else None

    def check_complete(self) -> None:
        """Refuse a recipe with environment variables that have no value.

        Raises:
            RecipeError: It has such variables; all are listed.
        """
        if self.unset:
            raise RecipeError(self.unset)

    def open_split(self, split: str) -> Dataset:
        """Open one split and check it against what the recipe declares.

        Raises:
            RecipeError: An environment variable that the recipe names has no value.
            PluginError: Something that reads the data is not installed.
            DataError: The data is missing, or is not what the recipe says.
        """
        dataset = self.look_at(split)
        wrong = self.objection(split, dataset)
        if wrong:
            raise DataError(wrong)
        return dataset

    def look_at(self, split: str) -> Dataset:
        """Open one split, whatever the recipe declares.

        Raises:
            RecipeError: An environment variable that the recipe names has no value.
            PluginError: Something that reads the data is not installed.
            DataError: The data is missing, or cannot be trained with.
        """
        self.check_complete()
        _check_installed(self.dataset)
        source = f"{origin(self.dataset)}, split {split!r}"
        with calling(self.dataset, f"open() of the split {split!r}"):
            options = self.recipe.dataset.options
            dataset = checked_dataset(self.dataset_entry.open(options, split), source)
        if self.dataset_entry.open_loader is None:
            dataset = with_checked_images(dataset, source)
        if self.smoke:
            from runner.data.subset import Few

            dataset = Few(dataset, self.smoke[split])
        return dataset

    def objection(self, split: str, dataset: Dataset) -> str:
        """Say how a split is not what the recipe declares; "" if it is."""
        from runner.data.classes import only_one  # NumPy comes with it

        section = self.recipe.dataset
        declared = section.train_images if split == "train" else section.val_images
        wrong = [
            (what, expected, found)
            for what, expected, found in (
                (f"{split}_images", declared, len(dataset.labels)),
                ("num_classes", section.num_classes, len(dataset.classes)),
            )
            if expected is not None and expected != found
        ]
        odd = only_one(dataset, section.num_classes) or _twins(dataset)
        if odd or not wrong:
            return odd or self._unreadable(split, dataset)
        has = " and ".join(f"{what} {found}" for what, _, found in wrong)
        declares = " and ".join(str(expected) for _, expected, _ in wrong)
        settings = " ".join(f"dataset.{what}={found}" for what, _, found in wrong)
        return (
            f"the {split} split of {section.name} has {has}, the recipe declares {declares}; "
            f"check that the data is complete, or set {settings}"
        )

    def _unreadable(self, split: str, dataset: Dataset) -> str:
        """Say which of some images cannot be read; "" if all can, or they may be left out."""
        from runner.data.file_states import unreadable
        from runner.data.image_files import ImageFiles

        if self.recipe.loader.damaged_images == "skip" or not isinstance(dataset, ImageFiles):
            return ""
        found = unreadable(dataset)
        if not found:
            return ""
        more = f" (and {len(found) - 1} more of those that were looked at)" if found[1:] else ""
        return (
            f"{split}: {found[0]}{more}; repair or remove the image, or leave such images out and "
            "count them: --set loader.damaged_images=skip --set loader.max_damaged=100"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSplit:
    """How the images of one step are spread: devices x micro x accumulation = the global batch."""

    devices: int
    micro: int
    accumulation: int


def resolve(
    name: str,
    recipe: Recipe,
    registry: Registry,
    *,
    smoke: Mapping[str, int] | None = None,
    synthetic_because: str = "",
    unset: Sequence[Problem] = (),
) -> Plan:
    """Find every entry that the recipe names and split its batch.

    Args:
        name: Name of the recipe.
        recipe: What it says.
        registry: What is installed.
        smoke: Images of each split, for a smoke test.
        synthetic_because: Why a smoke test has synthetic images.
        unset: Environment variables without a value.
        notes: What was left out of the recipe, and why.

    Raises:
        RunnerError: An entry does not exist, or the batch cannot be split.
    """
    framework = recipe.framework.name
    exporters = tuple(registry.find(ExportEntry, item.name, framework) for item in recipe.export)
    return Plan(
        name=name,
        recipe=recipe,
        framework=registry.find(FrameworkEntry, framework),
        launchers=tuple(item.entry for item in registry.entries(LauncherEntry, framework)),
        device=registry.find(DeviceEntry, recipe.device.name, framework),
        dataset=registry.find(DatasetEntry, recipe.dataset.name, framework),
        model=registry.find(ModelEntry, recipe.model.name, framework),
        optimizer=(
            registry.find(OptimizerEntry, recipe.optimizer.name, framework)
            if recipe.optimizer
            else None
        ),
        exporters=exporters,
        sources=tuple(
            find_source(found.entry, item.options, framework, registry)
            if isinstance(found.entry, ConverterEntry)
            else None
            for item, found in zip(recipe.export, exporters, strict=True)
        ),
        loggers=tuple(registry.find(LoggerEntry, item.name, framework) for item in recipe.loggers),
        always_loggers=tuple(
            item
            for item in registry.entries(LoggerEntry, framework)
            if item.entry.always
            and not item.reason
            and item.entry.name not in {section.name for section in recipe.loggers}
        ),
        image_size=image_size(recipe.transforms),
        train_batch=_split_batch(recipe),
        smoke=smoke or {},
        synthetic_because=synthetic_because,
        host_device=_host_device(recipe, registry),
        unset=tuple(unset),
    )


def check_runnable(plan: Plan, *, training: bool, exporting: bool = False) -> None:
    """Refuse a plan that cannot run here, before anything is opened.

    Raises:
        DeviceError: The device does not compute in the recipe's format.
        MissingDeviceError: What the device needs is not installed.
        PluginError: Something that another entry needs is not installed.
        UsageError: The dataset cannot be decoded as the recipe says.
    """
    for error in unusable(plan, training=training, exporting=exporting):
        raise error


def unusable(
    plan: Plan, *, training: bool, exporting: bool = False, val_images: int | None = None
) -> Iterator[RunnerError]:
    """Yield why entries cannot be used here, each reason once."""
    told: set[str] = set()
    for item in plan.entries(training=training, exporting=exporting):
        if not item.reason or item.reason in told:
            continue
        told.add(item.reason)
        is_device = isinstance(item.entry, DeviceEntry)
        yield missing_device(plan, item.reason) if is_device else _unusable(item)
    section, device = plan.recipe.precision, plan.device_entry
    if section.compute in device.refused_formats:
        problem = device.refused_formats[section.compute]
        yield format_refused(device, section.compute, section.level, problem)
    wrong = undecodable(plan.dataset_entry, plan.recipe.dataset.decoding)
    if wrong:
        yield wrong
    if exporting:
        yield from refused_exports(plan, val_images)


def refused_exports(plan: Plan, val_images: int | None = None) -> Iterator[UsageError]:
    """Yield why exports, or what they are made from, cannot work as the recipe asks for them."""
    for item, section, source in zip(plan.exporters, plan.recipe.export, plan.sources, strict=True):
        asked: list[tuple[Registered[ExportEntry], Any]] = [(item, section.options)]
        if source:
            asked.append((source.exporter, source.options))
        for exporter, options in asked:
            refuses = exporter.entry.refuses
            if refuses is None:
                continue
            with calling(exporter, "refuses()"):
                reason = refuses(
                    ExportPlan(
                        device=plan.device_entry.name,
                        options=options,
                        transforms=plan.recipe.transforms.eval,
                        val_images=val_images,
                    )
                )
            if reason:
                yield UsageError(f"export {section.name!r} cannot work here: {reason}")


def check_exports(plan: Plan, val_images: int) -> None:
    """Refuse exports that cannot work with the data, once it is open.

    Raises:
        UsageError: There is such an export.
    """
    for error in refused_exports(plan, val_images):
        raise error


def undecodable(dataset: DatasetEntry, decoding: Decoding) -> UsageError | None:
    """Return why a dataset with a pipeline of its own cannot decode images so; ``None`` if it can.

    Such a pipeline knows nothing of a decoding that is not the default.
    """
    if dataset.open_loader is None or decoding == AS_STORED:
        return None
    return UsageError(
        f"dataset {dataset.name!r} decodes images with a pipeline of its own, which leaves "
        "them as they are stored: dataset.exif_orientation and dataset.grey_bits have no "
        "effect there; leave them out, or read the images with dataset.name: class_folders"
    )


def missing_device(plan: Plan, answer: str) -> MissingDeviceError:
    """Say which device is missing, and what was found when it was looked for."""
    name, framework = plan.device_entry.name, plan.framework_entry.name
    count = plan.recipe.device.count
    return MissingDeviceError(
        f"the recipe needs {counted(count, f'{name} device')}, and this machine has "
        f"none that {framework} can use: probed {framework} {name}, answer: {answer}",
        plan.host_device,
    )


def check_devices(plan: Plan) -> None:
    """Refuse several devices where the framework works on one.

    Raises:
        DeviceError: The recipe asks for them.
    """
    section, framework = plan.recipe.device, plan.framework_entry
    if section.count > 1 and framework.join is None:
        raise DeviceError(
            f"the recipe asks for {section.count} {section.name} devices; {framework.name} works "
            "on one in this version: add --devices 1, which keeps the global batch "
            "(set train.micro_batch_size to what fits in its memory)"
        )


def without_effect(plan: Plan, *, elastic: bool = False) -> str | None:
    """Say which keys of ``distributed`` do nothing on these devices.

    They are no error, unlike keys that have no effect beside others of the recipe: the number of
    devices is often that of the command line, or of a restart.

    Args:
        plan: The plan, for processes that ``runner`` starts.
        elastic: Whether the run may go on with fewer machines.

    Returns:
        ``None`` if all that are set have an effect.
    """
    section, default = plan.recipe.distributed, DistributedSection()
    names = [item.name for item in fields(section)]
    given = [name for name in names if getattr(section, name) != getattr(default, name)]
    if plan.smoke or not given:
        return None
    if plan.recipe.device.count == 1:
        *first, last = (f"distributed.{name}" for name in given)
        listed = f"{', '.join(first)} and {last} have" if first else f"{last} has"
        return f"{listed} no effect on one device"
    if section.min_devices is not None and not section.restarts and not elastic:
        return (
            "distributed.min_devices has no effect without distributed.restarts, or machines that "
            "may be missing (--nnodes LEAST:N)"
        )
    return None


def _twins(dataset: Dataset) -> str:
    """Say that two classes have names that look the same; "" if none have."""
    from runner.storage.lookalikes import twins

    found = twins(dataset.classes)
    return f"two classes have names that look the same: {found}" if found else ""


def _check_installed(item: Registered[Entry]) -> None:
    if item.reason:
        raise _unusable(item)


def _unusable(item: Registered[Entry]) -> PluginError:
    return PluginError(f"{item.kind} {item.entry.name!r} cannot be used: {item.reason}")


def _host_device(recipe: Recipe, registry: Registry) -> str | None:
    """Return the name of a device that is there on every machine, unless the recipe has it."""
    for item in registry.entries(DeviceEntry, recipe.framework.name):
        entry = item.entry
        if entry.is_host and not item.reason:
            return None if entry.name == recipe.device.name else entry.name
    return None


def image_size(transforms: TransformsSection) -> tuple[int, int]:
    """Return height and width of evaluation images, in pixels.

    Raises:
        UsageError: The transforms do not end at a fixed size.
    """
    size = output_size(transforms.eval)
    if size is None:
        raise UsageError(
            "transforms.eval does not end at a fixed size; "
            "add {name: center_crop, size: 224} or {name: resize, exact: [224, 224]}"
        )
    return size


def _split_batch(recipe: Recipe) -> BatchSplit | None:
    if recipe.train is None:
        return None
    batch, devices = recipe.train.batch_size, recipe.device.count
    _check_divisible(batch, devices, "devices")
    micro = recipe.train.micro_batch_size or batch // devices
    _check_divisible(batch // devices, micro, "train.micro_batch_size")
    return BatchSplit(devices=devices, micro=micro, accumulation=batch // devices // micro)


def _check_divisible(images: int, parts: int, what: str) -> None:
    if images % parts == 0 and images >= parts:
        return
    choices = [n for n in range(1, images + 1) if images % n == 0]
    below = [n for n in choices if n < parts][-1:]
    above = [n for n in choices if n > parts][:1]
    nearest = " or ".join(str(n) for n in below + above)
    raise UsageError(
        f"a batch of {counted(images, 'image')} cannot be split evenly by {what} = {parts}; "
        f"nearest that divide it: {nearest}"
    )

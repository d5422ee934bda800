"""What a command works with once a plan is opened: device, data and engine, in this order.

The device comes first: without it, whether the data is there does not matter.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from runner.contracts import Device
from runner.data import file_states
from runner.data.decode_options import AS_STORED
from runner.data.image_files import ImageFiles
from runner.data.loader import ImageLoader
from runner.data.subset import Few
from runner.distributed.launching import cards
from runner.distributed.reporting import reporter
from runner.entries import LoaderRequest
from runner.errors import DataError, DeviceError
from runner.planning.plan import check_runnable, missing_device, undecodable
from runner.plugins.guards import CheckedEngine, CheckedLoader
from runner.plugins.returns import calling, check_members, origin
from runner.storage.lookalikes import same_looking

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from runner.contracts import DamagedImage, Dataset, Engine, Group, Loader
    from runner.data.decode_options import Decoding, Notice
    from runner.data.transforms.options import Transform
    from runner.planning.plan import Plan
    from runner.storage.events import EventLog


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """One split of the data and its loader."""

    name: str
    dataset: Dataset
    loader: Loader
    decoding: Decoding = AS_STORED
    """How its encoded images become pixels."""
    skipped: list[DamagedImage] = field(default_factory=list)
    """Damaged images that this process left out so far."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in label order."""
        return tuple(self.dataset.classes)

    def fingerprint(self) -> dict[str, Any]:
        """Return what identifies the data on every machine.

        Numbers, a hash over classes, labels and file names, and for files a checksum over the sizes
        of some and the bytes of a few.
        """
        dataset = self.dataset
        found = {"images": len(dataset.labels), "classes": len(self.classes)}
        if isinstance(dataset, ImageFiles):
            return {**found, "sha256": dataset.sha256(), "content": file_states.content(dataset)}
        return {**found, "sha256": _sha256(dataset)}

    def record(self) -> dict[str, Any]:
        """Return the fingerprint, and what tells which files have changed later."""
        if not isinstance(self.dataset, ImageFiles):
            return self.fingerprint()
        return {**self.fingerprint(), "files": file_states.describe(self.dataset)}

    def differences(self, before: Mapping[str, Any]) -> list[str]:
        """Say how the data differs from what a run has recorded of it.

        Args:
            before: What ``record`` has returned; older runs have recorded less.
        """
        here = self.fingerprint()
        found = [
            f"{key}: {before[key]} -> {here[key]}"
            for key in ("images", "classes")
            if before[key] != here[key]
        ]
        if isinstance(self.dataset, ImageFiles) and "files" in before:
            found += file_states.differences(before["files"], self.dataset)
        keys = {"sha256": "classes, labels or names of images", "content": "contents of images"}
        for key, what in keys.items():
            if not found and before.get(key, here.get(key)) != here.get(key):
                found.append(f"{what} are not those of before")
        return found


def _sha256(dataset: Dataset) -> str:
    """Return what ``ImageFiles.sha256`` does, for images of any kind."""
    digest = hashlib.sha256("\0".join(dataset.classes).encode(errors="surrogateescape"))
    digest.update(dataset.labels.astype("int64").tobytes())
    for index in range(len(dataset.labels)):
        name = dataset.describe(index).rpartition("/")[2]
        digest.update(name.encode(errors="surrogateescape"))
    return digest.hexdigest()


def open_split(
    plan: Plan,
    name: str,
    events: EventLog,
    transforms: Sequence[Transform] | None = None,
    decoding: Decoding | None = None,
) -> Split:
    """Open the split ``train`` or ``val`` with the recipe's transforms and decoding, or others.

    Raises:
        DataError: The data is missing, or is not what the recipe says.
    """
    dataset = plan.open_split(name)
    recipe = plan.recipe
    if transforms is None:
        transforms = recipe.transforms.train if name == "train" else recipe.transforms.eval
    if decoding is None:
        decoding = recipe.dataset.decoding
    wrong = undecodable(plan.dataset_entry, decoding)
    if wrong:
        raise wrong

    skipped: list[DamagedImage] = []

    def report(damaged: DamagedImage) -> None:
        skipped.append(damaged)
        events.emit("data.damaged", split=name, image=damaged.description, reason=damaged.reason)

    def report_noticed(notice: Notice) -> None:
        events.emit("data.noticed", split=name, **asdict(notice))

    request = LoaderRequest(
        dataset=dataset,
        options=recipe.dataset.options,
        transforms=transforms,
        section=recipe.loader,
        seed=recipe.seed,
        report_damaged=report,
        decoding=decoding,
        report_noticed=report_noticed,
    )
    loader = _open_loader(plan, request)
    split = Split(name=name, dataset=dataset, loader=loader, decoding=decoding, skipped=skipped)
    if isinstance(dataset, ImageFiles) and dataset.index:
        images = len(dataset.labels)
        events.emit("data.indexed", split=name, images=images, **asdict(dataset.index))
    events.emit(
        "data.opened",
        split=name,
        images=len(dataset.labels),
        classes=len(split.classes),
        **loader.report(),
    )
    _tell_smoke(plan, split, events)
    if isinstance(dataset, ImageFiles) and dataset.ignored_files:
        events.emit("data.ignored", split=name, count=dataset.ignored_files)
    return split


def _open_loader(plan: Plan, request: LoaderRequest) -> Loader:
    own = plan.dataset_entry.open_loader
    if own is None:
        return _core_loader(request)
    with calling(plan.dataset, "open_loader()"):
        return CheckedLoader(own(request), f"{origin(plan.dataset)}, its loader")


def _tell_smoke(plan: Plan, split: Split, events: EventLog) -> None:
    """Tell which images a smoke test has."""
    if isinstance(split.dataset, Few):
        reason = plan.synthetic_because
        images, of = len(split.dataset.labels), len(split.dataset.whole.labels)
        events.emit("data.smoke", split=split.name, images=images, of=of, synthetic_because=reason)


def _core_loader(request: LoaderRequest) -> Loader:
    return ImageLoader(
        request.dataset,
        request.transforms,
        request.section,
        seed=request.seed,
        report_damaged=request.report_damaged,
        decoding=request.decoding,
        report_noticed=request.report_noticed,
    )


def check_same_classes(train: Split, val: Split) -> None:
    """Refuse splits whose labels mean different things.

    Raises:
        DataError: A class is missing in one split, or at another position.
    """
    if train.classes == val.classes:
        return
    only_train = sorted(set(train.classes) - set(val.classes))
    only_val = sorted(set(val.classes) - set(train.classes))
    raise DataError(
        "the splits have different classes, so labels would not mean the same: "
        f"only in train: {', '.join(only_train[:5]) or 'none'}; "
        f"only in val: {', '.join(only_val[:5]) or 'none'}{same_looking(only_train, only_val)}; "
        "expected the same classes in the same order"
    )


def open_device(plan: Plan) -> Device:
    """Open the recipe's device; the framework is imported here.

    Raises:
        PluginError: The framework is not installed.
        MissingDeviceError: The device is not there.
        DeviceError: It cannot do what its options ask.
        UsageError: The chosen cards are not among those that are visible.
    """
    check_runnable(plan, training=False)
    if not reporter.of_process().watched:  # whose parent has chosen them
        section = plan.recipe.device
        os.environ.update(cards.environment(plan.device_entry, section.cards, os.environ))
    item = plan.device
    try:
        with calling(item, "open()"):
            device = plan.device_entry.open(plan.recipe.device.options)
        check_members(device, Device, f"{origin(item)}, open()")
        return device
    except DeviceError as error:
        with calling(item, "probe()"):
            found = plan.device_entry.probe()
        if found.available:
            raise
        raise missing_device(plan, found.reason) from error


def open_engine(
    plan: Plan,
    device: Device,
    num_classes: int,
    events: EventLog,
    *,
    training: bool,
    group: Group | None = None,
    train_images: int | None = None,
) -> Engine:
    """Build the engine on an open device.

    Raises:
        PluginError: Something that the recipe names is not installed.
        DeviceError: The device cannot do what the recipe asks.
        UsageError: A pass of the training would be of too few images for the model.
    """
    check_runnable(plan, training=training)
    spec = plan.engine_spec(num_classes, training=training, group=group, train_images=train_images)
    with calling(plan.framework, "open()"):
        opened = plan.framework_entry.open(spec, device)
    engine = CheckedEngine(opened, origin(plan.framework), num_classes)
    events.emit("engine.opened", model=plan.model_entry.name, **engine.report())
    return engine

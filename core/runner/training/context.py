"""A plan with everything open that a run needs, on each of its processes."""

from __future__ import annotations

import time
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, final

from runner.cli.console import RankConsole
from runner.contracts import Group
from runner.data.classes import same_inside
from runner.data.duplicates import overlap, repeated, two_labels
from runner.data.image_files import ImageFiles
from runner.distributed import place
from runner.distributed.machines import Machines
from runner.distributed.ranks import Ranks, telling_alone
from runner.distributed.reporting import reporter
from runner.distributed.reporting.child import begin
from runner.distributed.signals import Signals
from runner.errors import DataError, UsageError
from runner.planning.notes import notes
from runner.planning.plan import check_exports, check_runnable, without_effect
from runner.plugins.returns import check_members, origin
from runner.session.opening import check_same_classes, open_device, open_engine, open_split
from runner.storage.events import EventLog
from runner.training import consistency, manifest
from runner.training.loggers import Loggers
from runner.weights import given

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Any

    from runner.planning.plan import Plan
    from runner.plugins.registry import Registry
    from runner.session.opening import Split
    from runner.storage.events import Listener


VAL_IMAGES_READ_FIRST = 64
"""Validation images that each process reads before it trains, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a command asks of a run, beyond its recipe."""

    command: Sequence[str]
    """The command line, for the manifest."""
    listener: Listener | None = None
    export: bool = True
    """Whether to write the artifacts that the recipe lists; a run that continues does what it was
    started with."""
    signals: Signals | None = None
    """Those that ask to stop, held back since before NumPy was imported; none if left out."""
    machines: Machines = field(default_factory=Machines)
    """Those that the run is spread over."""
    devices: int | None = None
    """Devices that the recipe asks for; a launcher may have started fewer processes."""


@final
class Opened:
    """A plan with device, data and engine open, on this process as one of some.

    A context manager that closes loaders, the event log and the group.
    """

    def __init__(self, plan: Plan, registry: Registry, request: Request, asked: str) -> None:
        """Prepare to open a plan.

        Args:
            plan: The recipe.
            registry: What is installed.
            request: What a command asks beyond it.
            asked: What all processes are to do.
        """
        self.plan = plan
        self.registry = registry
        self.request = request
        self._asked = asked
        self._reporter = reporter.of_process()
        self.stack = ExitStack()
        """What is closed at the end."""
        self.started = time.monotonic()

    def __enter__(self) -> Opened:
        with ExitStack() as stack:
            with telling_alone(self._reporter):
                self._prepare()
            with telling_alone(self._reporter, joins=True):
                group = self._join()
            self.ranks = stack.enter_context(Ranks(group, self._reporter))
            with self.ranks.telling():
                self._open(stack)
            self.stack = stack.pop_all()
        return self

    def _prepare(self) -> None:
        """Open the device.

        What is written, printed or bound comes after ``join``, where a process may stay.
        """
        plan, request = self.plan, self.request
        self._training = plan.recipe.train is not None
        check_runnable(plan, training=self._training, exporting=request.export)
        self.place = place.rank_of(plan)
        if place.needs_launch(plan, self.place):
            raise UsageError(
                f"the recipe asks for {plan.recipe.device.count} devices, and this is one "
                "process alone; use runner.run, or set device.count to 1"
            )
        begin(plan, self.place, self._reporter)
        self.signals = request.signals or Signals(())
        if plan.framework_entry.takes_signals:
            self.signals.watch()
        else:
            self.signals.release()
        self._reporter.progress.begin("opening the device")
        self.device = open_device(plan)

    def _open(self, stack: ExitStack) -> None:
        plan, leads, progress = self.plan, self.ranks.leads, self.ranks.progress
        self.events = EventLog(self.request.listener if leads else RankConsole(self.ranks.rank))
        stack.callback(self.events.close)
        self.loggers = Loggers(self._logger_failed)
        stack.callback(self.loggers.close)
        if self.ranks.group:
            consistency.check_process(consistency.describe(plan, self._asked), self.ranks)
        self._tell_fewer_devices()
        idle = without_effect(plan)
        if idle and self.ranks.group is None:
            self.events.emit("warning", message=idle)
        progress.begin("opening the data")
        self.ranks.everyone(lambda: self._open_data(stack))
        if self.ranks.group:
            consistency.check_data(self.splits(), self.ranks)
        if leads:
            images = len(self.train.dataset.labels) if self.train else None
            for text in notes(plan, images):
                self.events.emit("warning", message=text)
        self.val_images_in_train = self.ranks.lead(self._tell_overlap)
        # Processes may exchange something here: one that fails cannot tell the others.
        progress.begin("building the engine")
        self.engine = open_engine(
            plan,
            self.device,
            len(self.val.classes),
            self.events,
            training=self._training,
            group=self.ranks.group,
            train_images=len(self.train.dataset.labels) if self.train else None,
        )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stack.__exit__(kind, error, traceback)

    def _tell_fewer_devices(self) -> None:
        asked = self.request.devices
        if asked is not None and asked > self.ranks.world_size and self.ranks.leads:
            self.events.emit("run.fewer_devices", asked=asked, found=self.ranks.world_size)

    def _join(self) -> Group | None:
        recipe, entry = self.plan.recipe, self.plan.framework_entry
        join = entry.join
        # A launcher may start a process beside the only one that trains, and it stays in `join`.
        if join is None or (recipe.device.count == 1 and self.place is None):
            return None
        self._reporter.progress.begin("meeting the other processes")
        timeout_s = recipe.distributed.timeout_s
        # the parent knows more of what hangs, so the group waits longer
        group = join(self.device, 2 * timeout_s if self._reporter.watched else timeout_s)
        check_members(group, Group, f"{origin(self.plan.framework)}, join()")
        return group

    def _open_data(self, stack: ExitStack) -> None:
        splits = self._open_splits(stack)
        self.val = splits["val"]
        self.train = splits.get("train")
        for split in self.splits():
            self.plan.check_memory(split.name, len(split.dataset.labels))
        if self.train:
            check_same_classes(self.train, self.val)
            self.plan.check_shares(len(self.train.dataset.labels))
        if self.request.export:
            check_exports(self.plan, len(self.val.dataset.labels))
        if self.train:
            self._read_first_val_images()

    def _open_splits(self, stack: ExitStack) -> dict[str, Split]:
        """Open what the run needs; what is wrong with each of them is said at once."""
        splits, wrong = {}, []
        for name in ("train", "val") if self._training else ("val",):
            try:
                splits[name] = open_split(self.plan, name, self.events)
            except DataError as error:
                wrong.append(error)
            else:
                stack.callback(splits[name].loader.close)
        texts = dict.fromkeys(str(error) for error in wrong)
        if len(texts) > 1:
            raise DataError("\n".join(texts)) from wrong[0]
        if wrong:
            raise wrong[0]
        return splits

    def _read_first_val_images(self) -> None:
        """Read a batch of the validation split, so that no epoch is lost on what it would meet."""
        self.ranks.progress.begin("reading validation images")
        size = min(self.plan.recipe.eval.batch_size, VAL_IMAGES_READ_FIRST)
        ranks = self.ranks
        batches = self.val.loader.eval_batches(size, rank=ranks.rank, world_size=ranks.world_size)
        with closing(batches):
            next(batches, None)

    def _tell_overlap(self) -> int | None:
        """Tell of odd folders, images with two labels, and validation images that train.

        Returns:
            The number of the latter; ``None`` where nothing can be said, as of images that are not
            files.
        """
        train, val = (split and split.dataset for split in (self.train, self.val))
        for split in self.splits():
            if isinstance(split.dataset, ImageFiles):
                found = two_labels(split.dataset)
                if found.images:
                    count = {"images": found.images, "example": found.example}
                    self.events.emit("data.two_labels", split=split.name, **count)
                odd = same_inside(split.dataset)
                if odd:
                    self.events.emit("warning", message=odd)
        if isinstance(val, ImageFiles):
            found = repeated(val)  # of training images, it may be meant: they weigh more
            if found.images:
                images = {"images": found.images, "of": len(val.labels), "example": found.example}
                self.events.emit("data.duplicates", split="val", **images)
        if not isinstance(train, ImageFiles) or not isinstance(val, ImageFiles):
            return None
        found = overlap(train, val)
        if found.images:
            images = {"images": found.images, "of": len(val.labels), "example": found.example}
            self.events.emit("data.overlap", **images)
        return found.images

    def load_initial_weights(self) -> None:
        """Load the weights that the recipe names, the same on every rank.

        Raises:
            UsageError: There are none, and the recipe does not train any either.
            CheckpointError: They cannot be read or do not fit.
        """
        table = self.ranks.everyone(self._load_named_weights)
        if table:
            consistency.check_process(table, self.ranks)

    def _load_named_weights(self) -> consistency.Table:
        named = self.plan.recipe.model.weights
        if named:
            self.ranks.progress.begin("reading weights")
            path = Path(named).expanduser()
            registry = self.registry
            fitted = given.load(
                self.engine,
                self.plan,
                given.read(path, self.plan.framework_entry, registry),
                self.events,
                path=path,
                classes=self.val.classes,
                training=self._training,
                choice=self.plan.recipe.model.weights_key,
            )
            return consistency.describe_weights(fitted.weights) if self.ranks.group else {}
        if not self.train and not self.plan.smoke:
            raise UsageError(
                "the recipe does not train, and names no weights to evaluate; "
                "add --set model.weights=PATH"
            )
        return {}

    def splits(self) -> list[Split]:
        """Return the splits that are open."""
        return [split for split in (self.train, self.val) if split]

    def manifest(self) -> dict[str, Any]:
        """Return what this process runs on (JSON)."""
        return manifest.describe(
            self.plan,
            self.registry.plugins,
            device=self.device,
            engine=self.engine,
            splits=self.splits(),
            command=self.request.command,
            export=self.request.export,
            world_size=self.ranks.world_size,
        )

    def _logger_failed(self, name: str, error: Exception) -> None:
        self.events.emit(
            "warning",
            message=f"logger {name!r} failed and writes nothing more of this run: "
            f"{type(error).__name__}: {error}",
        )

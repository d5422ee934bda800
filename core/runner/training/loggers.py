"""The loggers of a run: those that its recipe names, and those that are always on."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, final

from runner.contracts import RunLogger
from runner.errors import PluginError, RunnerError, StorageError
from runner.plugins.returns import check_members, origin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any

    from runner.contracts import RunInfo, StepRecord
    from runner.entries import LoggerEntry
    from runner.planning.plan import Plan
    from runner.plugins.registry import Registered


@final
class Loggers:
    """Tells each of them what happens.

    One that raises is reported, and told nothing more of this run: it never ends one that trains.
    """

    def __init__(self, report: Callable[[str, Exception], None]) -> None:
        """Take what learns of each that is switched off, by its name."""
        self._report = report
        self._open: list[tuple[str, RunLogger]] = []

    def open(self, plan: Plan, run: RunInfo) -> None:
        """Open them all; one that is always on and cannot be opened is reported, too.

        Raises:
            StorageError: A file of one that the recipe names cannot be written.
            PluginError: One that the recipe names is broken.
        """
        for item, section in zip(plan.loggers, plan.recipe.loggers, strict=True):
            try:
                self._open_one(item, run, section.options)
            except RunnerError:
                raise
            except OSError as error:
                what = f"{error.strerror or error}" + (f": {error.filename}" * bool(error.filename))
                raise StorageError(f"logger {section.name!r} cannot write: {what}") from error
            except Exception as error:
                text = f"logger {section.name!r} of {item.plugin} cannot be opened: {error}"
                raise PluginError(text) from error
        for item in plan.always_loggers:
            with self._reporting(item.entry.name):
                self._open_one(item, run, item.entry.config())

    def _open_one(self, item: Registered[LoggerEntry], run: RunInfo, options: Any) -> None:
        logger = item.entry.open(run, options)
        check_members(logger, RunLogger, f"{origin(item)}, open()")
        self._open.append((item.entry.name, logger))

    def event(self, event: str, fields: Mapping[str, Any]) -> None:
        """Tell of an event."""
        self._tell(lambda logger: logger.event(event, fields))

    def steps(self, records: Sequence[StepRecord]) -> None:
        """Tell of steps whose losses were read."""
        self._tell(lambda logger: logger.steps(records))

    def close(self) -> None:
        """End them all."""
        self._tell(lambda logger: logger.close())
        self._open.clear()

    def _tell(self, call: Callable[[RunLogger], None]) -> None:
        for item in list(self._open):
            name, logger = item
            with self._reporting(name, item):
                call(logger)

    @contextmanager
    def _reporting(self, name: str, item: tuple[str, RunLogger] | None = None) -> Iterator[None]:
        """Report what a logger raises, and leave it out from here on."""
        try:
            yield
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001  not even sys.exit() may stop a run
            if item:
                self._open.remove(item)
                with suppress(Exception):
                    item[1].close()
            if not isinstance(error, Exception):
                error = RuntimeError(f"it raised {error!r}")
            self._report(name, error)

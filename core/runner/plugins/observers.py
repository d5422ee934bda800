"""Who is told what happens in a run, one at a time: observers, and loggers of the recipe."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Protocol, final

from runner.contracts import RunLogger
from runner.errors import PluginError, RunnerError, StorageError
from runner.plugins.returns import check_members, origin

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from runner.contracts import EpochMetrics, RunInfo, StepRecord
    from runner.planning.plan import Plan

    HookCall = Callable[[str, str, Mapping[str, object]], object]

OBSERVER_HOOKS = (
    "runner_run_started",
    "runner_epoch_finished",
    "runner_run_failed",
    "runner_run_finished",
)


class ObserverReport(Protocol):
    """Learns that an observer raised and is switched off."""

    def __call__(self, plugin: str, hook: str, error: Exception) -> None:
        """Report it; the run goes on."""
        ...


@final
class Observers:
    """The observers of one run.

    Every plugin is called on its own, so that one that raises is known by name. It is reported,
    and left out for the rest of the run.
    """

    def __init__(
        self, observes: Mapping[str, Sequence[str]], call: HookCall, report: ObserverReport
    ) -> None:
        """Take the hooks that each plugin implements, and what calls one hook of one plugin."""
        self._observes = dict(observes)
        self._call_hook = call
        self._report = report

    def run_started(self, run: RunInfo) -> None:
        """Tell that a run starts or continues."""
        self._call("runner_run_started", {"run": run})

    def epoch_finished(self, run: RunInfo, metrics: EpochMetrics) -> None:
        """Tell that an epoch and its evaluation are over."""
        self._call("runner_epoch_finished", {"run": run, "metrics": metrics})

    def run_failed(self, run: RunInfo, error: BaseException) -> None:
        """Tell that the run ends with an error or was interrupted."""
        self._call("runner_run_failed", {"run": run, "error": error})

    def run_finished(self, run: RunInfo, result: dict[str, object]) -> None:
        """Tell that the run has finished."""
        self._call("runner_run_finished", {"run": run, "result": result})

    def _call(self, hook: str, arguments: Mapping[str, object]) -> None:
        for plugin in [name for name, hooks in self._observes.items() if hook in hooks]:
            try:
                self._call_hook(plugin, hook, arguments)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # noqa: BLE001  not even sys.exit() may stop a run
                del self._observes[plugin]
                if not isinstance(error, Exception):
                    error = RuntimeError(f"it raised {error!r}")
                self._report(plugin, hook, error)


@final
class Loggers:
    """The further logs that a recipe asks for.

    One that raises is reported, and writes nothing more of this run.
    """

    def __init__(self, report: Callable[[str, Exception], None]) -> None:
        """Take what learns of each that is switched off, by its name."""
        self._report = report
        self._open: list[tuple[str, RunLogger]] = []

    def open(self, plan: Plan, run: RunInfo) -> None:
        """Open them all.

        Raises:
            StorageError: A file cannot be written.
            PluginError: A logger is broken.
        """
        for item, section in zip(plan.loggers, plan.recipe.loggers, strict=True):
            name = section.name
            try:
                logger = item.entry.open(run, section.options)
                check_members(logger, RunLogger, f"{origin(item)}, open()")
                self._open.append((name, logger))
            except RunnerError:
                raise
            except OSError as error:
                what = f"{error.strerror or error}" + (f": {error.filename}" * bool(error.filename))
                raise StorageError(f"logger {name!r} cannot write: {what}") from error
            except Exception as error:
                text = f"logger {name!r} of {item.plugin} cannot be opened: {error}"
                raise PluginError(text) from error

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
            try:
                call(logger)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # noqa: BLE001  not even sys.exit() may stop a run
                self._open.remove(item)
                with suppress(Exception):
                    logger.close()
                if not isinstance(error, Exception):
                    error = RuntimeError(f"it raised {error!r}")
                self._report(name, error)

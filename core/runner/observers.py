"""The typed way to call the observer hooks, one plugin at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from runner.contracts import EpochMetrics, RunInfo

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

"""Every hook is called with exactly what its specification says."""

from __future__ import annotations

import inspect
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runner import (
    DatasetEntry,
    DeviceEntry,
    ExporterEntry,
    FrameworkEntry,
    ImporterEntry,
    LoggerEntry,
    ModelEntry,
    OptimizerEntry,
    PredictorEntry,
    hookimpl,
    hooks,
)
from runner.contracts import EpochMetrics, RunInfo
from runner.plugins.kinds import KINDS, Kind, registration_hooks
from runner.plugins.loading import Plugins, load

RUN = RunInfo(name="quickstart", folder=Path("runs/quickstart"), recipe={})
METRICS = EpochMetrics(epoch=1, step=10, values={"train.loss": 0.5})
REGISTRATION = {kind.hook for kind in KINDS}
OBSERVER = {name for name in vars(hooks) if name.startswith("runner_")}


class Recorder:
    """A plugin with every hook, which records the calls."""

    def __init__(self, fails_in: str = "") -> None:
        self.calls: list[tuple[str, object]] = []
        self.fails_in = fails_in

    def record(self, hook: str, argument: object) -> None:
        self.calls.append((hook, argument))
        if hook == self.fails_in:
            raise OSError("no space left on device")

    @hookimpl
    def runner_register_frameworks(self) -> list[FrameworkEntry]:
        return [FrameworkEntry(name="f", summary="A test", open=self.nothing)]

    @hookimpl
    def runner_register_devices(self) -> list[DeviceEntry]:
        return [
            DeviceEntry(
                name="d", framework="f", summary="A test", probe=self.nothing, open=self.nothing
            )
        ]

    @hookimpl
    def runner_register_datasets(self) -> list[DatasetEntry]:
        return [DatasetEntry(name="s", summary="A test", open=self.nothing)]

    @hookimpl
    def runner_register_models(self) -> list[ModelEntry]:
        return [ModelEntry(name="m", framework="f", summary="A test", build=self.nothing)]

    @hookimpl
    def runner_register_optimizers(self) -> list[OptimizerEntry]:
        return [OptimizerEntry(name="o", framework="f", summary="A test", build=self.nothing)]

    @hookimpl
    def runner_register_exporters(self) -> list[ExporterEntry]:
        return [ExporterEntry(name="e", framework="f", summary="A test", export=self.nothing)]

    @hookimpl
    def runner_register_predictors(self) -> list[PredictorEntry]:
        return [PredictorEntry(name="p", summary="A test", formats=("x",), load=self.nothing)]

    @hookimpl
    def runner_register_loggers(self) -> list[LoggerEntry]:
        return [LoggerEntry(name="l", summary="A test", open=self.nothing)]

    @hookimpl
    def runner_register_importers(self) -> list[ImporterEntry]:
        return [
            ImporterEntry(
                name="i", summary="A test", recognises=self.nothing, translate=self.nothing
            )
        ]

    @hookimpl
    def runner_run_started(self, run: RunInfo) -> None:
        self.record("runner_run_started", run)

    @hookimpl
    def runner_epoch_finished(self, run: RunInfo, metrics: EpochMetrics) -> None:
        self.record("runner_epoch_finished", metrics)

    @hookimpl
    def runner_run_failed(self, run: RunInfo, error: BaseException) -> None:
        self.record("runner_run_failed", error)

    @hookimpl
    def runner_run_finished(self, run: RunInfo, result: dict[str, object]) -> None:
        self.record("runner_run_finished", result)

    def nothing(self, *_: object, **__: object) -> Any:
        raise NotImplementedError


def load_only(**plugins: object) -> Plugins:
    return load(extra=list(plugins.items()), environ={"RUNNER_PLUGINS": ""})


def never(plugin: str, hook: str, error: Exception) -> None:
    pytest.fail(f"{plugin} {hook} {error!r}")


def test_the_recorder_knows_every_hook() -> None:
    assert OBSERVER
    names = {name for name in vars(Recorder) if name.startswith("runner_")}
    assert names == REGISTRATION | OBSERVER


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.hook)
def test_registration_hooks_offer_entries(kind: Kind) -> None:
    registry = load_only(recorder=Recorder()).registry
    assert registry.plugins[-1].reason == ""
    (item,) = registry.entries(kind.entry)
    assert type(item.entry) in kind.types
    assert not inspect.signature(getattr(registration_hooks(), kind.hook)).parameters


def test_observer_hooks_are_called_in_order() -> None:
    recorder = Recorder()
    observers = load_only(recorder=recorder).observers(never)
    error = RuntimeError("the loss is not finite")
    observers.run_started(RUN)
    observers.epoch_finished(RUN, METRICS)
    observers.run_failed(RUN, error)
    observers.run_finished(RUN, {"val.top1": 0.9})
    assert recorder.calls == [
        ("runner_run_started", RUN),
        ("runner_epoch_finished", METRICS),
        ("runner_run_failed", error),
        ("runner_run_finished", {"val.top1": 0.9}),
    ]


def test_an_observer_may_take_fewer_arguments() -> None:
    seen: list[float] = []

    @hookimpl
    def runner_epoch_finished(metrics: EpochMetrics) -> None:
        seen.append(metrics.values["train.loss"])

    observers = load_only(short=_module(runner_epoch_finished=runner_epoch_finished)).observers(
        never
    )
    observers.epoch_finished(RUN, METRICS)
    observers.run_started(RUN)
    assert seen == [0.5]


def test_an_observer_that_raises_is_reported_and_switched_off_for_the_run() -> None:
    broken, healthy = Recorder(fails_in="runner_run_started"), Recorder()
    plugins = load_only(healthy=_observer_only(healthy), broken=_observer_only(broken))
    reports: list[tuple[str, str, str]] = []
    observers = plugins.observers(
        lambda plugin, hook, error: reports.append((plugin, hook, str(error)))
    )
    observers.run_started(RUN)
    observers.epoch_finished(RUN, METRICS)
    assert reports == [("broken", "runner_run_started", "no space left on device")]
    assert [hook for hook, _ in broken.calls] == ["runner_run_started"]
    assert [hook for hook, _ in healthy.calls] == ["runner_run_started", "runner_epoch_finished"]
    plugins.observers(never).epoch_finished(RUN, METRICS)
    assert len(broken.calls) == 2


def test_observers_of_an_unavailable_plugin_are_not_called() -> None:
    recorder = Recorder()
    plugin = _observer_only(recorder, RUNNER_REQUIRES=("absent_package",))
    plugins = load_only(recorder=plugin)
    plugins.observers(never).run_started(RUN)
    assert plugins.registry.plugins[-1].state == "unavailable"
    assert recorder.calls == []


def test_an_observer_that_exits_is_reported_and_the_run_goes_on() -> None:
    @hookimpl
    def runner_run_started(run: RunInfo) -> None:
        raise SystemExit(3)

    reports: list[str] = []
    plugins = load_only(p=_module(runner_run_started=runner_run_started))
    plugins.observers(lambda plugin, hook, error: reports.append(str(error))).run_started(RUN)
    assert reports == ["it raised SystemExit(3)"]


def test_an_interrupt_in_an_observer_is_not_swallowed() -> None:
    @hookimpl
    def runner_run_started(run: RunInfo) -> None:
        raise KeyboardInterrupt

    observers = load_only(p=_module(runner_run_started=runner_run_started)).observers(never)
    with pytest.raises(KeyboardInterrupt):
        observers.run_started(RUN)


def _module(**attributes: object) -> SimpleNamespace:
    return SimpleNamespace(**attributes)


def _observer_only(recorder: Recorder, **attributes: object) -> SimpleNamespace:
    return SimpleNamespace(
        **{name: getattr(recorder, name) for name in OBSERVER},
        **attributes,
    )

"""Every hook is called with exactly what its specification says."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import pytest

from runner import (
    DatasetEntry,
    DeviceEntry,
    ExporterEntry,
    FrameworkEntry,
    ImporterEntry,
    LauncherEntry,
    LoggerEntry,
    ModelEntry,
    OptimizerEntry,
    PredictorEntry,
    hookimpl,
)
from runner.plugins.kinds import KINDS, Kind, registration_hooks
from runner.plugins.loading import load

if TYPE_CHECKING:
    from runner.plugins.registry import Registry


class EveryHook:
    """A plugin with every hook."""

    @hookimpl
    def runner_register_frameworks(self) -> list[FrameworkEntry]:
        return [FrameworkEntry(name="f", summary="A test", open=self.nothing)]

    @hookimpl
    def runner_register_launchers(self) -> list[LauncherEntry]:
        return [LauncherEntry(name="n", summary="A test", place=self.nothing)]

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

    def nothing(self, *_: object, **__: object) -> Any:
        raise NotImplementedError


def load_only(**plugins: object) -> Registry:
    return load(extra=list(plugins.items()), environ={"RUNNER_PLUGINS": ""})


def test_the_plugin_has_every_hook() -> None:
    names = {name for name in vars(EveryHook) if name.startswith("runner_")}
    assert names == {kind.hook for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.hook)
def test_registration_hooks_offer_entries(kind: Kind) -> None:
    registry = load_only(every_hook=EveryHook())
    assert registry.plugins[-1].reason == ""
    (item,) = registry.entries(kind.entry)
    assert type(item.entry) in kind.types
    assert not inspect.signature(getattr(registration_hooks(), kind.hook)).parameters

"""The entries of this plugin. Nothing here imports torch until an entry is used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner import ConverterEntry, ImporterEntry, PredictorEntry, hookimpl, lazy
from runner_cambricon.options import MagicMindOptions, MluOptions
from runner_cambricon.traits import MLU
from runner_torch.device_entry import FRAMEWORK, device_entry

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from runner import ArtifactInfo, DeviceEntry
    from runner.entries import ExportPlan

RUNNER_REQUIRES = ("torch", "torch_mlu")
RUNNER_INSTALL = "install torch_mlu from Cambricon's SDK, for the release of torch that it names"


@hookimpl
def runner_register_devices() -> Iterable[DeviceEntry]:
    """Offer Cambricon MLUs."""
    yield device_entry(MLU, summary="Cambricon MLU", config=MluOptions, install=RUNNER_INSTALL)


def _refuse_compile(plan: ExportPlan) -> str:
    options: MagicMindOptions = plan.options
    return "" if plan.val_images is None else options.too_few(plan.val_images)


@hookimpl
def runner_register_exporters() -> Iterable[ConverterEntry]:
    """Offer the vendor's compiler."""
    yield ConverterEntry(
        name="magicmind",
        summary="Compiled for an MLU, with a fixed batch; optionally fp16, int8 or int16",
        config=MagicMindOptions,
        framework=FRAMEWORK,
        source="torch_export",
        convert=lazy("runner_cambricon.magicmind:convert"),
        refuses=_refuse_compile,
        tolerance=1e-2,
    )


@hookimpl
def runner_register_predictors() -> Iterable[PredictorEntry]:
    """Offer MLUs as the runtime of compiled models."""
    yield PredictorEntry(
        name="magicmind",
        summary="Models compiled by MagicMind, on an MLU",
        formats=("magicmind",),
        load=lazy("runner_cambricon.magicmind:load"),
        executes=_executes,
    )


def _executes(folder: Path, info: ArtifactInfo) -> str:
    return "a TorchScript program with machine code for the card"


@hookimpl
def runner_register_importers() -> Iterable[ImporterEntry]:
    """Offer translations of the vendor's programs and scripts."""
    yield ImporterEntry(
        name="cambricon_classification",
        summary="vision_classification of Cambricon pytorch_modelzoo",
        recognises=lazy("runner_cambricon.importer:recognises"),
        translate=lazy("runner_cambricon.importer:translate"),
    )

"""The entries of this plugin. Nothing here imports torch until an entry is used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.entries import ConverterEntry, ImporterEntry, PredictorEntry
from runner.hooks import hookimpl
from runner_cambricon.options import MagicMindOptions, MluOptions
from runner_cambricon.traits import MLU
from runner_torch.device_entry import FRAMEWORK, device_entry

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from runner.contracts import ArtifactInfo, Predictor
    from runner.entries import ConversionRequest, DeviceEntry, ExportPlan, Translation

INSTALL = "install torch_mlu from Cambricon's SDK, for the release of torch that it names"


@hookimpl
def runner_register_devices() -> Iterable[DeviceEntry]:
    """Offer Cambricon MLUs."""
    yield device_entry(MLU, summary="Cambricon MLU", config=MluOptions, install=INSTALL)


def _compile(request: ConversionRequest) -> ArtifactInfo:
    from runner_cambricon.magicmind import convert

    return convert(request)


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
        requires=("torch", "torch_mlu"),
        install=INSTALL,
        framework=FRAMEWORK,
        source="torch_export",
        convert=_compile,
        refuses=_refuse_compile,
        tolerance=1e-2,
    )


def _load(folder: Path, info: ArtifactInfo) -> Predictor:
    from runner_cambricon.magicmind import load

    return load(folder, info)


@hookimpl
def runner_register_predictors() -> Iterable[PredictorEntry]:
    """Offer MLUs as the runtime of compiled models."""
    yield PredictorEntry(
        name="magicmind",
        summary="Models compiled by MagicMind, on an MLU",
        requires=("torch", "torch_mlu"),
        install=INSTALL,
        formats=("magicmind",),
        load=_load,
        executes=_executes,
    )


def _executes(folder: Path, info: ArtifactInfo) -> str:
    return "a TorchScript program with machine code for the card"


def _recognises(words: Sequence[str]) -> bool:
    from runner_cambricon.importer import recognises

    return recognises(words)


def _translate(words: Sequence[str]) -> Translation:
    from runner_cambricon.importer import translate

    return translate(words)


@hookimpl
def runner_register_importers() -> Iterable[ImporterEntry]:
    """Offer translations of the vendor's programs and scripts."""
    yield ImporterEntry(
        name="cambricon_classification",
        summary="vision_classification of Cambricon pytorch_modelzoo",
        recognises=_recognises,
        translate=_translate,
    )

"""The entries of this plugin. Nothing here imports torch until an entry is used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runner.entries import ConverterEntry, ImporterEntry, LoggerEntry, PredictorEntry
from runner.hooks import hookimpl
from runner_ascend.om_options import OmOptions
from runner_ascend.options import NpuOptions
from runner_ascend.summary import SummaryOptions
from runner_ascend.traits import NPU
from runner_torch.device_entry import device_entry

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from runner.contracts import ArtifactInfo, Predictor, RunInfo, RunLogger
    from runner.entries import ConversionRequest, DeviceEntry, ExportPlan, Translation

INSTALL = (
    "pip install torch_npu, which needs CANN first (source its set_env.sh) and the release of "
    "torch that it names"
)


def _configure_npu(options: NpuOptions) -> Mapping[str, Any]:
    from runner_ascend.device import configure

    return configure(options)


@hookimpl
def runner_register_devices() -> Iterable[DeviceEntry]:
    """Offer Ascend NPUs."""
    yield device_entry(
        NPU,
        summary="Huawei Ascend NPU",
        config=NpuOptions,
        install=INSTALL,
        configure=_configure_npu,
    )


def _onnx_options(options: OmOptions) -> Mapping[str, Any]:
    return {
        "opset": options.opset,
        "input_name": options.input_name,
        "output_name": options.output_name,
        "batch_size": options.batch_size if options.fixed_batch else None,
    }


def _convert_to_om(request: ConversionRequest) -> ArtifactInfo:
    from runner_ascend.om import convert

    return convert(request)


def _refuse_om(plan: ExportPlan) -> str:
    from runner_ascend.om import refuses

    return refuses(plan)


def _load_om(folder: Path, info: ArtifactInfo) -> Predictor:
    from runner_ascend.om_predictor import load_om

    return load_om(folder, info)


@hookimpl
def runner_register_exporters() -> Iterable[ConverterEntry]:
    """Offer offline models."""
    yield ConverterEntry(
        name="om",
        framework="torch",
        summary="Ascend offline model: ONNX, AIPP, and the commands to compile, run and score it",
        config=OmOptions,
        source="onnx",
        source_options=_onnx_options,
        convert=_convert_to_om,
        refuses=_refuse_om,
        tolerance=2e-2,  # the card computes in fp16
    )


@hookimpl
def runner_register_predictors() -> Iterable[PredictorEntry]:
    """Offer what runs offline models."""
    # ais_bench is not among `requires`: the entry also says what a file that is not compiled lacks
    yield PredictorEntry(
        name="ais_bench",
        summary="Ascend offline models on a card",
        formats=("om",),
        load=_load_om,
        executes=_om_executes,
    )


def _om_executes(folder: Path, info: ArtifactInfo) -> str:
    compiled = (folder / info.file).is_file()
    return "machine code for the card, and for its host" if compiled else ""


def _open_summary(run: RunInfo, options: SummaryOptions) -> RunLogger:
    from runner_ascend.summary import Summary

    return Summary(run, options)


@hookimpl
def runner_register_loggers() -> Iterable[LoggerEntry]:
    """Offer the summary of the vendor's scripts."""
    yield LoggerEntry(
        name="ascend_summary",
        summary="The summary lines of the shell scripts of Ascend ModelZoo-PyTorch",
        config=SummaryOptions,
        open=_open_summary,
    )


def _is_resnet50(words: Sequence[str]) -> bool:
    from runner_ascend.importer_resnet50 import recognises

    return recognises(words)


def _resnet50(words: Sequence[str]) -> Translation:
    from runner_ascend.importer_resnet50 import translate

    return translate(words)


def _is_mobilenet_v2(words: Sequence[str]) -> bool:
    from runner_ascend.importer_mobilenet_v2 import recognises

    return recognises(words)


def _mobilenet_v2(words: Sequence[str]) -> Translation:
    from runner_ascend.importer_mobilenet_v2 import translate

    return translate(words)


@hookimpl
def runner_register_importers() -> Iterable[ImporterEntry]:
    """Offer translations of the vendor's training scripts."""
    yield ImporterEntry(
        name="ascend_resnet50",
        summary="ResNet50_for_PyTorch of Ascend ModelZoo-PyTorch",
        recognises=_is_resnet50,
        translate=_resnet50,
    )
    yield ImporterEntry(
        name="ascend_mobilenet_v2",
        summary="MobileNetV2_for_PyTorch of Ascend ModelZoo-PyTorch",
        recognises=_is_mobilenet_v2,
        translate=_mobilenet_v2,
    )

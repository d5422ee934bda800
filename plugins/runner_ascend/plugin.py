"""The entries of this plugin. Nothing here imports torch until an entry is used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runner import (
    Attempt,
    ConverterEntry,
    ImporterEntry,
    LauncherEntry,
    LoggerEntry,
    Place,
    PredictorEntry,
    hookimpl,
    lazy,
)
from runner_ascend.om_options import OmOptions
from runner_ascend.options import NpuOptions
from runner_ascend.summary import SummaryOptions
from runner_ascend.traits import NPU
from runner_torch.device_entry import device_entry
from runner_torch.launch import machine_place

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from runner import ArtifactInfo, DeviceEntry

TASK = "MINDX_TASK_ID"
"""Names the job of a pod, in every attempt the same one."""
INSTALL = (
    "pip install torch_npu, which needs CANN first (source its set_env.sh) and the release of "
    "torch that it names"
)


@hookimpl
def runner_register_devices() -> Iterable[DeviceEntry]:
    """Offer Ascend NPUs."""
    yield device_entry(
        NPU,
        summary="Huawei Ascend NPU",
        config=NpuOptions,
        install=INSTALL,
        configure=lazy("runner_ascend.device:configure"),
    )


def _pod_place(environ: Mapping[str, str]) -> Place | None:
    """Return the place of a pod of an AscendJob; ``RANK`` is that of the pod, the rest are cards'.

    One with a single card is told its place in the words in which torchrun tells a process its own.
    """
    local = environ.get("LOCAL_WORLD_SIZE", "")
    if TASK not in environ or not ("," in environ.get("LOCAL_RANK", "") or local == "1"):
        return None
    cards = environ.get("WORLD_SIZE", "")
    known = cards.isdecimal() and local.isdecimal()
    nodes = str(int(cards) // max(1, int(local))) if known else ""
    return machine_place(environ, nodes, environ.get("RANK", ""))


def _attempt(environ: Mapping[str, str]) -> Attempt | None:
    return Attempt(job=f"AscendJob {environ[TASK]}") if TASK in environ else None


@hookimpl
def runner_register_launchers() -> Iterable[LauncherEntry]:
    """Read what MindCluster tells the pods of a job."""
    yield LauncherEntry(
        name="ascendjob",
        summary="Pods of an AscendJob of MindCluster",
        place=_pod_place,
        attempt=_attempt,
    )


def _onnx_options(options: OmOptions) -> Mapping[str, Any]:
    return {
        "opset": options.opset,
        "input_name": options.input_name,
        "output_name": options.output_name,
        "batch_size": options.batch_size if options.fixed_batch else None,
    }


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
        convert=lazy("runner_ascend.om:convert"),
        refuses=lazy("runner_ascend.om:refuses"),
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
        load=lazy("runner_ascend.om_predictor:load_om"),
        executes=_om_executes,
    )


def _om_executes(folder: Path, info: ArtifactInfo) -> str:
    compiled = (folder / info.file).is_file()
    return "machine code for the card, and for its host" if compiled else ""


@hookimpl
def runner_register_loggers() -> Iterable[LoggerEntry]:
    """Offer the summary of the vendor's scripts."""
    yield LoggerEntry(
        name="ascend_summary",
        summary="The summary lines of the shell scripts of Ascend ModelZoo-PyTorch",
        config=SummaryOptions,
        open=lazy("runner_ascend.summary:Summary"),
    )


@hookimpl
def runner_register_importers() -> Iterable[ImporterEntry]:
    """Offer translations of the vendor's training scripts."""
    yield ImporterEntry(
        name="ascend_resnet50",
        summary="ResNet50_for_PyTorch of Ascend ModelZoo-PyTorch",
        recognises=lazy("runner_ascend.importer_resnet50:recognises"),
        translate=lazy("runner_ascend.importer_resnet50:translate"),
    )
    yield ImporterEntry(
        name="ascend_mobilenet_v2",
        summary="MobileNetV2_for_PyTorch of Ascend ModelZoo-PyTorch",
        recognises=lazy("runner_ascend.importer_mobilenet_v2:recognises"),
        translate=lazy("runner_ascend.importer_mobilenet_v2:translate"),
    )

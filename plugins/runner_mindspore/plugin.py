"""The entries of the MindSpore plugin. Nothing here imports MindSpore until an entry is used."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from runner import (
    DatasetEntry,
    DeviceEntry,
    ExporterEntry,
    FrameworkEntry,
    ImporterEntry,
    LauncherEntry,
    ModelEntry,
    OptimizerEntry,
    PredictorEntry,
    hookimpl,
    lazy,
)
from runner.data.layouts.options import ClassFoldersOptions
from runner.framework.options import (
    AdamWOptions,
    MobileNetOptions,
    ResNetOptions,
    SgdOptions,
)
from runner_mindspore.device_entry import FRAMEWORK, REQUIRES, device_entry
from runner_mindspore.options import (
    AscendOptions,
    CpuOptions,
    GpuOptions,
    MindSporeOptions,
)
from runner_mindspore.traits import ASCEND, CPU, GPU

if TYPE_CHECKING:
    from collections.abc import Iterable

    from runner.entries import ExportPlan

RUNNER_FRAMEWORK = FRAMEWORK
RUNNER_REQUIRES = REQUIRES
RUNNER_INSTALL = "pip install 'vision-runner[mindspore]'"


@hookimpl
def runner_register_frameworks() -> Iterable[FrameworkEntry]:
    """Offer MindSpore."""
    yield FrameworkEntry(
        name=RUNNER_FRAMEWORK,
        summary="MindSpore",
        config=MindSporeOptions,
        open=lazy("runner_mindspore.engine:open_engine"),
        build_module=lazy("runner_mindspore.weights:evaluation_model"),
        read_weights=lazy("runner_mindspore.weights:read_weights"),
        weight_suffixes=(".ckpt",),
        translate_weights=lazy("runner_mindspore.names:translate_weights"),
        launch=lazy("runner_mindspore.launch:launch"),
        join=lazy("runner_mindspore.group:join"),
        takes_signals=True,
    )


@hookimpl
def runner_register_launchers() -> Iterable[LauncherEntry]:
    """Read what msrun, rank tables and operators of Kubernetes tell of a process's place."""
    launchers = (
        ("msrun", "msrun of MindSpore", "place"),
        ("rank_table", "A command for each process, with a rank table", "rank_table_place"),
        ("ascendjob_mindspore", "Pods of an AscendJob with MindSpore", "pod_place"),
    )
    for name, summary, place in launchers:
        found = lazy(f"runner_mindspore.launch:{place}")
        yield LauncherEntry(name=name, framework=FRAMEWORK, summary=summary, place=found)


@hookimpl
def runner_register_devices() -> Iterable[DeviceEntry]:
    """Offer the processor, NVIDIA GPUs and Ascend NPUs."""
    yield device_entry(
        CPU,
        summary="This machine's processor",
        config=CpuOptions,
        install=RUNNER_INSTALL,
        configure=lazy("runner_mindspore.device:configure_cpu"),
    )
    yield device_entry(GPU, summary="NVIDIA GPU", config=GpuOptions, install=RUNNER_INSTALL)
    yield device_entry(
        ASCEND, summary="Huawei Ascend NPU", config=AscendOptions, install=RUNNER_INSTALL
    )


@hookimpl
def runner_register_datasets() -> Iterable[DatasetEntry]:
    """Offer class folders read by MindSpore's own pipeline."""
    yield DatasetEntry(
        name="mindspore_folders",
        summary="Images in a folder per class, decoded and augmented by MindSpore in C++",
        config=ClassFoldersOptions,
        framework=RUNNER_FRAMEWORK,
        open=lazy("runner.data.layouts.class_folders:open_class_folders"),
        open_loader=lazy("runner_mindspore.pipeline:open_loader"),
    )


RESNET = lazy("runner_mindspore.models:build_resnet")
MOBILENET_V2 = lazy("runner_mindspore.models:build_mobilenet_v2")
MODELS = (
    ("resnet18", "ResNet-18", ResNetOptions, RESNET, 11_689_512),
    ("resnet34", "ResNet-34", ResNetOptions, RESNET, 21_797_672),
    ("resnet50", "ResNet-50", ResNetOptions, RESNET, 25_557_032),
    ("resnet101", "ResNet-101", ResNetOptions, RESNET, 44_549_160),
    ("resnet152", "ResNet-152", ResNetOptions, RESNET, 60_192_808),
    ("resnext50_32x4d", "ResNeXt-50 32x4d", ResNetOptions, RESNET, 25_028_904),
    ("resnext101_64x4d", "ResNeXt-101 64x4d", ResNetOptions, RESNET, 83_455_272),
    ("resnext152_64x4d", "ResNeXt-152 64x4d", ResNetOptions, RESNET, 114_971_944),
    ("mobilenet_v2", "MobileNetV2", MobileNetOptions, MOBILENET_V2, 3_504_872),
)
"""Name, summary, options, builder, and parameters with 1,000 classes and default options."""


@hookimpl
def runner_register_models() -> Iterable[ModelEntry]:
    """Offer the ResNet and ResNeXt family, and MobileNetV2."""
    for name, summary, config, build, parameters in MODELS:
        yield ModelEntry(
            name=name,
            summary=summary,
            config=config,
            build=partial(build, name),
            parameters=parameters,
        )


@hookimpl
def runner_register_optimizers() -> Iterable[OptimizerEntry]:
    """Offer SGD and AdamW."""
    yield OptimizerEntry(
        name="sgd",
        summary="Stochastic gradient descent with momentum; weight decay enters the gradient",
        config=SgdOptions,
        build=lazy("runner_mindspore.optimizers:build_sgd"),
    )
    yield OptimizerEntry(
        name="adamw",
        summary="Adam with decoupled weight decay",
        config=AdamWOptions,
        build=lazy("runner_mindspore.optimizers:build_adamw"),
    )


def _refuse_air(plan: ExportPlan) -> str:
    if plan.device == "ascend":
        return ""
    return (
        f"AIR files are written by the compiler of Ascend, and the device is {plan.device}; use "
        "device: ascend, or export: mindir or onnx, which any device writes"
    )


@hookimpl
def runner_register_exporters() -> Iterable[ExporterEntry]:
    """Offer MINDIR, ONNX and AIR."""
    yield ExporterEntry(
        name="mindir",
        summary="MINDIR, which MindSpore runs without the model's code, for any batch size",
        export=lazy("runner_mindspore.exporters:export_mindir"),
    )
    yield ExporterEntry(
        name="onnx",
        summary="ONNX of opset 11 with the weights inside and any batch size",
        requires=("onnx",),
        install="pip install 'vision-runner[mindspore,onnx]'",
        export=lazy("runner_mindspore.exporters:export_onnx"),
    )
    yield ExporterEntry(
        name="air",
        summary="AIR for Ascend's offline converter; on Ascend only",
        export=lazy("runner_mindspore.exporters:export_air"),
        refuses=_refuse_air,
    )


@hookimpl
def runner_register_predictors() -> Iterable[PredictorEntry]:
    """Offer MindSpore as the runtime of its own exports."""
    yield PredictorEntry(
        name="mindir",
        summary="MINDIR files with MindSpore",
        formats=("mindir",),
        load=lazy("runner_mindspore.exporters:load_mindir"),
        executes=lazy("runner_mindspore.graphs:executes"),
    )


@hookimpl
def runner_register_importers() -> Iterable[ImporterEntry]:
    """Offer translations of the ResNeXt-152 of MindSpore models."""
    yield ImporterEntry(
        name="mindspore_resnext152",
        summary="research/cv/resnext152_64x4d of MindSpore models",
        recognises=lazy("runner_mindspore.importer:recognises"),
        translate=lazy("runner_mindspore.importer:translate"),
    )

"""The entries of the MindSpore plugin. Nothing here imports MindSpore until an entry is used."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from runner.data.layouts.options import ClassFoldersOptions
from runner.entries import (
    DatasetEntry,
    DeviceEntry,
    ExporterEntry,
    FrameworkEntry,
    ImporterEntry,
    ModelEntry,
    OptimizerEntry,
    PredictorEntry,
)
from runner.framework.options import (
    AdamWOptions,
    MobileNetOptions,
    ResNetOptions,
    SgdOptions,
)
from runner.hooks import hookimpl
from runner_mindspore.device_entry import FRAMEWORK, REQUIRES, device_entry
from runner_mindspore.options import (
    AscendOptions,
    CpuOptions,
    GpuOptions,
    MindSporeOptions,
)
from runner_mindspore.traits import ASCEND, CPU, GPU

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from runner.contracts import (
        ArtifactInfo,
        Dataset,
        Device,
        Engine,
        EngineSpec,
        Group,
        Loader,
        Predictor,
        StoredWeights,
    )
    from runner.distributed.machines import Machines
    from runner.entries import (
        Command,
        ExportPlan,
        LaunchRequest,
        LoaderRequest,
        Translation,
    )
    from runner.options import NoOptions

INSTALL = "pip install 'vision-runner[mindspore]'"


def _open_engine(spec: EngineSpec, device: Device) -> Engine:
    from runner_mindspore.engine import open_engine

    return open_engine(spec, device)


def _read_weights(path: Path) -> StoredWeights:
    from runner_mindspore.weights import read_weights

    return read_weights(path)


def _translate_weights(stored: StoredWeights) -> StoredWeights | None:
    from runner_mindspore.names import translate_weights

    return translate_weights(stored)


def _launch(request: LaunchRequest) -> Sequence[Command]:
    from runner_mindspore.launch import launch

    return launch(request)


def _launched_world_size() -> int | None:
    from runner_mindspore.launch import launched_world_size

    return launched_world_size()


def _pod() -> Machines | None:
    from runner_mindspore.launch import pod

    return pod()


def _launched_local_rank() -> int | None:
    from runner_mindspore.launch import launched_local_rank

    return launched_local_rank()


def _join(device: Device, timeout_s: float) -> Group:
    from runner_mindspore.group import join

    return join(device, timeout_s)


@hookimpl
def runner_register_frameworks() -> Iterable[FrameworkEntry]:
    """Offer MindSpore."""
    yield FrameworkEntry(
        name=FRAMEWORK,
        summary="MindSpore",
        config=MindSporeOptions,
        requires=REQUIRES,
        install=INSTALL,
        open=_open_engine,
        read_weights=_read_weights,
        weight_suffixes=(".ckpt",),
        translate_weights=_translate_weights,
        launch=_launch,
        launched_world_size=_launched_world_size,
        launched_local_rank=_launched_local_rank,
        pod=_pod,
        join=_join,
        takes_signals=True,
    )


def _configure_cpu(options: CpuOptions) -> Mapping[str, Any]:
    from runner_mindspore.device import configure_cpu

    return configure_cpu(options)


@hookimpl
def runner_register_devices() -> Iterable[DeviceEntry]:
    """Offer the processor, NVIDIA GPUs and Ascend NPUs."""
    yield device_entry(
        CPU,
        summary="This machine's processor",
        config=CpuOptions,
        install=INSTALL,
        configure=_configure_cpu,
    )
    yield device_entry(GPU, summary="NVIDIA GPU", config=GpuOptions, install=INSTALL)
    yield device_entry(ASCEND, summary="Huawei Ascend NPU", config=AscendOptions, install=INSTALL)


def _open_folders(options: ClassFoldersOptions, split: str) -> Dataset:
    from runner.data.layouts.class_folders import open_class_folders

    return open_class_folders(options, split)


def _open_loader(request: LoaderRequest) -> Loader:
    from runner_mindspore.pipeline import open_loader

    return open_loader(request)


@hookimpl
def runner_register_datasets() -> Iterable[DatasetEntry]:
    """Offer class folders read by MindSpore's own pipeline."""
    yield DatasetEntry(
        name="mindspore_folders",
        summary="Images in a folder per class, decoded and augmented by MindSpore in C++",
        config=ClassFoldersOptions,
        requires=REQUIRES,
        install=INSTALL,
        framework=FRAMEWORK,
        open=_open_folders,
        open_loader=_open_loader,
    )


def _build_resnet(name: str, options: ResNetOptions, num_classes: int) -> object:
    from runner_mindspore.models import build_resnet

    return build_resnet(name, options, num_classes)


def _build_mobilenet_v2(name: str, options: MobileNetOptions, num_classes: int) -> object:
    from runner_mindspore.models import build_mobilenet_v2

    return build_mobilenet_v2(name, options, num_classes)


MODELS = (
    ("resnet18", "ResNet-18", ResNetOptions, _build_resnet, 11_689_512),
    ("resnet34", "ResNet-34", ResNetOptions, _build_resnet, 21_797_672),
    ("resnet50", "ResNet-50", ResNetOptions, _build_resnet, 25_557_032),
    ("resnet101", "ResNet-101", ResNetOptions, _build_resnet, 44_549_160),
    ("resnet152", "ResNet-152", ResNetOptions, _build_resnet, 60_192_808),
    ("resnext50_32x4d", "ResNeXt-50 32x4d", ResNetOptions, _build_resnet, 25_028_904),
    ("resnext101_64x4d", "ResNeXt-101 64x4d", ResNetOptions, _build_resnet, 83_455_272),
    ("resnext152_64x4d", "ResNeXt-152 64x4d", ResNetOptions, _build_resnet, 114_971_944),
    ("mobilenet_v2", "MobileNetV2", MobileNetOptions, _build_mobilenet_v2, 3_504_872),
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
            requires=REQUIRES,
            install=INSTALL,
            framework=FRAMEWORK,
            build=partial(build, name),
            parameters=parameters,
        )


def _build_sgd(groups: Any, options: SgdOptions, learning_rate: float) -> object:
    from runner_mindspore.optimizers import build_sgd

    return build_sgd(groups, options, learning_rate)


def _build_adamw(groups: Any, options: AdamWOptions, learning_rate: float) -> object:
    from runner_mindspore.optimizers import build_adamw

    return build_adamw(groups, options, learning_rate)


@hookimpl
def runner_register_optimizers() -> Iterable[OptimizerEntry]:
    """Offer SGD and AdamW."""
    yield OptimizerEntry(
        name="sgd",
        summary="Stochastic gradient descent with momentum; weight decay enters the gradient",
        config=SgdOptions,
        requires=REQUIRES,
        install=INSTALL,
        framework=FRAMEWORK,
        build=_build_sgd,
    )
    yield OptimizerEntry(
        name="adamw",
        summary="Adam with decoupled weight decay",
        config=AdamWOptions,
        requires=REQUIRES,
        install=INSTALL,
        framework=FRAMEWORK,
        build=_build_adamw,
    )


def _export_mindir(
    engine: Engine, spec: EngineSpec, options: NoOptions, folder: Path
) -> ArtifactInfo:
    from runner_mindspore.exporters import export_mindir

    return export_mindir(engine, spec, options, folder)


def _export_onnx(
    engine: Engine, spec: EngineSpec, options: NoOptions, folder: Path
) -> ArtifactInfo:
    from runner_mindspore.exporters import export_onnx

    return export_onnx(engine, spec, options, folder)


def _refuse_air(plan: ExportPlan) -> str:
    if plan.device == "ascend":
        return ""
    return (
        f"AIR files are written by the compiler of Ascend, and the device is {plan.device}; use "
        "device: ascend, or export: mindir or onnx, which any device writes"
    )


def _export_air(engine: Engine, spec: EngineSpec, options: NoOptions, folder: Path) -> ArtifactInfo:
    from runner_mindspore.exporters import export_air

    return export_air(engine, spec, options, folder)


@hookimpl
def runner_register_exporters() -> Iterable[ExporterEntry]:
    """Offer MINDIR, ONNX and AIR."""
    yield ExporterEntry(
        name="mindir",
        summary="MINDIR, which MindSpore runs without the model's code, for any batch size",
        requires=REQUIRES,
        install=INSTALL,
        framework=FRAMEWORK,
        export=_export_mindir,
    )
    yield ExporterEntry(
        name="onnx",
        summary="ONNX of opset 11 with the weights inside and any batch size",
        requires=(*REQUIRES, "onnx"),
        install="pip install 'vision-runner[mindspore,onnx]'",
        framework=FRAMEWORK,
        export=_export_onnx,
    )
    yield ExporterEntry(
        name="air",
        summary="AIR for Ascend's offline converter; on Ascend only",
        requires=REQUIRES,
        install=INSTALL,
        framework=FRAMEWORK,
        export=_export_air,
        refuses=_refuse_air,
    )


def _load_mindir(folder: Path, info: ArtifactInfo) -> Predictor:
    from runner_mindspore.exporters import load_mindir

    return load_mindir(folder, info)


def _mindir_executes(folder: Path, info: ArtifactInfo) -> str:
    from runner_mindspore.graphs import executes

    return executes(folder / info.file)


@hookimpl
def runner_register_predictors() -> Iterable[PredictorEntry]:
    """Offer MindSpore as the runtime of its own exports."""
    yield PredictorEntry(
        name="mindir",
        summary="MINDIR files with MindSpore",
        requires=REQUIRES,
        install=INSTALL,
        formats=("mindir",),
        load=_load_mindir,
        executes=_mindir_executes,
    )


def _recognises(words: Sequence[str]) -> bool:
    from runner_mindspore.importer import recognises

    return recognises(words)


def _translate(words: Sequence[str]) -> Translation:
    from runner_mindspore.importer import translate

    return translate(words)


@hookimpl
def runner_register_importers() -> Iterable[ImporterEntry]:
    """Offer translations of the ResNeXt-152 of MindSpore models."""
    yield ImporterEntry(
        name="mindspore_resnext152",
        summary="research/cv/resnext152_64x4d of MindSpore models",
        recognises=_recognises,
        translate=_translate,
    )

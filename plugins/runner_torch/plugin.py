"""The entries of the PyTorch plugin. Nothing here imports torch until an entry is used."""

from __future__ import annotations

import os
import shutil
from functools import partial
from typing import TYPE_CHECKING, Any

from runner.entries import (
    DeviceEntry,
    ExporterEntry,
    FrameworkEntry,
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
from runner.options import NoOptions
from runner_torch.device_entry import FRAMEWORK, REQUIRES, device_entry
from runner_torch.launch import (
    job,
    launch,
    launched_local_rank,
    launched_world_size,
    pod,
    rank_environment,
)
from runner_torch.options import (
    CompiledOptions,
    CpuOptions,
    CudaOptions,
    DropoutOptions,
    GoogLeNetOptions,
    OnnxOptions,
    TorchOptions,
)
from runner_torch.traits import CPU, CUDA

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from runner.contracts import (
        ArtifactInfo,
        Device,
        Engine,
        EngineSpec,
        Group,
        Predictor,
        StoredWeights,
    )
    from runner.entries import ExportPlan

INSTALL = "pip install 'vision-runner[torch]'"


def _open_engine(spec: EngineSpec, device: Device) -> Engine:
    from runner_torch.engine import open_engine

    return open_engine(spec, device)


def _read_weights(path: Path) -> StoredWeights:
    from runner_torch import saved_files

    return saved_files.read(path)


def _recognises_weights(path: Path) -> bool:
    from runner_torch import saved_files

    return saved_files.recognises(path)


def _join(device: Device, timeout_s: float) -> Group:
    from runner_torch.group import join

    return join(device, timeout_s)


@hookimpl
def runner_register_frameworks() -> Iterable[FrameworkEntry]:
    """Offer PyTorch."""
    yield FrameworkEntry(
        name=FRAMEWORK,
        summary="PyTorch with torchvision",
        config=TorchOptions,
        requires=REQUIRES,
        install=INSTALL,
        open=_open_engine,
        read_weights=_read_weights,
        weight_suffixes=(".pth", ".pt", ".tar", ".bin"),
        recognises_weights=_recognises_weights,
        launch=launch,
        launched_world_size=launched_world_size,
        launched_local_rank=launched_local_rank,
        rank_environment=rank_environment,
        pod=pod,
        job=job,
        join=_join,
    )


def _configure_cpu(options: CpuOptions) -> Mapping[str, Any]:
    from runner_torch.device import configure_cpu

    return configure_cpu(options)


def _configure_cuda(options: CudaOptions) -> Mapping[str, Any]:
    from runner_torch.device import configure_cuda

    return configure_cuda(options)


@hookimpl
def runner_register_devices() -> Iterable[DeviceEntry]:
    """Offer the processor and NVIDIA GPUs."""
    yield device_entry(
        CPU,
        summary="This machine's processor",
        config=CpuOptions,
        install=INSTALL,
        configure=_configure_cpu,
    )
    yield device_entry(
        CUDA,
        summary="NVIDIA GPU",
        config=CudaOptions,
        install=INSTALL,
        configure=_configure_cuda,
    )


def _build_resnet(name: str, options: ResNetOptions, num_classes: int) -> object:
    from runner_torch.models import build_resnet

    return build_resnet(name, options, num_classes)


def _build_dropout(
    name: str, options: DropoutOptions | MobileNetOptions, num_classes: int
) -> object:
    from runner_torch.models import build_dropout

    return build_dropout(name, options, num_classes)


def _build_googlenet(name: str, options: GoogLeNetOptions, num_classes: int) -> object:
    from runner_torch.models import build_googlenet

    return build_googlenet(name, options, num_classes)


def _build_plain(name: str, options: NoOptions, num_classes: int) -> object:
    from runner_torch.models import build_plain

    return build_plain(name, options, num_classes)


MODELS = (
    ("alexnet", "AlexNet", DropoutOptions, _build_dropout, 61_100_840),
    ("vgg16", "VGG-16", DropoutOptions, _build_dropout, 138_357_544),
    ("vgg16_bn", "VGG-16 with batch norm", DropoutOptions, _build_dropout, 138_365_992),
    ("vgg19", "VGG-19", DropoutOptions, _build_dropout, 143_667_240),
    ("resnet18", "ResNet-18", ResNetOptions, _build_resnet, 11_689_512),
    ("resnet34", "ResNet-34", ResNetOptions, _build_resnet, 21_797_672),
    ("resnet50", "ResNet-50", ResNetOptions, _build_resnet, 25_557_032),
    ("resnet101", "ResNet-101", ResNetOptions, _build_resnet, 44_549_160),
    ("resnet152", "ResNet-152", ResNetOptions, _build_resnet, 60_192_808),
    ("resnext50_32x4d", "ResNeXt-50 32x4d", ResNetOptions, _build_resnet, 25_028_904),
    ("resnext101_64x4d", "ResNeXt-101 64x4d", ResNetOptions, _build_resnet, 83_455_272),
    ("resnext152_64x4d", "ResNeXt-152 64x4d", ResNetOptions, _build_resnet, 114_971_944),
    ("mobilenet_v2", "MobileNetV2", MobileNetOptions, _build_dropout, 3_504_872),
    ("googlenet", "GoogLeNet", GoogLeNetOptions, _build_googlenet, 13_004_888),
    ("shufflenet_v2_x0_5", "ShuffleNetV2 x0.5", NoOptions, _build_plain, 1_366_792),
    ("shufflenet_v2_x1_0", "ShuffleNetV2 x1.0", NoOptions, _build_plain, 2_278_604),
    ("shufflenet_v2_x1_5", "ShuffleNetV2 x1.5", NoOptions, _build_plain, 3_503_624),
)
"""Name, summary, options, builder, and parameters with 1,000 classes and default options."""
AUXILIARY = {"aux_heads": ("aux1.", "aux2.")}
"""The option that adds GoogLeNet's auxiliary heads, and how the names of their tensors begin."""


@hookimpl
def runner_register_models() -> Iterable[ModelEntry]:
    """Offer torchvision's classifiers, and ResNeXt-152 64x4d."""
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
            training_heads=AUXILIARY if config is GoogLeNetOptions else {},
        )


def _build_sgd(groups: Any, options: SgdOptions, learning_rate: float) -> object:
    from runner_torch.optimizers import build_sgd

    return build_sgd(groups, options, learning_rate)


def _build_adamw(groups: Any, options: AdamWOptions, learning_rate: float) -> object:
    from runner_torch.optimizers import build_adamw

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


def _export_onnx(
    engine: Engine, spec: EngineSpec, options: OnnxOptions, folder: Path
) -> ArtifactInfo:
    from runner_torch.exporters import export_onnx

    return export_onnx(engine, spec, options, folder)


def _export_program(
    engine: Engine, spec: EngineSpec, options: NoOptions, folder: Path
) -> ArtifactInfo:
    from runner_torch.exporters import export_program

    return export_program(engine, spec, options, folder)


def _refuse_compiled(plan: ExportPlan) -> str:
    compiler = os.environ.get("CXX") or "g++"
    if shutil.which(compiler.split()[0]):
        return ""
    return (
        f"AOTInductor needs a C++ compiler, and there is no {compiler}; install one, name another "
        "in CXX, or choose export: torch_export, which needs none"
    )


def _export_compiled(
    engine: Engine, spec: EngineSpec, options: CompiledOptions, folder: Path
) -> ArtifactInfo:
    from runner_torch.compiled import export_compiled

    return export_compiled(engine, spec, options, folder)


@hookimpl
def runner_register_exporters() -> Iterable[ExporterEntry]:
    """Offer ONNX, torch.export and AOTInductor."""
    yield ExporterEntry(
        name="onnx",
        summary="ONNX with the weights inside and any batch size",
        config=OnnxOptions,
        requires=(*REQUIRES, "onnx", "onnxscript"),
        install="pip install 'vision-runner[torch,onnx]'",
        framework=FRAMEWORK,
        export=_export_onnx,
    )
    yield ExporterEntry(
        name="torch_export",
        summary="torch.export program (.pt2), which torch runs without the model's code",
        requires=REQUIRES,
        install=INSTALL,
        framework=FRAMEWORK,
        export=_export_program,
    )
    yield ExporterEntry(
        name="aot_inductor",
        summary="Compiled by AOTInductor for this machine's processor (.pt2); needs a C++ compiler",
        config=CompiledOptions,
        requires=REQUIRES,
        install=INSTALL,
        framework=FRAMEWORK,
        export=_export_compiled,
        refuses=_refuse_compiled,
    )


def _load_program(folder: Path, info: ArtifactInfo) -> Predictor:
    from runner_torch.exporters import load_program

    return load_program(folder, info)


def _load_compiled(folder: Path, info: ArtifactInfo) -> Predictor:
    from runner_torch.compiled import load_compiled

    return load_compiled(folder, info)


def _program_executes(folder: Path, info: ArtifactInfo) -> str:
    from runner_torch.programs import executes

    return executes(folder / info.file)


def _compiled_executes(folder: Path, info: ArtifactInfo) -> str:
    return "a shared library, which AOTInductor compiled"


@hookimpl
def runner_register_predictors() -> Iterable[PredictorEntry]:
    """Offer torch as the runtime of its own exports."""
    yield PredictorEntry(
        name="torch_export",
        summary="torch.export programs on the CPU",
        requires=REQUIRES,
        install=INSTALL,
        formats=("torch_export",),
        load=_load_program,
        executes=_program_executes,
    )
    yield PredictorEntry(
        name="aot_inductor",
        summary="Models compiled by AOTInductor, on the CPU",
        requires=REQUIRES,
        install=INSTALL,
        formats=("aot_inductor",),
        load=_load_compiled,
        executes=_compiled_executes,
    )

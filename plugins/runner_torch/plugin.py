"""The entries of the PyTorch plugin. Nothing here imports torch until an entry is used."""

from __future__ import annotations

import os
import shutil
from functools import partial
from typing import TYPE_CHECKING

from runner import (
    DeviceEntry,
    ExporterEntry,
    FrameworkEntry,
    LauncherEntry,
    ModelEntry,
    NoOptions,
    OptimizerEntry,
    PredictorEntry,
    hookimpl,
    lazy,
)
from runner.framework.options import (
    AdamWOptions,
    MobileNetOptions,
    ResNetOptions,
    SgdOptions,
)
from runner_torch.device_entry import FRAMEWORK, REQUIRES, device_entry
from runner_torch.launch import (
    attempt,
    env_place,
    kubeflow_attempt,
    launch,
    place,
    pod_place,
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
    from collections.abc import Iterable
    from pathlib import Path

    from runner import ArtifactInfo
    from runner.entries import ExportPlan

RUNNER_FRAMEWORK = FRAMEWORK
RUNNER_REQUIRES = REQUIRES
RUNNER_INSTALL = "pip install 'vision-runner[torch]'"


@hookimpl
def runner_register_frameworks() -> Iterable[FrameworkEntry]:
    """Offer PyTorch."""
    yield FrameworkEntry(
        name=FRAMEWORK,
        summary="PyTorch with torchvision",
        config=TorchOptions,
        open=lazy("runner_torch.engine:open_engine"),
        build_module=lazy("runner_torch.weights:evaluation_model"),
        read_weights=lazy("runner_torch.saved_files:read"),
        weight_suffixes=(".pth", ".pt", ".tar", ".bin"),
        recognises_weights=lazy("runner_torch.saved_files:recognises"),
        launch=launch,
        rank_environment=rank_environment,
        join=lazy("runner_torch.group:join"),
    )


@hookimpl
def runner_register_launchers() -> Iterable[LauncherEntry]:
    """Read what torchrun, Kubeflow and scripts tell of a process's place."""
    yield LauncherEntry(
        name="torchrun",
        framework=FRAMEWORK,
        summary="torchrun, whose agent may start its processes again",
        place=place,
        attempt=attempt,
    )
    yield LauncherEntry(
        name="kubeflow",
        framework=FRAMEWORK,
        summary="Pods of a TrainJob or a PyTorchJob",
        place=pod_place,
        attempt=kubeflow_attempt,
    )
    yield LauncherEntry(
        name="env",
        framework=FRAMEWORK,
        summary="A script that sets RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE",
        place=env_place,
        shared_variables=True,
    )


@hookimpl
def runner_register_devices() -> Iterable[DeviceEntry]:
    """Offer the processor and NVIDIA GPUs."""
    yield device_entry(
        CPU,
        summary="This machine's processor",
        config=CpuOptions,
        install=RUNNER_INSTALL,
        configure=lazy("runner_torch.device:configure_cpu"),
    )
    yield device_entry(
        CUDA,
        summary="NVIDIA GPU",
        config=CudaOptions,
        install=RUNNER_INSTALL,
        configure=lazy("runner_torch.device:configure_cuda"),
    )


RESNET = lazy("runner_torch.models:build_resnet")
DROPOUT = lazy("runner_torch.models:build_dropout")
GOOGLENET = lazy("runner_torch.models:build_googlenet")
PLAIN = lazy("runner_torch.models:build_plain")
MODELS = (
    ("alexnet", "AlexNet", DropoutOptions, DROPOUT, 61_100_840),
    ("vgg16", "VGG-16", DropoutOptions, DROPOUT, 138_357_544),
    ("vgg16_bn", "VGG-16 with batch norm", DropoutOptions, DROPOUT, 138_365_992),
    ("vgg19", "VGG-19", DropoutOptions, DROPOUT, 143_667_240),
    ("resnet18", "ResNet-18", ResNetOptions, RESNET, 11_689_512),
    ("resnet34", "ResNet-34", ResNetOptions, RESNET, 21_797_672),
    ("resnet50", "ResNet-50", ResNetOptions, RESNET, 25_557_032),
    ("resnet101", "ResNet-101", ResNetOptions, RESNET, 44_549_160),
    ("resnet152", "ResNet-152", ResNetOptions, RESNET, 60_192_808),
    ("resnext50_32x4d", "ResNeXt-50 32x4d", ResNetOptions, RESNET, 25_028_904),
    ("resnext101_64x4d", "ResNeXt-101 64x4d", ResNetOptions, RESNET, 83_455_272),
    ("resnext152_64x4d", "ResNeXt-152 64x4d", ResNetOptions, RESNET, 114_971_944),
    ("mobilenet_v2", "MobileNetV2", MobileNetOptions, DROPOUT, 3_504_872),
    ("googlenet", "GoogLeNet", GoogLeNetOptions, GOOGLENET, 13_004_888),
    ("shufflenet_v2_x0_5", "ShuffleNetV2 x0.5", NoOptions, PLAIN, 1_366_792),
    ("shufflenet_v2_x1_0", "ShuffleNetV2 x1.0", NoOptions, PLAIN, 2_278_604),
    ("shufflenet_v2_x1_5", "ShuffleNetV2 x1.5", NoOptions, PLAIN, 3_503_624),
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
            build=partial(build, name),
            parameters=parameters,
            training_heads=AUXILIARY if config is GoogLeNetOptions else {},
        )


@hookimpl
def runner_register_optimizers() -> Iterable[OptimizerEntry]:
    """Offer SGD and AdamW."""
    yield OptimizerEntry(
        name="sgd",
        summary="Stochastic gradient descent with momentum; weight decay enters the gradient",
        config=SgdOptions,
        build=lazy("runner_torch.optimizers:build_sgd"),
    )
    yield OptimizerEntry(
        name="adamw",
        summary="Adam with decoupled weight decay",
        config=AdamWOptions,
        build=lazy("runner_torch.optimizers:build_adamw"),
    )


def _refuse_compiled(plan: ExportPlan) -> str:
    compiler = os.environ.get("CXX") or "g++"
    if shutil.which(compiler.split()[0]):
        return ""
    return (
        f"AOTInductor needs a C++ compiler, and there is no {compiler}; install one, name another "
        "in CXX, or choose export: torch_export, which needs none"
    )


@hookimpl
def runner_register_exporters() -> Iterable[ExporterEntry]:
    """Offer ONNX, torch.export and AOTInductor."""
    yield ExporterEntry(
        name="onnx",
        summary="ONNX with the weights inside and any batch size",
        config=OnnxOptions,
        requires=("onnx", "onnxscript"),
        install="pip install 'vision-runner[torch,onnx]'",
        export=lazy("runner_torch.exporters:export_onnx"),
    )
    yield ExporterEntry(
        name="torch_export",
        summary="torch.export program (.pt2), which torch runs without the model's code",
        export=lazy("runner_torch.exporters:export_program"),
    )
    yield ExporterEntry(
        name="aot_inductor",
        summary="Compiled by AOTInductor for this machine's processor (.pt2); needs a C++ compiler",
        config=CompiledOptions,
        export=lazy("runner_torch.compiled:export_compiled"),
        refuses=_refuse_compiled,
    )


def _compiled_executes(folder: Path, info: ArtifactInfo) -> str:
    return "a shared library, which AOTInductor compiled"


@hookimpl
def runner_register_predictors() -> Iterable[PredictorEntry]:
    """Offer torch as the runtime of its own exports."""
    yield PredictorEntry(
        name="torch_export",
        summary="torch.export programs on the CPU",
        formats=("torch_export",),
        load=lazy("runner_torch.exporters:load_program"),
        executes=lazy("runner_torch.programs:executes"),
    )
    yield PredictorEntry(
        name="aot_inductor",
        summary="Models compiled by AOTInductor, on the CPU",
        formats=("aot_inductor",),
        load=lazy("runner_torch.compiled:load_compiled"),
        executes=_compiled_executes,
    )

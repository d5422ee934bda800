"""Vision Runner: one command runs an image-classification recipe on any framework and device.

These names are the public interface: for programs the functions of ``runner.api`` and what they
return, for plugin authors entries, and the types that their functions take and return.
``runner.framework`` has what framework plugins share, ``runner.testing`` the checks that they can
run, and ``runner.errors`` what is raised.
"""

from __future__ import annotations

import runner.system.own_path  # noqa: F401  before what a file of the current folder may replace
from runner.options import NoOptions, options  # the module would take the name of the decorator

TYPE_CHECKING = False  # type checkers read it as true; typing, too, must not come before own_path
if TYPE_CHECKING:
    from runner.api import (
        Artifact,
        Benchmark,
        Evaluation,
        Model,
        Prediction,
        RecipePlan,
        Run,
        Verification,
        bench,
        evaluate,
        evaluate_all,
        explain,
        export,
        list_entries,
        load_model,
        load_recipe,
        load_run,
        predict,
        resume,
        run,
        train,
        verify,
    )
    from runner.cli.console import Console
    from runner.contracts import (
        ArtifactInfo,
        Availability,
        Batch,
        DamagedImage,
        Dataset,
        Deferred,
        Device,
        Engine,
        EngineState,
        EvalCounts,
        Group,
        Loader,
        Predictor,
        RunInfo,
        RunLogger,
        StepRecord,
        StepResult,
        StoredWeights,
    )
    from runner.entries import (
        Attempt,
        Command,
        ConversionRequest,
        ConverterEntry,
        DatasetEntry,
        DeviceEntry,
        EngineSpec,
        ExporterEntry,
        FrameworkEntry,
        ImporterEntry,
        LauncherEntry,
        LaunchRequest,
        LoaderRequest,
        LoggerEntry,
        ModelEntry,
        OptimizerEntry,
        Place,
        PredictorEntry,
        Translation,
        lazy,
    )
    from runner.errors import RunnerError, StopRun
    from runner.hooks import hookimpl

__version__ = "0.1.0"

__all__ = [
    "Artifact",
    "ArtifactInfo",
    "Attempt",
    "Availability",
    "Batch",
    "Benchmark",
    "Command",
    "Console",
    "ConversionRequest",
    "ConverterEntry",
    "DamagedImage",
    "Dataset",
    "DatasetEntry",
    "Deferred",
    "Device",
    "DeviceEntry",
    "Engine",
    "EngineSpec",
    "EngineState",
    "EvalCounts",
    "Evaluation",
    "ExporterEntry",
    "FrameworkEntry",
    "Group",
    "ImporterEntry",
    "LaunchRequest",
    "LauncherEntry",
    "Loader",
    "LoaderRequest",
    "LoggerEntry",
    "Model",
    "ModelEntry",
    "NoOptions",
    "OptimizerEntry",
    "Place",
    "Prediction",
    "Predictor",
    "PredictorEntry",
    "RecipePlan",
    "Run",
    "RunInfo",
    "RunLogger",
    "RunnerError",
    "StepRecord",
    "StepResult",
    "StopRun",
    "StoredWeights",
    "Translation",
    "Verification",
    "__version__",
    "bench",
    "evaluate",
    "evaluate_all",
    "explain",
    "export",
    "hookimpl",
    "lazy",
    "list_entries",
    "load_model",
    "load_recipe",
    "load_run",
    "options",
    "predict",
    "resume",
    "run",
    "train",
    "verify",
]


def __getattr__(name: str) -> object:
    """Import what is asked for; ``import runner`` alone costs next to nothing."""
    if name in __all__:
        from importlib import import_module

        for module in ("hooks", "entries", "contracts", "errors", "api", "cli.console"):
            found = vars(import_module(f"runner.{module}"))
            if name in found:
                return globals().setdefault(name, found[name])
    raise AttributeError(f"module 'runner' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

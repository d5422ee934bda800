"""Vision Runner: one command runs an image-classification recipe on any framework and device.

These names are the public interface for plugin authors; ``runner.contracts`` holds the protocols
that their objects follow and ``runner.testing`` the checks that they can run.
"""

import runner.system.own_path  # noqa: F401  before what a file of the current folder may replace
from runner.contracts import (
    ArtifactInfo,
    Availability,
    Batch,
    EngineState,
    EvalCounts,
    StepResult,
    StoredWeights,
)
from runner.entries import (
    ConverterEntry,
    DatasetEntry,
    DeviceEntry,
    ExporterEntry,
    FrameworkEntry,
    ImporterEntry,
    LoggerEntry,
    ModelEntry,
    OptimizerEntry,
    PredictorEntry,
    Translation,
)
from runner.hooks import hookimpl
from runner.options import NoOptions, options

__version__ = "0.1.0"

__all__ = [
    "ArtifactInfo",
    "Availability",
    "Batch",
    "ConverterEntry",
    "DatasetEntry",
    "DeviceEntry",
    "EngineState",
    "EvalCounts",
    "ExporterEntry",
    "FrameworkEntry",
    "ImporterEntry",
    "LoggerEntry",
    "ModelEntry",
    "NoOptions",
    "OptimizerEntry",
    "PredictorEntry",
    "StepResult",
    "StoredWeights",
    "Translation",
    "__version__",
    "hookimpl",
    "options",
]

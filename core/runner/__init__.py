"""Vision Runner: one command runs an image-classification recipe on any framework and device.

These names are the public interface for plugin authors; ``runner.contracts`` holds the protocols
that their objects follow and ``runner.testing`` the checks that they can run.
"""

from __future__ import annotations

import runner.system.own_path  # noqa: F401  before what a file of the current folder may replace
from runner.options import NoOptions, options  # the module would take the name of the decorator

TYPE_CHECKING = False  # type checkers read it as true; typing, too, must not come before own_path
if TYPE_CHECKING:
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
        lazy,
    )
    from runner.hooks import hookimpl

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
    "lazy",
    "options",
]


def __getattr__(name: str) -> object:
    """Import what is asked for; ``import runner`` alone costs next to nothing."""
    if name in __all__:
        from importlib import import_module

        for module in ("hooks", "entries", "contracts"):
            found = vars(import_module(f"runner.{module}"))
            if name in found:
                return globals().setdefault(name, found[name])
    raise AttributeError(f"module 'runner' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

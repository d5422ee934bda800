"""The errors a user can meet.

    RunnerError                    exit code
    ├── UsageError                 2    a command was called with something that does not exist
    ├── RecipeError                2    the recipe is wrong; holds every problem found in it
    ├── PluginError                3    a plugin failed, clashes with another, or is missing
    ├── DeviceError                4    the device cannot do what is asked
    │   └── MissingDeviceError     4    the device is not there
    ├── DataError                  5    the dataset or an image in it
    ├── CheckpointError            6    a checkpoint is damaged or does not fit
    ├── ArtifactError              7    an export failed, or its result disagrees with the model
    │   └── MissingRuntimeError    7    no installed runtime can execute an artifact
    ├── NonFiniteError             8    the loss or the weights are not finite
    ├── StorageError               9    the disk is full or the run folder cannot be written
    ├── OtherRankError             1    another of the processes that work together failed
    ├── InterruptedRunError        128 + the number of the signal that asked
    └── StopRun                    1    a listener ends the run; raised in one, it saves and leaves

A message answers three questions: what was found, what was expected, how to fix it.
It starts in lower case and has no full stop when it is one sentence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class RunnerError(Exception):
    """An error that is explained by its message alone; the command line prints no traceback."""

    exit_code = 1
    rank: int | None = None
    """Number of the process, among several that work together, that the error happened in."""
    said = False
    """Whether a process that was started for the run has printed it already."""


class UsageError(RunnerError):
    """A command was called with something that does not exist or does not fit."""

    exit_code = 2


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing wrong with a recipe: where, and what."""

    file: str
    line: int
    column: int
    message: str

    def __str__(self) -> str:
        if not self.line:
            return f"{self.file}: {self.message}"
        return f"{self.file}:{self.line}:{self.column}: {self.message}"


class RecipeError(RunnerError):
    """Everything that is wrong with a recipe, at once."""

    exit_code = 2

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class PluginError(RunnerError):
    """A plugin failed, clashes with another, or is missing."""

    exit_code = 3


class DeviceError(RunnerError):
    """The device is not there, or cannot do what the recipe asks."""

    exit_code = 4


class MissingDeviceError(DeviceError):
    """The device is not there."""

    def __init__(self, message: str, host_device: str | None) -> None:
        self.host_device = host_device
        """Device entry of the same framework that is there on every machine."""
        super().__init__(message)


class DataError(RunnerError):
    """The dataset, or an image in it, is not what the recipe says."""

    exit_code = 5


class CheckpointError(RunnerError):
    """A checkpoint is damaged, or does not fit the model or the data."""

    exit_code = 6


class ArtifactError(RunnerError):
    """An export failed, or the exported model disagrees with the live one."""

    exit_code = 7


class MissingRuntimeError(ArtifactError):
    """No installed runtime can execute an artifact."""


class NonFiniteError(RunnerError):
    """The loss or the weights stopped being finite numbers."""

    exit_code = 8


class StorageError(RunnerError):
    """The disk is full, or the run folder cannot be written."""

    exit_code = 9


class OtherRankError(RunnerError):
    """Another of the processes that work together has failed, and says why itself."""


class InterruptedRunError(RunnerError):
    """The run was asked to stop, saved a checkpoint and left."""

    def __init__(self, message: str, signal_number: int) -> None:
        self.exit_code = 128 + signal_number
        super().__init__(message)


def of_process(code: int, message: str) -> RunnerError:
    """Return the error of another process, which has printed it, by its exit status."""
    kinds = (UsageError, PluginError, DeviceError, DataError, CheckpointError, ArtifactError)
    by_code = {kind.exit_code: kind for kind in (*kinds, NonFiniteError, StorageError)}
    if code > 128:
        error: RunnerError = InterruptedRunError(message, code - 128)
    else:
        error = by_code.get(code, OtherRankError)(message)
    error.exit_code, error.said = code, True
    return error


class StopRun(RunnerError):  # noqa: N818  a wish, as StopIteration is
    """Raised by a listener to end the run.

    A run that trains finishes its step and saves, as where a signal asks; anything else ends with
    this error.
    """

"""The observers of the TensorBoard plugin; tensorboardX is imported when a run starts.

Every call writes and closes an event file of its own below ``<run folder>/tensorboard``: nothing
is open between calls, so a killed run loses nothing, and TensorBoard reads the files as one run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.hooks import hookimpl

if TYPE_CHECKING:
    from runner.contracts import EpochMetrics, RunInfo

RUNNER_REQUIRES = ("tensorboardX",)
RUNNER_INSTALL = "pip install 'vision-runner[tensorboard]'"


@hookimpl
def runner_run_started(run: RunInfo) -> None:
    """Write the recipe, as text."""
    from runner_tensorboard.writer import write_recipe

    write_recipe(run)


@hookimpl
def runner_epoch_finished(run: RunInfo, metrics: EpochMetrics) -> None:
    """Write the epoch's metrics, as scalars over the epochs."""
    from runner_tensorboard.writer import write_metrics

    write_metrics(run, metrics)

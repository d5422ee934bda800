"""The entry of the TensorBoard plugin; tensorboardX is imported when a run starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner import LoggerEntry, hookimpl, lazy

if TYPE_CHECKING:
    from collections.abc import Iterable

RUNNER_REQUIRES = ("tensorboardX",)
RUNNER_INSTALL = "pip install 'vision-runner[tensorboard]'"


@hookimpl
def runner_register_loggers() -> Iterable[LoggerEntry]:
    """Offer curves of every run."""
    yield LoggerEntry(
        name="tensorboard",
        summary="Curves of steps and epochs for TensorBoard",
        always=True,
        open=lazy("runner_tensorboard.writer:TensorBoardLog"),
    )

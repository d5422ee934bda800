"""The hooks that a plugin implements.

A plugin is a module with functions of these names, marked ``@hookimpl``, and an entry point in
the group ``runner.plugins``:

    from runner import ModelEntry, hookimpl, lazy

    @hookimpl
    def runner_register_models():
        build = lazy("my_package.net:build")  # which imports its framework, and is imported late
        yield ModelEntry(name="my_net", framework="torch", summary="My network", build=build)

There is a registration hook for each kind of entry, named in ``runner.plugins.kinds``; the hooks
that observe runs are below. Registration hooks take nothing, return or yield entries, and do no
work: they are called before any framework is imported, also for ``runner list-plugins``. An entry's
name is unique within its kind and framework; a clash is reported with both plugins and neither is
used.

What all entries of a module need, and its observers, it says once. Where a module is missing,
``runner list-plugins`` shows the plugin as unavailable and its observers are not called:

    RUNNER_REQUIRES = ("torch", "timm")
    RUNNER_INSTALL = "pip install my-package[torch]"
    RUNNER_FRAMEWORK = "torch"

``ModuleDefaults`` in ``runner.plugins.checks`` fills them in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from runner.contracts import EpochMetrics, RunInfo

hookspec = pluggy.HookspecMarker("runner")
hookimpl = pluggy.HookimplMarker("runner")


@hookspec
def runner_run_started(run: RunInfo) -> None:
    """Observe that a run starts or continues. Called once, before the first step.

    An observer that raises is reported, switched off for the rest of the run, and never stops it.
    """


@hookspec
def runner_epoch_finished(run: RunInfo, metrics: EpochMetrics) -> None:
    """Observe the end of an epoch, after its evaluation and before its checkpoint."""


@hookspec
def runner_run_failed(run: RunInfo, error: BaseException) -> None:
    """Observe that a run ends with an error or was interrupted."""


@hookspec
def runner_run_finished(run: RunInfo, result: dict[str, object]) -> None:
    """Observe that a run has finished; ``result`` is what ``result.json`` holds."""

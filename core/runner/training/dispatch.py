"""Whether this process carries a run out, or starts one process for each device that does."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner import recipe
from runner.artifacts import export
from runner.distributed import place
from runner.distributed.launching.task import Task
from runner.distributed.ranks import telling_alone
from runner.distributed.reporting import reporter
from runner.errors import DataError, UsageError
from runner.planning import plan
from runner.planning.loading import read_back
from runner.plugins import loading
from runner.storage import checkpoint, paths, rundir
from runner.storage.events import EventLog
from runner.terminal.display import counted
from runner.training import consistency, run
from runner.training import resume as continuing
from runner.training.consistency import ON_REQUEST, RESUMABLE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from runner.distributed.reporting.reporter import Reporter
    from runner.entries import Place
    from runner.planning.loading import Loaded
    from runner.planning.plan import Plan
    from runner.plugins.registry import Registry
    from runner.recipe.schema import Recipe


def start(loaded: Loaded, runs_dir: Path, request: run.Request) -> dict[str, Any] | None:
    """Carry out a recipe; of several processes the one that started them returns the result.

    Raises:
        SystemExit: This is one of several processes, and another one says why all leave.
    """
    own = reporter.of_process()
    with telling_alone(own):
        taken = _take_place(loaded.plan, request, own)
        resolved = _as_launched(loaded.plan, taken)
        needed = place.needs_launch(resolved, taken, request.machines)
    request = replace(request, devices=loaded.plan.recipe.device.count)
    if needed:
        task = Task.of(resolved, request.command, runs_dir, export=request.export)
        return _launch(resolved, runs_dir / resolved.name, request, task)
    return own.hand_over(run.start(resolved, loaded.registry, runs_dir, request))


def _take_place(resolved: Plan, request: run.Request, own: Reporter) -> Place | None:
    """Become a rank where a batch system says so; tell where others are left out."""
    taken = place.take(resolved, request.machines, own)
    alone = place.others_left_out(taken, request.machines, own)
    if alone:
        EventLog(request.listener).emit("warning", message=alone)
    return taken


def resume(path: Path, overrides: Sequence[str], request: run.Request) -> dict[str, Any] | None:
    """Continue a run from a checkpoint, or from its latest; return the result of a finished one.

    Raises:
        UsageError: An override would change what the model sees, the run's recipe was edited, or
            the run is finished and a checkpoint of it is named.
        ArtifactError: The run is finished, and an export of it has failed.
        SystemExit: This is one of several processes, and another one says why all leave.
    """
    own = reporter.of_process()
    with telling_alone(own):
        folder, source = _named(path)
        _check_resumable(overrides)
        manifest = folder.read_manifest()
        registry = loading.load()
        document = recipe.compose(folder.recipe, overrides, environ=os.environ)
        checked = recipe.validate(document, registry)
        resolved = plan.resolve(str(manifest["recipe"]), checked, registry)
        if not own.continues:
            finished = _finished(folder, source, checked, registry)
            if finished is not None:
                continuing.changed(folder, None, checked, overrides, registry)
                return finished if _speaks(resolved) else None
        changed = continuing.changed(folder, source, checked, overrides, registry)
        taken = _take_place(resolved, request, own)
        resolved = _as_launched(resolved, taken)
        needed = place.needs_launch(resolved, taken, request.machines)
    request = replace(request, devices=checked.device.count)
    if needed:
        runs = folder.path.parent
        task = Task.of(resolved, request.command, runs.parent, export=manifest["export"])
        task = replace(task, resumes=str(path), overrides=overrides)
        return _launch(resolved, runs, request, task)
    with _naming_its_folder(folder):
        return own.hand_over(run.resume(resolved, registry, folder, source, request, changed))


def take_part(task: Task, request: run.Request) -> None:
    """Carry out what the process that started this one asks, and hand it the result.

    Raises:
        DeviceError: No launcher, or another one, has started this process.
    """
    own = reporter.of_process()
    with telling_alone(own):
        loaded = read_back(task.name, task.recipe, task.remarks)
        place.needs_launch(loaded.plan, place.rank_of(loaded.plan))
        checked, registry = loaded.plan.recipe, loaded.registry
        if task.resumes:
            folder, source = _named(Path(task.resumes))
            changed = continuing.changed(folder, source, checked, task.overrides, registry)
    request = replace(request, devices=checked.device.count)
    if not task.resumes:
        own.hand_over(run.start(loaded.plan, loaded.registry, Path(task.runs_dir), request))
        return
    with _naming_its_folder(folder):
        own.hand_over(run.resume(loaded.plan, loaded.registry, folder, source, request, changed))


def _named(path: Path) -> tuple[rundir.RunDir, Path | None]:
    """Return the run that a path names, and the checkpoint if it names one."""
    paths.check_there(path, "a run, or one of its checkpoints")
    return rundir.find(path), path if checkpoint.is_complete(path) else None


@contextmanager
def _naming_its_folder(folder: rundir.RunDir) -> Iterator[None]:
    """Say of missing data where the paths of a run begin that was started elsewhere."""
    try:
        yield
    except DataError as error:
        manifest = folder.read_manifest()
        if manifest["folder"] == str(Path.cwd()):
            raise
        moved = DataError(
            f"{error}; the run was started in {manifest['folder']}, where its paths begin"
        )
        moved.rank, moved.exit_code = error.rank, error.exit_code
        raise moved from error


def _finished(
    folder: rundir.RunDir, source: Path | None, checked: Recipe, registry: Registry
) -> dict[str, Any] | None:
    """Return the result of a run that is finished, and is not to train longer than it has."""
    result = folder.read_result()
    if result is None or ("epochs" in result and checked.train and _is_longer(checked, result)):
        return None
    if source:
        raise UsageError(
            f"{folder.path} is finished; to go back to {source}, remove {folder.result} first"
        )
    _refuse_without_effect(folder, checked, result, registry)
    export.check_all(result.get("exports", ()))
    return result


def _refuse_without_effect(
    folder: rundir.RunDir, checked: Recipe, result: Mapping[str, Any], registry: Registry
) -> None:
    """Refuse changes that a finished run has no use for, rather than print its result as theirs."""
    begun = recipe.validate(recipe.compose(folder.recipe, (), environ=os.environ), registry)
    before, here = (consistency.values(item, consistency.RESUMABLE) for item in (begun, checked))
    found = [f"{key}: {old} -> {new}" for key, old, new in consistency.changes(before, here)]
    if not found:
        return
    epochs = result.get("epochs")
    done = f" after {counted(epochs, 'epoch')}" if epochs is not None else ""
    ways = f"start a new run with model.weights={folder.path}"
    if result.get("reached_target"):
        done += ", where it reached train.target_top1"
    elif epochs is not None:
        ways = f"set train.epochs to more than {epochs}, or {ways}"
    raise UsageError(
        f"{folder.path} is finished{done}, so this has no effect: {'; '.join(found)}; to train it "
        f"further, {ways}; `runner eval` and `runner export` evaluate and export it as it is"
    )


def _speaks(resolved: Plan) -> bool:
    """Say whether this process is the first of its machine, or none that a launcher has started."""
    rank = place.rank_of(resolved)
    return rank is None or not rank.local_rank


def _is_longer(checked: Recipe, result: Mapping[str, Any]) -> bool:
    assert checked.train
    return checked.train.epochs > result["epochs"] and not result.get("reached_target")


def _check_resumable(overrides: Sequence[str]) -> None:
    for text in overrides:
        if not text.startswith((*RESUMABLE, *ON_REQUEST)):
            keys = ", ".join(key.rstrip("=.") for key in (*RESUMABLE, *ON_REQUEST))
            raise UsageError(
                f"--set {text} would turn it into a different experiment; only {keys} may change: "
                "start a new run with model.weights instead"
            )


def _as_launched(resolved: Plan, taken: Place | None) -> Plan:
    """Return the plan for as many processes as a launcher has started, where these may be fewer.

    Raises:
        UsageError: They cannot share the batch.
    """
    asked, least = resolved.recipe.device.count, resolved.recipe.distributed.min_devices
    if taken is None or least is None or not least <= taken.world_size < asked:
        return resolved
    return resolved.with_devices(taken.world_size)


def _launch(
    resolved: Plan, folder: Path, request: run.Request, task: Task
) -> dict[str, Any] | None:
    """Start one process for each device, and return the result of the run."""
    # a process that starts no others needs nothing of what watches them
    from runner.distributed.launching import start as launch

    if request.signals:
        request.signals.release()  # a child inherits what is held back
    return launch.carry_out(
        resolved,
        task,
        folder,
        EventLog(request.listener),
        hears=request.signals.numbers if request.signals else (),
        machines=request.machines,
    )

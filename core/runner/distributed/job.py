"""The run of a job, where a launcher that somebody else has started starts its processes again.

Such a launcher (torchrun with ``--max-restarts``) runs the same command each time. The run belongs
to its job, so an attempt continues in the folder that an earlier one has made.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from runner.distributed.reporting import reporter
from runner.errors import CheckpointError
from runner.storage.rundir import RunDir

if TYPE_CHECKING:
    from runner.distributed.ranks import Ranks
    from runner.entries import Job
    from runner.planning.plan import Plan


def describe(plan: Plan) -> dict[str, str] | None:
    """Return what a manifest says of the job (JSON); ``None`` where there is none."""
    job = _job(plan)
    return None if job is None else {"id": job.id, "launcher": _launcher()}


def begun(plan: Plan, runs_dir: Path, ranks: Ranks) -> RunDir | None:
    """Return the run that an earlier attempt has begun; all ranks call this together.

    Not every machine knows that there was one: who has lost a process counts it.
    """
    if ranks.reporter.watched:
        return None
    job = _job(plan)
    if ranks.lowest(job is not None) is None:
        return None
    restarted = ranks.lowest(job is not None and job.restarted) is not None
    found = ranks.lead(lambda: _find(job, runs_dir / plan.name, restarted=restarted))
    path = ranks.share_text(str(found.path.absolute()) if found else "", 0)
    return RunDir(Path(path)) if path else None


def _job(plan: Plan) -> Job | None:
    ask = plan.framework_entry.job
    return None if ask is None or reporter.of_process().watched else ask()


def _find(job: Job | None, folder: Path, *, restarted: bool) -> RunDir | None:
    """Find the latest run of a job in a folder of runs.

    Processes may be started again without being counted, when a machine joins or leaves; they then
    have the launcher that has started the run, on the machine of rank 0.
    """
    for manifest in sorted(folder.glob("*/manifest.json"), reverse=True):
        run = RunDir(manifest.parent)
        if job is not None and _made_by(run) == {"id": job.id, "launcher": _launcher()}:
            return run if restarted or not run.result.exists() else None
        if job is not None and restarted and _made_by(run).get("id") == job.id:
            return run
    return None


def _made_by(run: RunDir) -> dict[str, str]:
    try:
        found: dict[str, str] = run.read_manifest().get("job") or {}
    except CheckpointError:  # one that nobody can continue
        return {}
    return found


def _launcher() -> str:
    """Name the process that has started this one, as no other is named."""
    parent = os.getppid()
    try:
        stat = Path(f"/proc/{parent}/stat").read_text(encoding="utf-8")
        started = stat.rpartition(") ")[2].split()[19]  # in clock ticks after the boot
    except OSError:
        started = ""
    return f"{socket.gethostname()} {parent} {started}".strip()

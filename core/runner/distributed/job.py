"""The run of a job, whose processes something other than ``runner`` starts again.

Such a launcher, as torchrun with ``--max-restarts`` or an operator of Kubernetes, runs the same
command each time. The run belongs to its job, so an attempt continues in the folder that an earlier
one made.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from runner.distributed import place
from runner.errors import CheckpointError
from runner.storage.rundir import RunDir

if TYPE_CHECKING:
    from runner.distributed.ranks import Ranks
    from runner.entries import Attempt
    from runner.planning.plan import Plan


def describe(plan: Plan, ranks: Ranks) -> dict[str, str] | None:
    """Return what a manifest says of the job (JSON); ``None`` where there is none."""
    attempt = place.attempt(plan, ranks.reporter)
    return None if attempt is None else {"id": attempt.job, "launcher": _launcher()}


def begun(plan: Plan, runs_dir: Path, ranks: Ranks) -> RunDir | None:
    """Return the run that an earlier attempt began; all ranks call this together.

    Not every machine knows that there was one: the machine that lost a process counts it.
    """
    attempt = place.attempt(plan, ranks.reporter)
    if ranks.lowest(attempt is not None) is None:
        return None
    counted = ranks.lowest(attempt is not None and bool(attempt.number)) is not None
    found = ranks.lead(lambda: _find(attempt, runs_dir / plan.name, counted=counted))
    path = ranks.share_text(str(found.path.absolute()) if found else "", 0)
    return RunDir(Path(path)) if path else None


def _find(attempt: Attempt | None, folder: Path, *, counted: bool) -> RunDir | None:
    """Find the latest run of a job in a folder of runs.

    A run that is finished is that of a further attempt only where a launcher counts it: the same
    command in the same job may as well ask for another run.
    """
    if attempt is None:
        return None
    for manifest in sorted(folder.glob("*/manifest.json"), reverse=True):
        run = RunDir(manifest.parent)
        made_by = _made_by(run)
        if made_by.get("id") != attempt.job:
            continue
        if counted:
            return run
        known = {"id": True, "launcher": made_by["launcher"] == _launcher(), "count": False}
        if known[attempt.known_by]:
            return None if run.result.exists() else run
    return None


def _made_by(run: RunDir) -> dict[str, str]:
    try:
        found: dict[str, str] = run.read_manifest().get("job") or {}
    except CheckpointError:  # one that nobody can continue
        return {}
    return found


def _launcher() -> str:
    """Name the parent of this process, as no other process is named."""
    parent = os.getppid()
    try:
        stat = Path(f"/proc/{parent}/stat").read_text(encoding="utf-8")
        started = stat.rpartition(") ")[2].split()[19]  # in clock ticks after the boot
    except OSError:
        started = ""
    return f"{socket.gethostname()} {parent} {started}".strip()

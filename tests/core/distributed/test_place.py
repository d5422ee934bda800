"""The place of a process: which launcher is believed, and what a process alone does without."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

from runner.distributed import place
from runner.distributed.machines import Machines
from runner.distributed.reporting.reporter import Reporter
from runner.entries import LauncherEntry, Place
from runner.testing import fake_group

PARENT_ROOMS = ("supervising", "meeting", "slurm", "launching.start")


def launcher(name, **told):
    """Return a launcher that tells everybody the same."""
    shared = told.pop("shared_variables", False)
    found = Place(**told)
    summary = "for a test"
    return LauncherEntry(
        name=name, summary=summary, place=lambda _environ: found, shared_variables=shared
    )


POD = launcher("pod", whole_machine=True, node_rank=1, nodes=2, host="job-0", port=1)
RANK = launcher("rank", rank=3, world_size=4)
BY_HAND = launcher("by_hand", rank=5, world_size=6, shared_variables=True)


def test_a_launcher_in_a_pod_is_believed_before_the_pod_and_both_before_shared_variables(plan):
    def rank(*launchers):
        found = place.find(replace(plan, launchers=launchers))
        return found and found.rank

    assert rank() is None
    assert rank(BY_HAND, POD, RANK) == 3
    assert rank(BY_HAND) == 5
    found = place.find(replace(plan, launchers=(BY_HAND, POD)))
    assert found is not None
    assert found.whole_machine


def test_a_pod_whose_machines_are_named_has_nothing_to_say(plan):
    found = place.find(replace(plan, launchers=(POD,)))
    text = place.others_left_out(found, Machines(), Reporter())
    assert "--nnodes 2 --node-rank 1 --rdzv job-0:1" in text
    assert not place.others_left_out(found, Machines(count=2, port=1), Reporter())
    assert place.rank_of(replace(plan, launchers=(POD,))) is None
    assert place.needs_launch(plan, found)


def test_a_process_that_was_launched_starts_no_others(plan, monkeypatch):
    monkeypatch.setenv(fake_group.WORLD_SIZE, "2")
    assert not place.needs_launch(plan, place.find(plan))


def test_a_run_of_one_process_imports_nothing_that_starts_and_watches_several(project):
    code = (
        "import sys; from runner.cli import main\n"
        f"sys.argv = ['runner', 'run', {str(project.write_recipe())!r}]\n"
        "try: main()\n"
        "except SystemExit as left: assert not left.code, left.code\n"
        f"rooms = tuple('runner.distributed.' + name for name in {PARENT_ROOMS})\n"
        "print([name for name in sys.modules if name.startswith(rooms)], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=project.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip().splitlines()[-1] == "[]"

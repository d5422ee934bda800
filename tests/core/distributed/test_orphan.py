"""What becomes of the processes when the `runner` that has started them is killed."""

from __future__ import annotations

import os
import signal

from runner.testing import fake_group

SLOW = ("--set", "framework.seconds_per_step=0.05", "--set", "train.epochs=100")


def test_all_save_and_leave_when_who_started_them_is_killed(project, launched):
    process = launched.start(*SLOW)
    project.wait_for(project.checkpoints)
    process.kill()
    process.communicate()
    project.wait_for(launched.none_left)
    [interrupted] = [e for e in project.events() if e["event"] == "run.interrupted"]
    assert interrupted["signal"] == signal.SIGINT
    assert interrupted["checkpoint"].endswith(project.checkpoints()[-1].name)


def test_before_they_have_met_they_are_killed(project, launched):
    """One that waits for another would wait long."""
    process = launched.start(*SLOW)
    project.wait_for(lambda: launched.process(**{fake_group.RANK: 1}))
    os.kill(launched.rank(1), signal.SIGSTOP)
    project.wait_for(lambda: launched.process(**{fake_group.RANK: 0}))
    process.kill()
    process.communicate()
    project.wait_for(launched.none_left)
    assert not project.checkpoints()

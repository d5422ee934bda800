"""The answer of a child process is found among what vendors' libraries print."""

from __future__ import annotations

import subprocess
import sys

from runner.plugins import loading, probe


def test_the_answer_is_found_between_other_lines(monkeypatch, capsys):
    found = loading.load(environ={"RUNNER_PLUGINS": "torch"})
    monkeypatch.setattr(loading, "load", lambda: found)
    monkeypatch.setattr(sys, "argv", ["probe", "torch", "cpu"])
    probe.main()
    output = "loading driver ..." + capsys.readouterr().out + '{"freed": 3}\ngoodbye\n'
    done = subprocess.CompletedProcess([], 0, stdout=output, stderr="")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    assert probe.probe("torch", "cpu").available


def test_a_child_that_says_nothing_has_no_device(monkeypatch):
    done = subprocess.CompletedProcess([], 0, stdout="{}\n", stderr="")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    answer = probe.probe("torch", "cpu")
    assert (answer.available, answer.reason) == (False, "the probe ended with status 0: no answer")

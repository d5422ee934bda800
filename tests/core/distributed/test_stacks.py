"""What a process says when it is asked where it is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from runner.distributed.reporting import stacks
from runner.distributed.reporting.channel import STATUS
from runner.distributed.supervising.processes import state

WAITS = """
import os, pathlib, sys, threading
from runner.distributed.reporting import stacks

def wait_in_vain():
    print("waits", flush=True)
    sys.stdin.read()  # a call of the operating system, which Python does not come back from

threading.Thread(target=threading.Event().wait, daemon=True).start()
if "can be asked" in sys.argv:
    stacks.show_on_request(pathlib.Path(os.environ["RUNNER_LAUNCH_STATUS"]))
wait_in_vain()
"""


@pytest.fixture
def waiting(tmp_path):
    """Provide a way to start a process that waits in a call, and what it is known by."""
    status, started = tmp_path / "status", []

    def start(*arguments):
        process = subprocess.Popen(
            [sys.executable, "-c", WAITS, *arguments],
            env={**os.environ, STATUS: str(status)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"waits\n"
        return status, process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_process_that_waits_says_where_all_its_threads_are(waiting):
    status, process = waiting("can be asked")
    _, other = waiting("can be asked")
    answers = stacks.ask(status, [process.pid, other.pid])
    assert answers.keys() == {process.pid, other.pid}
    text = answers[process.pid]
    assert "in wait_in_vain" in text
    assert "in _bootstrap" in text
    calls = stacks.main_thread(text)
    assert [call.function for call in calls] == ["wait_in_vain", "<module>"]
    assert str(calls[0]) == "<string>:7 in wait_in_vain"
    assert state(process.pid) == "S"


def test_one_that_cannot_be_asked_goes_on(waiting):
    status, process = waiting()
    assert stacks.ask(status, [process.pid]) == {}
    assert process.poll() is None


def test_one_that_was_stopped_is_not_waited_for_long(waiting, monkeypatch):
    monkeypatch.setattr(stacks, "ANSWER_S", 0.5)
    status, process = waiting("can be asked")
    os.kill(process.pid, signal.SIGSTOP)
    assert stacks.ask(status, [process.pid]) == {}


def test_a_dump_without_the_main_thread_has_no_calls():
    assert stacks.main_thread("main thread 0x01\n\nThread 0x02 (most recent call first):\n") == []

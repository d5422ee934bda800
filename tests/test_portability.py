"""What a laptop with macOS is asked for works where Linux's own interfaces are taken away.

There is no macOS here. Its absence of ``/proc``, of a process's cores, of descriptors of processes,
and of waiting for signals is; what its own libraries do differently is not.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

WITHOUT_LINUX = """
import os, signal, sys

for module, names in {
    os: ("sched_getaffinity", "sched_setaffinity", "pidfd_open", "posix_fallocate", "memfd_create"),
    signal: ("SIGRTMIN", "SIGRTMAX", "sigtimedwait", "sigwaitinfo", "SIGPWR", "SIGSTKFLT"),
}.items():
    for name in names:
        if hasattr(module, name):
            delattr(module, name)

def hide(event, arguments):
    if event in {"open", "os.listdir", "os.scandir"}:
        if str(arguments[0]).startswith(("/proc", "/sys/")):
            raise FileNotFoundError(2, "No such file or directory", str(arguments[0]))

sys.addaudithook(hide)
"""


@pytest.fixture
def elsewhere(tmp_path):
    """Run the command line where there is no Linux."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(WITHOUT_LINUX, encoding="utf-8")

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "runner", *arguments],
            env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.mark.parametrize(
    "arguments", ["--help", "list-plugins", "list models", "list recipes", "explain quickstart"]
)
def test_looking_needs_no_linux(elsewhere, arguments):
    done = elsewhere(*arguments.split())
    assert (done.returncode, done.stderr) == (0, "")


def test_doctor_needs_no_linux(elsewhere):
    done = elsewhere("doctor", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)


@pytest.mark.parametrize("framework", ["torch", "mindspore"])
def test_training_and_exporting_need_no_linux(elsewhere, framework):
    pytest.importorskip(framework)
    done = elsewhere(
        *("run", "quickstart", "--smoke", "--framework", framework, "--set", "export=null"),
        "--json",
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] > 0


def test_several_processes_say_that_they_need_linux(elsewhere):
    pytest.importorskip("torch")
    done = elsewhere("run", "quickstart", "--devices", "2")
    assert done.returncode == 4
    assert "supervised on Linux only; use --devices 1" in done.stderr

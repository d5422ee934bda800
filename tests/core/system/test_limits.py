"""A limit of the system or of a container is named: no traceback, no wait without end."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from runner.system import limits

PIDS = Path("/sys/fs/cgroup/pids")


def test_what_led_to_an_error_is_looked_at_as_well():
    first = OSError(errno.EMFILE, "zu viele offene Dateien")
    error = RuntimeError("the writer failed")
    error.__cause__ = first
    number = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert limits.hint(error) == f"; a process may have {number} files open (ulimit -n): raise " + (
        "this limit"
    )


def test_other_errors_are_about_no_limit():
    assert not limits.hint(ValueError("too many values"))
    assert not limits.explain("RuntimeError: sizes do not match")


def test_memory_is_a_limit_only_where_there_is_one():
    text = "ImportError: libx.so: failed to map segment from shared object"
    assert resource.getrlimit(resource.RLIMIT_AS)[0] < 0
    assert not limits.explain(text)
    program = f"from runner.system import limits; print(limits.explain({text!r}))"
    done = subprocess.run(
        ["sh", "-c", 'ulimit -v 1048576; exec "$0" -c "$1"', sys.executable, program],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("a process may have 1.0 GiB of addresses (ulimit -v)")


def test_addresses_may_be_what_a_thread_lacks():
    program = 'from runner.system import limits; print(limits.explain("can\'t start new thread"))'
    done = subprocess.run(
        ["sh", "-c", 'ulimit -v 1048576; exec "$0" -c "$1"', sys.executable, program],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("a process may have 1.0 GiB of addresses (ulimit -v)")


def test_the_peak_of_memory_is_that_of_this_process_alone():
    held = bytearray(b"1") * (256 << 20)
    program = (
        "import resource; from runner.framework.memory import peak_host_memory_bytes as peak; "
        "print(peak(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    peak, counted_by_the_system = map(int, done.stdout.split())
    assert 1 << 20 < peak < len(held)
    assert peak <= counted_by_the_system + (1 << 20)


@pytest.fixture
def few_threads():
    """Provide a control group in which there may be two processes or threads."""
    group = PIDS / f"runner-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / "pids.max").write_text("2")
    except OSError:
        pytest.skip("no control group can be made here")
    yield group
    group.rmdir()


ENTER = ("sh", "-c", 'echo $$ > "$1"; shift; exec "$@"', "sh")


def test_threads_that_a_library_could_not_start_are_refused(few_threads):
    program = (
        "from runner.framework.cores import check_threads; check_threads(1); check_threads(2); "
        "print('two'); check_threads(3)"
    )
    done = subprocess.run(
        [*ENTER, str(few_threads / "cgroup.procs"), sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "two\n", done.stderr
    assert done.stderr.splitlines()[-1] == (
        "runner.errors.DeviceError: this device computes with 3 threads, and this process can "
        "have 2"
    )


def test_a_run_that_may_start_no_thread_says_so(project, few_threads):
    command = (sys.executable, "-m", "runner", "train", str(project.write_recipe()))
    done = subprocess.run(
        [*ENTER, str(few_threads / "cgroup.procs"), *command],
        env={**project.environment, "RUNNER_PLUGINS": "fake,data,tensorboard"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: RuntimeError: can't start new thread; there may be 2 processes")
    assert "pids.max" in last


def test_files_that_cannot_be_opened_are_counted(project):
    limited = ["sh", "-c", 'ulimit -n 6; exec "$@"', "sh"]
    done = subprocess.run(
        [*limited, sys.executable, "-m", "runner", "train", str(project.write_recipe())],
        env=project.environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert "a process may have 6 files open (ulimit -n)" in done.stderr

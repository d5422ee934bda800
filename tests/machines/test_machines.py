"""The network that the other tests of this folder use is what they take it for."""

from __future__ import annotations

import sys
from pathlib import Path

CONNECT = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], 9), 1)
except ConnectionRefusedError:
    print("refused")
except OSError:
    pass
"""


def reaches(machine, other):
    """Say whether a machine comes through to another one, where nothing listens."""
    return "refused" in machine.do(sys.executable, "-c", CONNECT, other.address)


def test_they_reach_each_other_and_nobody_else_until_the_cable_is_cut(machines):
    names = [machine.do("hostname").strip() for machine in machines]
    assert names == ["machine-0", "machine-1"]
    machines.wait_for(lambda: reaches(*machines))
    machines.wait_for(lambda: reaches(machines[1], machines[0]))
    assert machines[0].do("ip", "route", "show", "default") == ""
    machines.cut()
    assert not reaches(*machines)
    machines.join()
    machines.wait_for(lambda: reaches(*machines))


def test_what_runs_on_a_machine_is_known_and_ends_with_it(machines, tmp_path):
    script = "setsid sleep 100 & sleep 100"  # one of them leaves its session
    child = machines[1].start("sh", "-c", script, cwd=tmp_path)
    machines.wait_for(lambda: len(machines[1].processes()) == 3)
    assert child.pid in machines[1].processes()
    assert machines[0].processes() == []
    machines[1].clear()
    assert machines[1].processes() == []
    assert not Path(f"/proc/{child.pid}").exists()

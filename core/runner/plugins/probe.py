"""Asking whether a device is there, in a child process.

Importing a vendor's package can fail, print, hang or end the process: none of that may reach the
command that asks.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict

from runner.contracts import Availability
from runner.entries import DeviceEntry
from runner.plugins import loading
from runner.plugins.returns import check_instance, origin
from runner.system import interpreter

TIMEOUT_S = 120
MARKER = "runner-probe: "
"""What the answer begins with; vendors' libraries print before and after it."""


def probe(framework: str, device: str) -> Availability:
    """Probe a device entry in a child process; never raises."""
    command = interpreter.module("runner.plugins.probe", framework, device)
    try:
        child = subprocess.run(
            command.arguments,
            env={**os.environ, **command.environment},
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Availability(available=False, reason=f"no answer within {TIMEOUT_S} s")
    lines = [line for line in child.stdout.splitlines() if line.startswith(MARKER)]
    if child.returncode == 0 and lines:
        answer = json.loads(lines[-1].removeprefix(MARKER))
        return Availability(**answer)
    words = child.stderr.strip().splitlines()
    detail = words[-1] if words else "no answer"
    return Availability(
        available=False, reason=f"the probe ended with status {child.returncode}: {detail}"
    )


def main() -> None:
    """Probe the device named on the command line and print the answer as JSON."""
    framework, device = sys.argv[1:]
    registered = loading.load().find(DeviceEntry, device, framework)
    found = (
        Availability(available=False, reason=registered.reason)
        if registered.reason
        else check_instance(
            registered.entry.probe(), Availability, f"{origin(registered)}, probe()"
        )
    )
    sys.stdout.write(f"\n{MARKER}{json.dumps(asdict(found))}\n")
    sys.stdout.flush()  # before anything that a library prints when the process ends


if __name__ == "__main__":
    main()

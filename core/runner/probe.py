"""Asking whether a device is there, in a child process.

Importing a vendor's package can fail, print, hang or end the process: none of that may reach the
command that asks.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, cast

from runner import plugins
from runner.contracts import Availability

if TYPE_CHECKING:
    from runner.entries import DeviceEntry

TIMEOUT_S = 120


def probe(framework: str, device: str) -> Availability:
    """Probe a device entry in a child process; never raises."""
    command = [sys.executable, "-m", "runner.probe", framework, device]
    try:
        child = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return Availability(available=False, reason=f"no answer within {TIMEOUT_S} s")
    lines = child.stdout.strip().splitlines()
    if child.returncode == 0 and lines:
        answer = json.loads(lines[-1])
        return Availability(available=answer["available"], reason=answer["reason"])
    words = child.stderr.strip().splitlines()
    detail = words[-1] if words else "no output"
    return Availability(
        available=False, reason=f"the probe ended with status {child.returncode}: {detail}"
    )


def main() -> None:
    """Probe the device named on the command line and print the answer as JSON."""
    framework, device = sys.argv[1:]
    registered = plugins.load().registry.find("device", device, framework)
    entry = cast("DeviceEntry", registered.entry)
    found = (
        Availability(available=False, reason=registered.reason)
        if registered.reason
        else entry.probe()
    )
    sys.stdout.write(json.dumps({"available": found.available, "reason": found.reason}) + "\n")


if __name__ == "__main__":
    main()

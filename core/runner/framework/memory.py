"""Memory of the host that a process has taken."""

from __future__ import annotations

import re
import resource
import sys
from pathlib import Path

STATUS = Path("/proc/self/status")


def peak_host_memory_bytes() -> int:
    """Return the most memory that this process has held.

    ``ru_maxrss`` counts that of the parent as well: Linux keeps it when another program takes the
    place of one. macOS has nothing else, and counts bytes there.
    """
    try:
        found = re.search(
            r"^VmHWM:\s*(\d+) kB$", STATUS.read_text("utf-8", "replace"), re.MULTILINE
        )
    except OSError:
        found = None
    if found:
        return int(found[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024

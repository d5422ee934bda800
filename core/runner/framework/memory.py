"""Memory of the host that a process has taken."""

from __future__ import annotations

import re
import resource
from pathlib import Path

STATUS = Path("/proc/self/status")


def peak_host_memory_bytes() -> int:
    """Return the most memory that this process has held.

    ``ru_maxrss`` counts that of the process that has started this one as well: Linux keeps it when
    another program takes the place of one.
    """
    try:
        found = re.search(
            r"^VmHWM:\s*(\d+) kB$", STATUS.read_text("utf-8", "replace"), re.MULTILINE
        )
    except OSError:
        found = None
    kib = int(found[1]) if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kib * 1024

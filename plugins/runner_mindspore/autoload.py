"""Import MindSpore with its known traps disarmed.

All modules of this plugin take it from here. Each precaution is taken only where it
applies, never over a variable that the user has set, and adds a sentence to ``ADJUSTMENTS``, which
reports and manifests show:

- NumPy 2 is refused: the wheels of MindSpore allow it, but are compiled for NumPy 1, and fail
  later and elsewhere.
- oneDNN is kept from AVX-512 with MindSpore 2.9 and newer: the version they bundle computes
  convolutions with a reference kernel there, a hundred times slower than with AVX2.
- What MindSpore writes when a graph cannot be compiled goes to a temporary folder; by default it
  goes to the working directory.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from importlib import metadata
from pathlib import Path

import numpy as np

from runner.errors import PluginError

ADJUSTMENTS: list[str] = []
"""What was changed for MindSpore in this process, one sentence each."""

ISA_VARIABLES = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
"""Environment variables that limit the instructions oneDNN uses; torch's oneDNN reads them too."""
SLOW_SINCE = (2, 9)
"""First version whose oneDNN is slow with AVX-512."""


def check_numpy(version: str) -> None:
    """Refuse versions of NumPy that MindSpore does not work with.

    Raises:
        PluginError: It is 2 or newer.
    """
    if int(version.partition(".")[0]) >= 2:
        raise PluginError(
            f"MindSpore works with NumPy 1 only, found numpy {version}: its wheels allow NumPy 2 "
            "but are compiled for NumPy 1; run: pip install 'numpy>=1.26,<2'"
        )


def instruction_limit(mindspore_version: str, cpu_flags: set[str]) -> str | None:
    """Return the instructions that oneDNN must be limited to on this machine, if any.

    Args:
        mindspore_version: Such as ``2.10.0``.
        cpu_flags: What the processor can do, as in ``/proc/cpuinfo``.
    """
    major, minor = (int(part) for part in mindspore_version.split(".")[:2])
    slow = (major, minor) >= SLOW_SINCE and "avx512f" in cpu_flags
    return "AVX2" if slow and not any(name in os.environ for name in ISA_VARIABLES) else None


def _cpu_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    return next((set(line.split()) for line in lines if line.startswith("flags")), set())


def _limit_instructions() -> None:
    version = metadata.version("mindspore")
    limit = instruction_limit(version, _cpu_flags())
    if limit is not None:
        os.environ[ISA_VARIABLES[0]] = limit
        ADJUSTMENTS.append(
            f"{ISA_VARIABLES[0]}={limit}: the oneDNN of mindspore {version} computes convolutions "
            "with a reference kernel where it uses AVX-512; set the variable to decide otherwise"
        )


def _redirect_analysis() -> None:
    if "MS_OM_PATH" in os.environ:
        return
    # Made by MindSpore where it has something to write: a process that is killed leaves none.
    folder = Path(tempfile.gettempdir()) / f"mindspore-{secrets.token_hex(8)}"
    os.environ["MS_OM_PATH"] = str(folder)
    ADJUSTMENTS.append(
        f"MS_OM_PATH is a folder below {tempfile.gettempdir()}: what MindSpore writes when a graph "
        "cannot be compiled goes there, not to the working directory; set the variable to decide "
        "otherwise"
    )


check_numpy(np.__version__)
_limit_instructions()
_redirect_analysis()

import mindspore as ms  # noqa: E402  after the variables above, which it reads
from mindspore import Tensor, nn, ops  # noqa: E402

__all__ = ["ADJUSTMENTS", "Tensor", "ms", "nn", "ops"]

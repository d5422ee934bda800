"""What is said when torch fails."""

from __future__ import annotations

import re

from runner.framework.failures import Wording
from runner_torch.autoload import torch

ONE_VALUE = "Expected more than 1 value per channel when training"
"""How the message of batch normalisation begins that has one value to normalise over."""

_ESCAPE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def reason(error: BaseException) -> str:
    """Return the first line of what went wrong first; torch wraps it in pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return _named(error, str(error))


def _named(error: BaseException, text: str) -> str:
    line = _ESCAPE.sub("", text).strip().partition("\n")[0]
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


WORDING = Wording(
    framework="torch",
    memory=re.compile(r"out of memory|can't allocate memory|not enough memory|bad_alloc"),
    memory_errors=(MemoryError, torch.OutOfMemoryError),
    kernel=re.compile(
        r"not implemented for|Could not run '|not (currently )?(supported|implemented)"
        r"|no kernel image|[Uu]nsupported (dtype|type)"
    ),
    shape=re.compile(r"\b(size|shape|dimension|height|width|channel)s?\b", re.IGNORECASE),
    reason=reason,
)

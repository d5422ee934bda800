"""What MindSpore says, in a form that fits into one of our messages."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from typing import TYPE_CHECKING

from runner.framework.failures import Wording

if TYPE_CHECKING:
    from collections.abc import Iterator


def reason(error: BaseException) -> str:
    """Return the class and first line of an error, with its heading where it has one.

    MindSpore draws lines around headings, and adds frames of C++ below.
    """
    lines = [line.strip().removeprefix("- ") for line in str(error).splitlines()]
    said = [line for line in lines if line.strip("-")]
    first = " ".join(said[: 2 if said and said[0].endswith(":") else 1])
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


WORDING = Wording(
    framework="MindSpore",
    memory=re.compile(
        "out of memory|memory not enough|malloc|allocate memory failed", re.IGNORECASE
    ),
    kernel=re.compile(
        r"not support|unsupported|select.{0,40}kernel.{0,40}fail|kernel.{0,40}not (found|exist)",
        re.IGNORECASE,
    ),
    shape=re.compile(r"\b(size|shape|dimension|height|width|channel)s?\b", re.IGNORECASE),
    reason=reason,
)


@contextlib.contextmanager
def quiet() -> Iterator[list[str]]:
    """Collect what MindSpore's Python code logs, line by line, in place of printing it.

    It explains at length, on standard error, why a device that is merely asked for is not there.
    """
    lines: list[str] = []

    def collect(record: logging.LogRecord) -> bool:
        lines.extend(line for line in record.getMessage().splitlines() if line)
        return False

    logger = logging.getLogger(f"ME.mindspore.log.{os.getpid()}")  # the name that MindSpore uses
    logger.addFilter(collect)
    try:
        yield lines
    finally:
        logger.removeFilter(collect)

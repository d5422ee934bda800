"""Python programs that this one starts: the command, and what changes in their environment."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from runner.entries import Command
from runner.system.own_path import without_empty

if TYPE_CHECKING:
    from collections.abc import Sequence

BOOT = str(Path(__file__).with_name("boot.py"))
"""Script that runs a module; a launcher that starts scripts is given it and ``runner``."""


def module(name: str, *arguments: str) -> Command:
    """Return what runs a module in this interpreter.

    It searches the folders that ``PYTHONPATH`` names and those of the environment, and not the
    current one, where files may have the names of modules.

    Args:
        name: The module, such as ``runner.plugins.probe``.
        arguments: What it finds in ``sys.argv``.
    """
    return Command(arguments=[sys.executable, BOOT, name, *arguments], environment=environment())


def environment() -> dict[str, str]:
    """Return the variables that differ for a child, in whatever way Python is started in it."""
    given = os.environ.get("PYTHONPATH", "")
    kept = without_empty(given)
    return {} if kept == given else {"PYTHONPATH": kept}


def program(arguments: Sequence[str]) -> str:
    """Return what people call a command: the module it runs, or its program."""
    return arguments[2] if arguments[1:2] == [BOOT] else arguments[0]
